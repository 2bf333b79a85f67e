"""Fixtures of the client tests: Triton's clients, connected to the server whose addresses the environment gives."""
import pytest
import tritonclient.grpc
import tritonclient.http

import support


@pytest.fixture
def http_client():
    with tritonclient.http.InferenceServerClient(support.HTTP, concurrency=4) as client:
        yield client


@pytest.fixture
def grpc_client():
    with tritonclient.grpc.InferenceServerClient(support.GRPC) as client:
        yield client


@pytest.fixture
def stub():
    """The service as protoc generates it, for what the client's own classes cannot say."""
    import grpc
    from tritonclient.grpc import service_pb2_grpc

    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(support.GRPC, options=unlimited) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)
