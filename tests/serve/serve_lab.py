"""What the tests of serving share: a server on a free port, requests by hand, a model that does what a test wants."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np

import edgecv_runtime as rt
from edgecv_runtime import bundle as bundles
from edgecv_runtime.errors import ComputationError
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.serve import Always, Limits, Offer, Server

BUNDLE = Path(__file__).parents[1] / "assets" / "digits.edgecv"
RAW = {"Inference-Header-Content-Length": "0"}


class Puppet:
    """A model of 4 numbers a row that doubles them, when it may: `go` lets calls through, `rows` are those of each."""

    name, task, labels, streams, bundle = "puppet", "none", (), 1, None
    input = TensorSpec("x", "float32", ("N", 4))
    outputs = (TensorSpec("y", "float32", ("N", 4)),)

    def __init__(self, batch=1):
        self.batch = batch
        self.go = threading.Event()
        self.go.set()
        self.rows = []
        self.closed = False

    def run(self, feeds):
        x = feeds["x"]
        self.rows.append(len(x))
        assert self.go.wait(20)
        if (x < 0).any():
            raise ComputationError("a number is negative")
        return {"y": 2 * x}

    def close(self):
        self.closed = True


@contextlib.contextmanager
def serving(*models, token=None, host="127.0.0.1", grpc_port=None, tls=None, **limits):
    """A server of models, or of offers."""
    offers = [each if isinstance(each, Offer) else Offer(each.name, "1", Always(each)) for each in models]
    settings = {"grpc_port": grpc_port, "token": token, "tls": tls, "limits": Limits(**{"calls": 1, **limits})}
    with Server(offers, host, 0, **settings) as server:
        yield server


@contextlib.contextmanager
def digits(**limits):
    """The digits' bundle, loaded and served."""
    with rt.load(BUNDLE) as model, serving(model, **limits) as server:
        yield server, model


def named(name, folder):
    """The digits' bundle under another name -> its folder, `name` in `folder`."""
    with rt.Bundle(BUNDLE) as bundle:
        bundles.write(folder / name, msgspec.structs.replace(bundle.manifest, name=name), bundle.content())
    return folder / name


def ask(server, path, body=None, method=None, **headers):
    """(status, headers, body) of one request; the body is read as JSON where it is."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as client:
        body = json.dumps(body).encode() if isinstance(body, dict) else body
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        client.request(method or ("GET" if body is None else "POST"), path, body, headers)
        answer = client.getresponse()
        content = answer.read()
        is_json = answer.headers["content-type"] == "application/json"
        return answer.status, answer.headers, json.loads(content) if is_json else content


def numbers(*rows):
    """A request of a Puppet."""
    return {"inputs": [{"name": "x", "shape": [len(rows), 4], "datatype": "FP32", "data": [[row] * 4 for row in rows]}]}


def posted(server, *requests, path="/v2/models/puppet.network/infer"):
    """Requests that are sent at once, each from a client of its own -> futures of their answers."""
    pool = ThreadPoolExecutor(len(requests))
    futures = [pool.submit(ask, server, path, request) for request in requests]
    pool.shutdown(wait=False)
    return futures


def until(condition, seconds=10.0):
    end_s = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end_s, "it did not come"
        time.sleep(0.01)
    return found


def raw(server, data, seconds=10.0):
    """What comes back for bytes that are sent as they are."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(data)
        said = b""
        with contextlib.suppress(ConnectionError):
            while piece := client.recv(65536):
                said += piece
        return said


def picture(seed=0, size=(40, 48)):
    """A picture with something in it, (H, W, 3) uint8 BGR."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
