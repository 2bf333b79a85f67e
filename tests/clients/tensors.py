"""The protocol's datatypes in NumPy, and how near two tensors must be. Needs no server."""
import ml_dtypes
import numpy as np

NUMPY = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
NAME = {np.dtype(v): k for k, v in NUMPY.items()}


def array(value):
    """As it travels: strings as bytes, a NumPy scalar as an array without dimensions."""
    a = np.asarray(value)
    if a.dtype.kind not in "OU":
        return a
    out = np.empty(a.size, dtype=object)
    out[:] = [v if isinstance(v, bytes) else str(v).encode() for v in a.ravel()]
    return out.reshape(a.shape)


def raw(a):
    """The bytes of a tensor on the wire."""
    if a.dtype == object:
        return b"".join(len(v).to_bytes(4, "little") + v for v in a.ravel())
    return np.ascontiguousarray(a).tobytes()


def unraw(data, datatype, shape):
    """The tensor of these bytes."""
    if datatype != "BYTES":
        return np.frombuffer(data, NUMPY[datatype]).reshape(shape)
    values, at = [], 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        values.append(data[at + 4 : end])
        at = end
    return strings(values, shape)


def strings(values, shape):
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out.reshape(shape)


def alike(a, b, rtol, atol):
    """Of one type and shape, and as near as the tolerances say; NaN is NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind in "Obiu":
        return np.array_equal(a, b)
    return np.allclose(a.astype(np.float64), b.astype(np.float64), rtol=rtol, atol=atol, equal_nan=True)
