#!/usr/bin/env python3
"""A server of Google's XML API on a port of its own, which it prints; it ends with its standard input.

Google's XML API is S3's where reading, listing and deleting are concerned, so moto's S3 answers. What is Google's own is put in front of it:
each content of an object has a generation, which answers name and writes can demand, and a bearer says who asks.
"""
import itertools
import logging
import sys
import threading
from urllib.parse import quote

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

# What makes moto take a request for the owner's.
OWNER = "AWS4-HMAC-SHA256 Credential=AKIATEST/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
CHANGED = b"<?xml version='1.0'?><Error><Code>PreconditionFailed</Code><Message>generation</Message></Error>"


class Generations:
    """Numbers the contents that the application behind takes."""

    def __init__(self, app):
        self.app, self.lock = app, threading.Lock()
        self.generations, self.next = {}, itertools.count(1_700_000_000_000_000)

    def __call__(self, environ, start):
        environ["HTTP_AUTHORIZATION"] = OWNER
        demanded = environ.pop("HTTP_X_GOOG_IF_GENERATION_MATCH", None)
        key, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        # Google's clients escape all but letters and digits; moto routes by what is sent.
        environ["RAW_URI"] = environ["REQUEST_URI"] = quote(key) + "?" + environ["QUERY_STRING"]
        with self.lock:
            if demanded is not None and int(demanded) != self.generations.get(key, 0):
                start("412 Precondition Failed", [("Content-Type", "application/xml"), ("Content-Length", str(len(CHANGED)))])
                return [CHANGED]
            answer = {}
            body = b"".join(self.app(environ, lambda status, headers, info=None: answer.update(status=status, headers=headers)))
            if answer["status"].startswith("2"):
                if method == "PUT":
                    self.generations[key] = next(self.next)
                if method == "DELETE":
                    self.generations.pop(key, None)
            generation = self.generations.get(key)
        named = [("x-goog-generation", str(generation))] if generation else []
        start(answer["status"], list(answer["headers"]) + named)
        return [body]


logging.getLogger("werkzeug").setLevel(logging.ERROR)
app = Generations(DomainDispatcherApplication(create_backend_app))
server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
sys.stdin.read()
server.shutdown()
