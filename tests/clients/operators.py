#!/usr/bin/env python3
"""Asks a server every operator test case that make_operators.py kept: over gRPC, over HTTP binary and over HTTP JSON.

operators.py HTTP GRPC CASES [--count]: with --count it only says how many cases pass, else a failure ends it with 1."""
import http.client
import json
import pickle
import sys
from collections import Counter
from urllib.parse import quote

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb, service_pb2_grpc

from tensors import NAME, NUMPY, alike, array, raw, strings, unraw


def over_grpc(stub, _, name, inputs, outputs):
    tensors = [
        pb.ModelInferRequest.InferInputTensor(name=n, datatype=NAME[a.dtype], shape=a.shape) for n, a in inputs
    ]
    wanted = [pb.ModelInferRequest.InferRequestedOutputTensor(name=n) for n in outputs]
    answer = stub.ModelInfer(
        pb.ModelInferRequest(
            model_name=name, inputs=tensors, outputs=wanted, raw_input_contents=[raw(a) for _, a in inputs]
        ),
        timeout=60,
    )
    given = zip(answer.outputs, answer.raw_output_contents, strict=True)
    return {o.name: unraw(data, o.datatype, tuple(o.shape)) for o, data in given}


def over_binary(_, connection, name, inputs, outputs):
    tensors = [{**head(n, a), "parameters": {"binary_data_size": len(raw(a))}} for n, a in inputs]
    wanted = [{"name": n, "parameters": {"binary_data": True}} for n in outputs]
    text = json.dumps({"inputs": tensors, "outputs": wanted}).encode()
    headers, body = post(connection, name, text + b"".join(raw(a) for _, a in inputs), len(text))
    size = int(headers.get("Inference-Header-Content-Length", len(body)))
    answer, at = {}, size
    for o in json.loads(body[:size])["outputs"]:
        # Without bytes it may be JSON as any other.
        end = at + o.get("parameters", {}).get("binary_data_size", 0)
        answer[o["name"]] = unraw(body[at:end], o["datatype"], o["shape"])
        at = end
    return answer


def over_json(_, connection, name, inputs, outputs):
    tensors = [{**head(n, a), "data": values(a)} for n, a in inputs]
    text = json.dumps({"inputs": tensors, "outputs": [{"name": n} for n in outputs]}).encode()
    _, body = post(connection, name, text)
    return {o["name"]: unlisted(o) for o in json.loads(body)["outputs"]}


def head(name, a):
    return {"name": name, "datatype": NAME[a.dtype], "shape": list(a.shape)}


def values(a):
    if a.dtype == object:
        return [v.decode() for v in a.ravel()]
    return (a.astype(np.float64) if NAME[a.dtype] in ("FP16", "BF16") else a).ravel().tolist()


def unlisted(output):
    data, datatype, shape = output["data"], output["datatype"], output["shape"]
    if datatype == "BYTES":
        return strings([v.encode() for v in data], shape)
    if "FP" in datatype or datatype == "BF16":
        data = [float(v) for v in data]  # "NaN" and "Infinity" are strings
    return np.array(data, np.float64 if datatype in ("FP16", "BF16") else NUMPY[datatype]).astype(NUMPY[datatype]).reshape(shape)


def post(connection, name, body, json_size=None):
    headers = {} if json_size is None else {"Inference-Header-Content-Length": str(json_size)}
    connection.request("POST", f"/v2/models/{quote(name, safe='')}/infer", body, headers)
    answer = connection.getresponse()
    data = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status} {data.decode()}")
    return answer.headers, data


PROTOCOLS = {"gRPC": over_grpc, "HTTP binary": over_binary, "HTTP JSON": over_json}


def wrong(ask, stub, connection, case):
    """What is wrong with the answers to a case; None where they are as expected."""
    name, ins, outs, sets, rtol, atol = case
    for inputs, expected in sets:
        try:
            answer = ask(stub, connection, name, list(zip(ins, inputs, strict=True)), outs)
        except (RuntimeError, grpc.RpcError) as error:
            return str(error)[:300]
        for n, e in zip(outs, expected, strict=True):
            if n not in answer:
                return f"no output {n!r}"
            if not alike(answer[n], e, rtol, atol):
                return f"{n}: {answer[n].dtype} {answer[n].shape}, expected {e.dtype} {e.shape} and its values"
    return None


def main(http_address, grpc_address, cases, *flags):
    with open(cases, "rb") as f:
        cases = pickle.load(f)
    connection = http.client.HTTPConnection(http_address, timeout=60)
    failures, passed = [], Counter()
    with grpc.insecure_channel(grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for case in cases:
            for protocol, ask in PROTOCOLS.items():
                why = wrong(ask, stub, connection, case)
                passed[protocol] += why is None
                if why is not None:
                    failures.append(f"{case[0]} over {protocol}: {why}")
    print(f"{len(cases)} cases:", ", ".join(f"{passed[p]} pass over {p}" for p in PROTOCOLS))
    if failures and "--count" not in flags:
        print("\n".join(failures))
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
