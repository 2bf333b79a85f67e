"""Triton's clients over TLS, with a client certificate: what works without it works the same."""
import gevent.ssl
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

import support

HOME = support.REPOSITORY.parent
CA, CERTIFICATE, KEY = (str(HOME / name) for name in ("ca.pem", "client.pem", "client.key"))


def context(shown=True):
    made = gevent.ssl.create_default_context(cafile=CA)
    if shown:
        made.load_cert_chain(CERTIFICATE, KEY)
    return made


def over_http(**options):
    return tritonclient.http.InferenceServerClient(
        support.HTTP, ssl=True, ssl_context_factory=lambda: context(**options)
    )


def over_grpc(shown=True):
    pair = {"private_key": KEY, "certificate_chain": CERTIFICATE} if shown else {}
    return tritonclient.grpc.InferenceServerClient(support.GRPC, ssl=True, root_certificates=CA, **pair)


@pytest.mark.parametrize("module, client", [(tritonclient.http, over_http), (tritonclient.grpc, over_grpc)])
def test_it_serves(module, client):
    with client() as served:
        assert served.is_server_ready() and served.is_model_ready("versioned")
        for k in range(20):
            data = np.full((1 + k, 4), k, np.float32)
            x = module.InferInput("X", data.shape, "FP32")
            x.set_data_from_numpy(data)
            answer = served.infer("versioned", [x], model_version="2")
            np.testing.assert_array_equal(answer.as_numpy("Y"), data + 2)


def test_without_a_certificate_nobody_gets_in():
    with over_http(shown=False) as client, pytest.raises(Exception):
        client.is_server_live()
    with over_grpc(shown=False) as client, pytest.raises(Exception):
        client.get_server_metadata(client_timeout=10)
