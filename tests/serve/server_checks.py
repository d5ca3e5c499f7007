"""A foreign server behind the backend `kserve`, and a fuzzer against ours: `make test-servers`, about two minutes.

MLServer and schemathesis live in an environment of their own, whose Python EDGECV_SERVERS names: MLServer pins older
libraries. The description that the fuzzer reads is the one of the protocol that MLServer brings.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from serve_lab import BUNDLE, digits, picture

import edgecv_runtime as rt
from edgecv_runtime import verify
from edgecv_runtime.errors import ParityError

PYTHON = Path(os.environ["EDGECV_SERVERS"])
RUNTIME = """
import numpy, onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Network(MLModel):
    async def load(self):
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri)
        return True

    async def predict(self, payload):
        (given,) = payload.inputs
        (logits,) = self.session.run(None, {given.name: NumpyCodec.decode_input(given)})
        output = NumpyCodec.encode_output("logits", SIGN * logits)
        return InferenceResponse(model_name=self.name, outputs=[output])
"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def ready(url):
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module", params=[1, -1], ids=["right", "wrong"])
def mlserver(request, tmp_path_factory):
    """MLServer with the digits' network, or with another one -> (address of the model, whether it is the right one)."""
    folder = tmp_path_factory.mktemp("mlserver")
    with rt.Bundle(BUNDLE) as bundle:
        (folder / "model.onnx").write_bytes(bundle.variant_file("float32").read_bytes())
    (folder / "network.py").write_text(RUNTIME.replace("SIGN", str(request.param)))
    ports = {f"{name}_port": free_port() for name in ("http", "grpc", "metrics")}
    settings = {"host": "127.0.0.1", "parallel_workers": 0, **ports}
    model = {"name": "net", "implementation": "network.Network", "parameters": {"uri": str(folder / "model.onnx")}}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    url = f"http://127.0.0.1:{ports['http_port']}/v2/models/net"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [PYTHON.with_name("mlserver"), "start", folder], cwd=folder, env=environment, stdout=log, stderr=log
        )
    try:
        end_s = time.monotonic() + 60
        while not ready(f"{url}/ready"):
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end_s, (folder / "log").read_text()
            time.sleep(0.2)
        yield url, request.param == 1
    finally:
        server.terminate()
        server.wait(20)


def test_mlserver_is_proven_or_refused(mlserver):
    url, is_right = mlserver
    if not is_right:
        with pytest.raises(ParityError, match="another model answers"):
            rt.load(BUNDLE, backend=f"kserve:{url}")
        return
    with rt.load(BUNDLE, backend=f"kserve:{url}") as far, rt.load(BUNDLE, backend="onnxruntime") as near:
        assert list(far.info.versions) == ["mlserver"]
        batch = near.tensor([picture(seed) for seed in range(20)])
        assert np.allclose(far.run({"image": batch})["logits"], near.run({"image": batch})["logits"], atol=1e-5)
    with rt.Bundle(BUNDLE) as bundle:
        (found,) = verify.verify(bundle, backend=f"kserve:{url}")
    assert found.entry.finding is None
    assert found.entry.agreement.max_abs < 1e-4


def test_what_the_protocol_says_is_what_is_served(tmp_path):
    """Every path that we have, by requests that the description allows and forbids: no answer contradicts it."""
    code = "import mlserver.rest.openapi as found; print(found.__path__[0])"
    folder = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    description = json.loads((Path(folder) / "dataplane.json").read_text())
    served = ("ready", "infer", "live", "/v2", "{model_name}", "{model_version}")
    paths = {path: each for path, each in description["paths"].items() if path.endswith(served)}
    for each in paths.values():
        for parameter in each.get("parameters", []):
            known = {"model_name": ["digits", "digits.network"], "model_version": ["1"]}[parameter["name"]]
            parameter["schema"]["enum"] = known
    # what it has there, `"type": "bytes"`, is no type
    description["components"]["schemas"]["TensorData"] = {"type": "array", "items": {}}
    (tmp_path / "protocol.json").write_text(json.dumps({**description, "paths": paths}))
    with digits() as (server, _):
        done = subprocess.run(
            [
                PYTHON.with_name("schemathesis"), "run", tmp_path / "protocol.json", "--url", server.url.rstrip("/"),
                "--checks", "not_a_server_error,response_schema_conformance,content_type_conformance",
                "--max-examples", "100", "--seed", "1", "--phases", "examples,fuzzing", "--generation-database", "none",
            ],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert ready(f"{server.url}v2/health/ready")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
