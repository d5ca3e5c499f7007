"""The backend `kserve`: another program answers, by every verb; what fails on the way is one line, never a result."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import numpy as np
import pytest
from serve_lab import BUNDLE, Puppet, digits, picture, serving
from typer.testing import CliRunner

import edgecv_runtime as rt
from edgecv.cli.app import app
from edgecv_runtime import bundle as bundles
from edgecv_runtime import machine
from edgecv_runtime.backends.kserve import KServe
from edgecv_runtime.errors import BackendUnavailable, BadInput, Closed, ComputationError, ParityError
from edgecv_runtime.offers import offered
from edgecv_runtime.serve import Always, Offer


@pytest.fixture(scope="module")
def served():
    with digits() as (server, model):
        yield f"{server.url}v2/models/digits.network", model


@contextlib.contextmanager
def scripted(*answers, metadata=True):
    """A foreign server of the digits' network, in plain Python: each request of inference gets what its answer does.

    An answer is called with (handler, request) and may return the array to send, as JSON.
    """
    left = list(answers)
    seen = []
    tensors = {"inputs": [("image", "UINT8", [-1, 32, 32, 3])], "outputs": [("logits", "FP32", [-1, 10])]}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def say(self, document, status=200, **headers):
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            for name, value in {"Content_Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            seen.append(self.headers)
            if self.path == "/gate/v2":
                self.say({"name": "foreign", "version": "7", "extensions": []})
            elif metadata is not True:
                self.say(metadata)
            else:
                named = {
                    kind: [dict(zip(("name", "datatype", "shape"), each, strict=True)) for each in some]
                    for kind, some in tensors.items()
                }
                self.say({"name": "net", "platform": "none", **named})

        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            answer = left.pop(0) if len(left) > 1 else left[0]
            array = answer(self, request)
            if array is not None:
                tensor = {"name": "logits", "datatype": "FP32", "shape": list(array.shape), "data": array.tolist()}
                self.say({"model_name": "net", "outputs": [tensor]})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/gate/v2/models/net", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Kept(Always):
    """A model that outlives its server."""

    def close(self):
        pass


@pytest.fixture(scope="module")
def plain():
    with rt.load(BUNDLE, backend="onnxruntime") as model:
        yield model


@pytest.fixture
def right(plain):
    """Answers as the network does."""

    def answer(_, request):
        (tensor,) = request["inputs"]
        return plain.run({"image": np.array(tensor["data"], np.uint8).reshape(tensor["shape"])})["logits"]

    return answer


def test_it_gives_what_the_network_gives_there(served):
    url, model = served
    with rt.load(BUNDLE, backend=f"kserve:{url}") as far:
        assert (far.info.backend, far.info.variant, far.info.versions) == (
            "kserve",
            "float32",
            {"edgecv": rt.__version__},
        )
        batch = model.tensor([picture(seed) for seed in range(37)])
        expected = np.concatenate([model.run({"image": row[None]})["logits"] for row in batch])
        assert np.array_equal(far.run({"image": batch})["logits"], expected)  # in three requests
        backend, precision = far.choice
        with rt.load(BUNDLE, backend=backend, precision=precision) as again:
            assert again.info == far.info
        frame = picture(5, (96, 64))
        assert far(frame).as_dict() == model(frame).as_dict()
        many = list(far.map([picture(seed) for seed in range(6)]))
        assert [each.label for each in many] == [model(picture(seed)).label for seed in range(6)]


def test_every_verb_runs_against_it_and_its_evidence_is_its_own(served, tmp_path):
    import cv2

    url, model = served
    with rt.Bundle(BUNDLE) as asset:
        bundles.write(tmp_path / "b", asset.manifest, asset.content())
    (tmp_path / "photos").mkdir()
    for seed in (3, 4):
        cv2.imwrite(str(tmp_path / "photos" / f"{seed}.png"), picture(seed))

    def run(verb, *rest):
        done = CliRunner().invoke(app, [verb, str(tmp_path / "b"), *rest, "--backend", f"kserve:{url}"])
        assert done.exit_code == 0, done.output
        return done.stdout

    proofs = json.loads(run("verify", "--json"))
    assert [(each["backend"], each["machine"], each["offered"]) for each in proofs] == [("kserve", url, True)]
    assert proofs[0]["agreement"]["max_abs"] < 1e-4
    timed = json.loads(run("bench", "--json", "--seconds", "0.05", "--rounds", "1"))
    assert timed[0]["latency"]["runs"] > 0
    with rt.Bundle(tmp_path / "b") as bundle:
        (entry,) = bundle.evidence().entries
        assert entry.machine.server == url
        assert entry.agreement.share.value == 1.0
        assert entry.latency.p50_ms > 0
        assert not offered(bundle.manifest, bundle.evidence(), machine.this()).why_not
    assert model(picture(3)).label in run("predict", str(tmp_path / "photos" / "3.png"))
    run("stream", str(tmp_path / "photos"), "--sink", str(tmp_path / "out.jsonl"))
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [each["result"]["label"] for each in found] == [model(picture(seed)).label for seed in (3, 4)]


@pytest.fixture
def int8(finished):
    """The quantized variant, whatever it is called and however fast it is here."""
    with rt.Bundle(finished) as bundle:
        (name,) = [each.name for each in bundle.manifest.variants if each.precision == "int8"]
    with rt.load(finished, precision=name, backend="onnxruntime") as model:
        yield model


def test_an_int8_variant_is_told_by_the_server_itself(finished, int8):
    model = int8
    with serving(Offer("tiny", "1", Kept(model))) as server:
        url = f"kserve:{server.url}v2/models/tiny.network"
        with rt.load(finished, backend=url) as far:
            assert far.info.variant == model.info.variant != "float32"
        with pytest.raises(BackendUnavailable, match=r"it serves '.* int8.*', not float32"):
            rt.load(finished, backend=f"{url}#float32")
        with pytest.raises(BadInput, match="nothing runs at precision 'float32' on backend 'kserve"):
            rt.load(finished, backend=url, precision="float32")
        with pytest.raises(BackendUnavailable, match=r"it serves '.*', and this bundle has: float32 "):
            rt.load(BUNDLE, backend=url)


def test_a_model_that_is_exchanged_meanwhile_is_noticed(tmp_path):
    class Turning(Kept):
        def current(self):
            return now[0]

    with rt.Bundle(BUNDLE) as asset:
        bundles.write(tmp_path / "b", msgspec.structs.replace(asset.manifest, name="new"), asset.content())
    with (
        rt.load(BUNDLE) as model,
        rt.load(tmp_path / "b") as other,
        serving(Offer("digits", "1", Turning(model))) as server,
    ):
        now = [model]
        with rt.load(BUNDLE, backend=f"kserve:{server.url}v2/models/digits.network") as far:
            batch = model.tensor([picture()])
            far.run({"image": batch})
            now[0] = other
            with pytest.raises(
                ComputationError, match=r"'new float32 \w+' answers, and 'digits float32 \w+' was loaded"
            ):
                far.run({"image": batch})


def test_a_foreign_server_is_proven_by_the_golden_inputs(right):
    with scripted(right) as (url, _), rt.load(BUNDLE, backend=f"kserve:{url}") as far:
        assert far.info.versions == {"foreign": "7"}
        assert far(picture()).label.startswith("digit")
    with scripted(lambda *_: -right(*_)) as (url, _):
        with pytest.raises(ParityError, match=f"self-test: another model answers: {re.escape(url)} does not compute"):
            rt.load(BUNDLE, backend=f"kserve:{url}")
        done = CliRunner().invoke(app, ["verify", str(BUNDLE), "--no-write", "--backend", f"kserve:{url}"])
        assert done.exit_code == 4
        assert "another model answers" in done.output


def test_a_foreign_server_may_have_been_given_another_variant(finished, int8):
    def answer(_, request):
        (tensor,) = request["inputs"]
        return int8.run({"image": np.array(tensor["data"], np.uint8).reshape(tensor["shape"])})["logits"]

    with scripted(answer, metadata={"name": "net"}) as (url, _):  # MLServer need not name its tensors
        with rt.load(finished, backend=f"kserve:{url}#{int8.info.variant}") as far:
            assert far.info.variant == int8.info.variant
        with pytest.raises(BadInput, match="the bundle has no variant 'int7'; known: float32, int8"):
            rt.load(finished, backend=f"kserve:{url}#int7")


def refuse(status, **headers):
    return lambda handler, _: handler.say({"error": "not\nnow"}, status, **headers)


def hang_up(handler, _):
    handler.close_connection = True
    handler.connection.close()


def cut(handler, _):
    handler.send_response(200)
    handler.send_header("Content-Length", "99")
    handler.end_headers()
    hang_up(handler, _)


def drip(handler, _):
    handler.send_response(200)
    handler.send_header("Content-Length", "99")
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(100):
            handler.wfile.write(b" ")
            time.sleep(0.05)


def answering(**tensor):
    """An answer whose tensor is only partly what it should be."""
    made = {"name": "logits", "datatype": "FP32", "shape": [1, 10], **tensor}
    return lambda handler, _: handler.say({"outputs": [made]})


def far_model(url, **settings):
    """Loaded while the server still answers rightly."""
    return rt.load(BUNDLE, backend=KServe(url, **{"timeout_s": 5.0, "retry_s": 1.0, **settings}))


@pytest.mark.parametrize(
    "fault", [refuse(503, Retry_After="0"), refuse(429, Retry_After="0"), hang_up], ids=["503", "429", "reset"]
)
def test_what_was_not_answered_is_asked_again(right, plain, fault):
    with scripted(right, fault, fault, right) as (url, _), far_model(url) as far:
        batch = plain.tensor([picture(8)])
        assert np.array_equal(far.run({"image": batch})["logits"], plain.run({"image": batch})["logits"])


@pytest.mark.parametrize(
    ("fault", "error", "why"),
    [
        (refuse(503, Retry_After="30"), BackendUnavailable, "infer: it answers 503: not now; tried for 1 s"),
        (refuse(503), BackendUnavailable, "infer: it answers 503: not now$"),
        (refuse(429, Retry_After="0"), BackendUnavailable, "infer: it answers 429: not now; tried for 1 s"),
        (refuse(400), ComputationError, "infer: it answers 400: not now$"),
        (refuse(500), ComputationError, "infer: it answers 500: not now$"),
        (refuse(302, Location="/"), ComputationError, "infer: it answers 302"),
        (hang_up, BackendUnavailable, "the connection was cut before an answer; tried for 1 s"),
        (cut, ComputationError, "what it answers is cut, or no HTTP: IncompleteRead"),
        (drip, BackendUnavailable, "no whole answer within 1.5 s"),
        (lambda handler, _: time.sleep(4), BackendUnavailable, "no whole answer within 1.5 s"),
        (lambda handler, _: handler.say(b"[]"), ComputationError, "its answer is not the protocol's: "),
        (lambda handler, _: handler.say({"outputs": []}), ComputationError, "it does not answer 'logits', only: "),
        (lambda *_: np.zeros((1, 9)), ComputationError, r"'logits' comes as FP32 \[1, 9\], and is FP32 \[-1, 10\]"),
        (lambda *_: np.zeros((3, 10)), ComputationError, r"'logits' comes as \(3, 10\), and 1 rows were asked"),
        (answering(data={"a": 1}), ComputationError, "are not FP32 .*: not a list of such values alone"),
        (answering(), ComputationError, "are not FP32 .*: not a list of such values alone"),
        (answering(data=["1"] * 10), ComputationError, "not a list of such values alone"),
        (answering(data=[None] * 10), ComputationError, "not a list of such values alone"),
        (answering(data=[1] * 9), ComputationError, "cannot reshape"),
        (answering(data=[[1, 2], [3]]), ComputationError, "are not FP32"),
        (answering(data=[[1] * 5] * 2), ComputationError, r"they are nested as \[2, 5\]"),
        (answering(parameters={"binary_data_size": "x"}), ComputationError, "binary_data_size of 'logits' is x"),
        (answering(parameters={"binary_data_size": 40}), ComputationError, "0 bytes follow its JSON, which names 40"),
        (lambda handler, _: handler.say(b"{}", Content_Length="many"), BackendUnavailable, "no whole answer within"),
        (
            lambda handler, _: handler.say(b"{}", Inference_Header_Content_Length="9"),
            ComputationError,
            "its answer has 2 bytes, the JSON alone should have 9",
        ),
    ],
)
def test_what_fails_is_one_line_within_its_time(right, plain, fault, error, why):
    with scripted(right, fault) as (url, _), far_model(url, timeout_s=1.5) as far:
        began_s = time.monotonic()
        with pytest.raises(error, match=why) as caught:
            far.run({"image": plain.tensor([picture()])})
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(url.partition("/gate")[0])
        assert time.monotonic() - began_s < 4


def test_a_server_that_stops_and_comes_back_costs_no_frame(plain):
    """The port is taken again by a new server, while the old connection lies idle in the client."""
    frames = [picture(seed) for seed in range(4)]
    with rt.load(BUNDLE) as model:
        with serving(model) as server:
            port = server.port
            far = rt.load(BUNDLE, backend=KServe(f"http://127.0.0.1:{port}/v2/models/digits.network"))
            first = far(frames[0]).label
        got = []
        asking = threading.Thread(target=lambda: got.extend(far(frame).label for frame in frames[1:]))
        asking.start()
        time.sleep(0.2)
    from edgecv_runtime.serve import Server

    with rt.load(BUNDLE) as again, Server([Offer("digits", "1", Always(again))], port=port):
        asking.join(20)
    assert [first, *got] == [plain(frame).label for frame in frames]
    far.close()
    with pytest.raises(Closed):
        far(frames[0])


def test_a_token_is_sent_and_shown_nowhere(monkeypatch):
    secret = "sesame-sesame-sesame"
    with rt.load(BUNDLE) as model, serving(model, token=secret) as server:
        url = f"{server.url}v2/models/digits.network"
        with pytest.raises(BackendUnavailable, match="it answers 401: a token is needed; set EDGECV_KSERVE_TOKEN"):
            rt.load(BUNDLE, backend=f"kserve:{url}")
        monkeypatch.setenv("EDGECV_KSERVE_TOKEN", secret)
        with rt.load(BUNDLE, backend=f"kserve:{url}") as far:
            assert far(picture()).label == model(picture()).label
            assert secret not in f"{far.info} {far.explain()} {far._target}"
        again = pickle.loads(pickle.dumps(KServe(url, token=secret, variant="float32")))
        assert again.probe() == {"edgecv": rt.__version__}


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("", "kserve wants the address of a model: kserve:http://HOST:8000/v2/models/NAME"),
        ("http://localhost:8000", "is no address of a model; expected kserve:http://HOST:8000/v2/models/NAME"),
        ("grpc://localhost:8001/v2/models/a", "is no address of a model"),
        ("http://localhost:99999/v2/models/a", "is no address of a model"),
        ("http://localhost:0/v2/models/a", "is no address of a model"),
        ("http://[::1/v2/models/a", "is no address of a model"),
        ("http://me:secret\u2100@localhost/v2/models/a", "'http://...@localhost/v2/models/a' is no address of a model"),
        ("http://me:s/secret@localhost/v2/models/a", "'http://...@localhost/v2/models/a' is no address of a model"),
        ("http://me:s@secret@localhost/v2/models/a", "a name or password is not sent"),
        ("http://localhost/v2/models/a?x=1", "is no address of a model"),
        ("http://localhost/v2/models/a b", "is no address of a model"),
        (
            "http://me:secret@localhost/v2/models/a",
            r"'http://...@localhost/v2/models/a': a name or password is not sent",
        ),
    ],
)
def test_what_is_no_address_is_said_so(address, why):
    with pytest.raises(BadInput, match=why) as caught:
        rt.load(BUNDLE, backend=f"kserve:{address}")
    assert "secret" not in str(caught.value)


def test_what_does_not_fit_is_refused_before_anything_runs(served, tmp_path):
    url, _ = served
    for given, why in [({"device": "cuda"}, "the server's affair"), ({"threads": 2}, "threads are the server's own")]:
        with pytest.raises(BadInput, match=why):
            rt.load(BUNDLE, backend=f"kserve:{url}", **given)
    with pytest.raises(BackendUnavailable, match=f"those of the network are at {re.escape(url)}"):
        rt.load(BUNDLE, backend=f"kserve:{url.removesuffix('.network')}")
    with serving(Puppet()) as server, pytest.raises(BackendUnavailable, match="it serves 'Puppet', and this"):
        rt.load(BUNDLE, backend=f"kserve:{server.url}v2/models/puppet.network")
    with rt.Bundle(BUNDLE) as bundle:
        bundles.write(tmp_path / "b", bundle.manifest, bundle.content())
        file = next((tmp_path / "b").glob("*.onnx"))
        with pytest.raises(BadInput, match="a plain ONNX file has no golden inputs that would prove what kserve"):
            rt.load(
                file,
                preprocess=bundle.manifest.preprocess,
                labels=bundle.manifest.labels,
                scores="logits",
                backend=f"kserve:{url}",
            )
    done = CliRunner().invoke(app, ["survey", "--backend", f"kserve:{url}"])
    assert done.exit_code == 2
