//! ONNX Runtime's values and errors, owned: tensors made over our bytes, and bytes taken out of its tensors.

use std::{
    ffi::{CStr, c_void},
    ptr::{self, NonNull},
    sync::Arc,
};

use bytes::{BufMut, Bytes, BytesMut};
use ort_sys::{ONNXTensorElementDataType as Element, OrtApi, OrtErrorCode, OrtStatusPtr, OrtValue};
use smallvec::SmallVec;

use super::{library::Library, session::Inner};
use crate::types::{
    datatype::Datatype,
    tensor::{Dims, Tensor, TensorView, bytes_elements, element_count},
};

/// Outputs up to this size are copied; larger ones stay in the runtime's memory, which they keep alive.
const COPY_UP_TO: usize = 1024;

/// What ONNX Runtime says went wrong.
#[derive(Debug)]
pub struct Failure {
    /// It calls an argument of ours invalid.
    pub invalid: bool,
    pub message: String,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { invalid: false, message: message.into() }
    }

    fn invalid(message: impl Into<String>) -> Failure {
        Failure { invalid: true, message: message.into() }
    }
}

/// A status as a result; releases it.
#[inline]
pub fn check(api: &OrtApi, status: OrtStatusPtr) -> Result<(), Failure> {
    if status.0.is_null() { Ok(()) } else { Err(failure(api, status)) }
}

#[cold]
fn failure(api: &OrtApi, status: OrtStatusPtr) -> Failure {
    // SAFETY: the status is not null and ours; its text is copied before it is released, once.
    unsafe {
        let invalid = matches!((api.GetErrorCode)(status.0), OrtErrorCode::ORT_INVALID_ARGUMENT);
        let message = CStr::from_ptr((api.GetErrorMessage)(status.0)).to_string_lossy();
        let message = readable(&message);
        (api.ReleaseStatus)(status.0);
        Failure { invalid, message }
    }
}

/// Without the source files of the machine that built the library, and not without end.
pub fn readable(message: &str) -> String {
    let words = message.split_whitespace().filter(|word| !word.contains("/onnxruntime/core/"));
    let mut text = words.collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = text.char_indices().nth(1000) {
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// An OrtValue that is ours to release.
pub struct Value {
    api: &'static OrtApi,
    pointer: NonNull<OrtValue>,
}

// SAFETY: an OrtValue is reference-counted memory without thread affinity.
unsafe impl Send for Value {}
// SAFETY: nothing here changes it but `tensor` before anybody else sees it.
unsafe impl Sync for Value {}

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: ours, and released once.
        unsafe { (self.api.ReleaseValue)(self.pointer.as_ptr()) };
    }
}

impl Value {
    /// Takes over what the runtime made; `None` where it made nothing.
    ///
    /// # Safety
    /// `pointer` is null or a value that nobody else releases.
    pub unsafe fn take(api: &'static OrtApi, pointer: *mut OrtValue) -> Option<Value> {
        NonNull::new(pointer).map(|pointer| Value { api, pointer })
    }

    pub fn as_ptr(&self) -> *mut OrtValue {
        self.pointer.as_ptr()
    }

    /// A tensor for one run. Unless it is BYTES, it points into `view`'s data.
    ///
    /// # Safety
    /// The value must not outlive `view.data`, and nothing may write through it.
    pub unsafe fn tensor(library: &Library, view: &TensorView<'_>) -> Result<Value, Failure> {
        let api = library.api;
        let count = element_count(view.dims)
            .ok_or_else(|| Failure::invalid(format!("no tensor has the shape {:?}", view.dims)))?;
        let Some(size) = view.datatype.size() else { return strings(api, view, count) };
        if count.checked_mul(size) != Some(view.data.len()) {
            return Err(Failure::invalid(format!(
                "a {} tensor of shape {:?} came with {} bytes",
                view.datatype,
                view.dims,
                view.data.len()
            )));
        }
        if count > 0 && !view.data.as_ptr().addr().is_multiple_of(size) {
            return Err(Failure::new("an input is not aligned to its elements"));
        }
        if view.datatype == Datatype::Bool && view.data.iter().any(|b| *b > 1) {
            return Err(Failure::invalid("a BOOL is neither 0 nor 1"));
        }
        let mut out = ptr::null_mut();
        // SAFETY: the pointers and lengths are those of live slices; the runtime reads the data as `size`-byte elements,
        // which it is long enough and aligned for. The cast drops const: an input is not written (the caller's promise).
        let status = unsafe {
            (api.CreateTensorWithDataAsOrtValue)(
                library.memory(),
                view.data.as_ptr().cast_mut().cast::<c_void>(),
                view.data.len(),
                view.dims.as_ptr(),
                view.dims.len(),
                element(view.datatype),
                &mut out,
            )
        };
        check(api, status)?;
        // SAFETY: just made, for us.
        unsafe { Value::take(api, out) }.ok_or_else(|| Failure::new("no tensor was made"))
    }

    /// The tensor in it. `inputs` are the bytes that inputs pointed to: an output may be one of them, and is copied then.
    pub fn into_tensor(self, session: &Arc<Inner>, inputs: &[&[u8]]) -> Result<Tensor, Failure> {
        let (datatype, dims) = self.kind()?;
        let count = element_count(&dims)
            .ok_or_else(|| Failure::new(format!("it has the shape {:?}", &*dims)))?;
        let Some(size) = datatype.size() else {
            return Ok(Tensor { datatype, dims, data: self.framed(count)? });
        };
        let len = count.checked_mul(size).ok_or_else(|| Failure::new("it is too large"))?;
        let mut start = ptr::null_mut();
        // SAFETY: it is a tensor, and not one of strings.
        let status = unsafe { (self.api.GetTensorMutableData)(self.as_ptr(), &mut start) };
        check(self.api, status)?;
        if len == 0 || start.is_null() {
            return Ok(Tensor { datatype, dims, data: Bytes::new() });
        }
        // SAFETY: a tensor of this shape and type has so many bytes at `start`, which live as long as the value (or the
        // input that it shares them with, which the caller keeps alive while this runs).
        let data = unsafe { std::slice::from_raw_parts(start.cast::<u8>().cast_const(), len) };
        let data = if len <= COPY_UP_TO || inputs.iter().any(|i| overlap(i, data)) {
            Bytes::copy_from_slice(data)
        } else {
            let data = NonNull::from(data);
            Bytes::from_owner(Owner { data, _value: self, _session: session.clone() })
        };
        Ok(Tensor { datatype, dims, data })
    }

    fn kind(&self) -> Result<(Datatype, Dims), Failure> {
        let api = self.api;
        let mut is_tensor = 0;
        // SAFETY: the value is live, the place valid.
        let status = unsafe { (api.IsTensor)(self.as_ptr(), &mut is_tensor) };
        check(api, status)?;
        if is_tensor == 0 {
            return Err(Failure::new("it is not a tensor"));
        }
        let mut info = ptr::null_mut();
        // SAFETY: the value is live, the place valid.
        let status = unsafe { (api.GetTensorTypeAndShape)(self.as_ptr(), &mut info) };
        check(api, status)?;
        // As a plain number: a library newer than the binding may know more types than its enum does.
        let mut kind = 0i32;
        let (mut rank, mut dims) = (0, Dims::new());
        // SAFETY: `info` is live until it is released at the end, once; the enum is an `i32`; `dims` has room for `rank`
        // numbers.
        let result = unsafe {
            check(api, (api.GetTensorElementType)(info, (&raw mut kind).cast()))
                .and_then(|()| check(api, (api.GetDimensionsCount)(info, &mut rank)))
                .and_then(|()| {
                    dims.resize(rank, 0);
                    check(api, (api.GetDimensions)(info, dims.as_mut_ptr(), rank))
                })
        };
        // SAFETY: as above.
        unsafe { (api.ReleaseTensorTypeAndShapeInfo)(info) };
        result?;
        let datatype = crate::runtime::graph::datatype(i64::from(kind))
            .map_err(|name| Failure::new(format!("it is a tensor of {name}")))?;
        Ok((datatype, dims))
    }

    /// The strings of a tensor in our framing: `u32` length, bytes, element after element.
    fn framed(&self, count: usize) -> Result<Bytes, Failure> {
        if count == 0 {
            return Ok(Bytes::new());
        }
        let (api, mut total) = (self.api, 0);
        // SAFETY: a live tensor of strings; the place is valid.
        let status = unsafe { (api.GetStringTensorDataLength)(self.as_ptr(), &mut total) };
        check(api, status)?;
        let mut text = vec![0u8; total];
        let mut offsets = vec![0usize; count];
        // SAFETY: both buffers have the lengths given with them.
        let status = unsafe {
            (api.GetStringTensorContent)(
                self.as_ptr(),
                text.as_mut_ptr().cast::<c_void>(),
                total,
                offsets.as_mut_ptr(),
                count,
            )
        };
        check(api, status)?;
        let mut out = BytesMut::with_capacity(total + 4 * count);
        for (i, start) in offsets.iter().enumerate() {
            let end = offsets.get(i + 1).copied().unwrap_or(total);
            let element =
                text.get(*start..end).ok_or_else(|| Failure::new("its strings overlap"))?;
            let len = u32::try_from(element.len())
                .map_err(|_| Failure::new("it holds a string of more than 4 GiB"))?;
            out.put_u32_le(len);
            out.put_slice(element);
        }
        Ok(out.freeze())
    }
}

/// A tensor of strings, copied element by element: they may hold any bytes.
fn strings(api: &'static OrtApi, view: &TensorView<'_>, count: usize) -> Result<Value, Failure> {
    // First the count, so that a shape alone makes nobody allocate.
    let framed = bytes_elements(view.data).filter(Option::is_some).count();
    let broken = bytes_elements(view.data).any(|e| e.is_none());
    if broken || framed != count {
        return Err(Failure::invalid(format!(
            "a BYTES tensor of shape {:?} came with {framed} elements{}",
            view.dims,
            if broken { " and a broken one" } else { "" }
        )));
    }
    let (mut allocator, mut out) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: valid places; the default allocator is the library's own and is never released.
    let status = unsafe { (api.GetAllocatorWithDefaultOptions)(&mut allocator) };
    check(api, status)?;
    // SAFETY: `dims` is a live slice of that length.
    let status = unsafe {
        (api.CreateTensorAsOrtValue)(
            allocator,
            view.dims.as_ptr(),
            view.dims.len(),
            Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
            &mut out,
        )
    };
    check(api, status)?;
    // SAFETY: just made, for us.
    let value =
        unsafe { Value::take(api, out) }.ok_or_else(|| Failure::new("no tensor was made"))?;
    for (i, element) in bytes_elements(view.data).flatten().enumerate() {
        let mut buffer = ptr::null_mut();
        // SAFETY: `i` is below the tensor's element count.
        let status = unsafe {
            (api.GetResizedStringTensorElementBuffer)(value.as_ptr(), i, element.len(), &mut buffer)
        };
        check(api, status)?;
        // SAFETY: the buffer has room for as many bytes as were asked for.
        unsafe {
            ptr::copy_nonoverlapping(element.as_ptr(), buffer.cast::<u8>(), element.len());
        }
    }
    Ok(value)
}

/// Memory of an output. Fields are dropped in this order: the value before the session whose allocator it came from.
struct Owner {
    data: NonNull<[u8]>,
    _value: Value,
    _session: Arc<Inner>,
}

// SAFETY: `data` belongs to the value, which is Send; it is read only.
unsafe impl Send for Owner {}
// SAFETY: as above.
unsafe impl Sync for Owner {}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the value that owns the bytes lives as long as `self`, and nobody writes them.
        unsafe { self.data.as_ref() }
    }
}

fn overlap(a: &[u8], b: &[u8]) -> bool {
    let (a, b) = (a.as_ptr_range(), b.as_ptr_range());
    a.start < b.end && b.start < a.end
}

/// ONNX Runtime's element type of a datatype.
pub fn element(datatype: Datatype) -> Element {
    match datatype {
        Datatype::Bool => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        Datatype::Uint8 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        Datatype::Uint16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        Datatype::Uint32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        Datatype::Uint64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        Datatype::Int8 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        Datatype::Int16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        Datatype::Int32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        Datatype::Int64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        Datatype::Fp16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        Datatype::Fp32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        Datatype::Fp64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        Datatype::Bf16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        Datatype::Bytes => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
    }
}

/// Values of a run's inputs and the bytes they point to.
#[derive(Default)]
pub struct Inputs<'a> {
    pub values: SmallVec<[Value; 4]>,
    pub bytes: SmallVec<[&'a [u8]; 4]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn element_types_are_the_graphs_numbers() {
        for datatype in Datatype::ALL {
            assert_eq!(crate::runtime::graph::datatype(element(datatype) as i64), Ok(datatype));
        }
    }

    #[test]
    fn messages_are_cleaned_and_bounded() {
        let text = "Non-zero status /src/onnxruntime/core/framework/x.cc:12 void f() bad\n input";
        assert_eq!(readable(text), "Non-zero status void f() bad input");
        assert_eq!(readable(&"x".repeat(5000)).len(), 1003);
    }

    #[test]
    fn overlap_is_by_bytes() {
        let data = [0u8; 8];
        assert!(overlap(&data[..4], &data[3..]));
        assert!(!overlap(&data[..4], &data[4..]));
        assert!(!overlap(&data[2..2], &data[4..]));
    }
}
