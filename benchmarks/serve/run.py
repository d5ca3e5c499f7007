"""Requests per second and latency of `edgecv serve`, beside handlers by hand that run the same file, and MLServer.

    python benchmarks/serve/run.py BUNDLE PICTURE.jpg [BUNDLE PICTURE.jpg ...] [--mlserver FOLDER]

The handlers by hand are what one writes: a function that decodes with OpenCV, resizes, runs ONNX Runtime as it comes on
the float32 file and answers label and score; in a handler of FastAPI, in its pool of threads, and in that of a server
of gRPC. Ours answers label and score of the same picture. Each client keeps its connection and asks again when it has
its answer; clients run in this process, on the same cores as the servers. CPU is what the server itself used for a
request, which tells more than the wall clock where others use the machine, too. Rounds are interleaved; the page has
medians of the rounds, and ratios of pairs that were measured one after the other.

Figures of bundles and numbers of clients that are not named are kept, so that one can be measured after the other.
--mlserver: a folder for an environment with MLServer, which pins older libraries; it is made where it is not there.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

import edgecv_runtime as rt
from benchmarks import plots, study

OURS, BY_HAND, OURS_GRPC, BY_HAND_GRPC, MLSERVER = (
    "edgecv serve", "by hand", "edgecv serve, gRPC", "by hand, gRPC", "MLServer",
)  # fmt: skip
PAIRS = ((OURS, BY_HAND), (OURS_GRPC, BY_HAND_GRPC), (OURS, MLSERVER))
METHOD = "/inference.GRPCInferenceService/ModelInfer"
BY_HAND_FILE = Path(__file__).with_name("by_hand.py")
Ask = Callable[[], bool]  # ask once; whether there was an answer


# The same by hand within MLServer, which knows nothing of edgecv: size, labels and input come with the file.
RUNTIME = """
import json, cv2, numpy as np, onnxruntime
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.types import InferenceResponse


class Network(MLModel):
    async def load(self):
        with open(self.settings.parameters.uri) as file:
            self.told = json.load(file)
        self.session = onnxruntime.InferenceSession(self.told["file"])
        return True

    async def predict(self, payload):
        told = self.told
        (data,) = Base64Codec.decode_input(payload.inputs[0])
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        size = (told["width"], told["height"])
        image = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
        logits = self.session.run(None, {told["input"]: image[None]})[0][0]
        scores = np.exp(logits - logits.max())
        index = int(scores.argmax())
        label = StringCodec.encode_output("label", [told["labels"][index]])
        score = NumpyCodec.encode_output("score", np.float32([scores[index] / scores.sum()]))
        return InferenceResponse(model_name=self.name, outputs=[label, score])
"""


def mlserver(folder: Path, bundle: Path, work: Path, port: int) -> list[str]:
    """The command that serves a bundle's network with MLServer; makes the environment where it is not there."""
    program = folder / "bin" / "mlserver"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "mlserver==1.7.1", "onnxruntime", "opencv-python-headless"], check=True)
    with rt.Bundle(bundle) as opened:
        manifest = opened.manifest
        (work / "model.onnx").write_bytes(opened.variant_file("float32").read_bytes())
    height, width = manifest.preprocess.size
    told = {"file": str(work / "model.onnx"), "width": width, "height": height, "labels": manifest.labels}
    (work / "told.json").write_text(json.dumps({**told, "input": manifest.input.name}))
    (work / "network.py").write_text(RUNTIME)
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports}
    (work / "settings.json").write_text(json.dumps(settings))
    model = {"name": "it", "implementation": "network.Network", "parameters": {"uri": str(work / "told.json")}}
    (work / "model-settings.json").write_text(json.dumps(model))
    return [str(program), "start", str(work)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def server(command: list[str], port: int, folder: Path | None = None) -> Iterator[int]:
    """A process that serves at a port -> its number."""
    environment = {**os.environ, "PYTHONPATH": str(folder)} if folder else None
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=environment, cwd=folder, **quiet)
    try:
        end_s = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if time.monotonic() > end_s or process.poll() is not None:
                    sys.exit(f"{command} does not listen")
                time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


def posted(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def ours(picture: bytes) -> bytes:
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(picture) + 4}}
    asked = {"inputs": [tensor], "outputs": [{"name": "label"}, {"name": "score"}]}
    document = json.dumps(asked).encode()
    body = document + len(picture).to_bytes(4, "little") + picture
    return posted("/v2/models/it/infer", body, f"Inference-Header-Content-Length: {len(document)}")


def in_base64(picture: bytes) -> bytes:
    """MLServer takes no pictures as binary data over HTTP."""
    data = [base64.b64encode(picture).decode()]
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}
    body = json.dumps({"inputs": [{**tensor, "data": data}]}).encode()
    return posted("/v2/models/it/infer", body, "Content-Type: application/json")


def ours_grpc(picture: bytes) -> bytes:
    from edgecv_runtime.serve.grpcmessages import classes

    asked = classes()["ModelInferRequest"](model_name="it")
    asked.inputs.add(name="image", datatype="BYTES", shape=[1])
    asked.outputs.add(name="label")
    asked.outputs.add(name="score")
    asked.raw_input_contents.append(len(picture).to_bytes(4, "little") + picture)
    return bytes(asked.SerializeToString())


@contextlib.contextmanager
def over_http(port: int, request: bytes) -> Iterator[Ask]:
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as file:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ask() -> bool:
            connection.sendall(request)
            return status(file) == 200

        yield ask


def status(file: io.BufferedReader) -> int:
    """Read an answer -> its status."""
    found = int(file.readline().split()[1])
    length = 0
    while (line := file.readline().lower()) not in (b"\r\n", b""):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    file.read(length)
    return found


@contextlib.contextmanager
def over_grpc(port: int, request: bytes) -> Iterator[Ask]:
    import grpc

    own = [("grpc.use_local_subchannel_pool", 1)]  # a connection each, as clients on other machines have
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=own) as channel:
        call = channel.unary_unary(METHOD)

        def ask() -> bool:
            try:
                call(request)
            except grpc.RpcError:
                return False
            return True

        yield ask


class Contender(NamedTuple):
    """A server as clients see it; process: whose CPU is counted."""

    process: int
    connect: Callable[[int, bytes], contextlib.AbstractContextManager[Ask]]
    port: int
    request: bytes


class Load(msgspec.Struct, frozen=True):
    """What clients saw: requests per second, p50 and p99, CPU of the server a request, requests without an answer."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    refused: int


class Figures(msgspec.Struct, frozen=True):
    """Of one bundle: rounds by clients and server."""

    bundle: str
    picture: str
    rounds: dict[str, dict[str, list[Load]]]


def cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(contender: Contender, clients: int, seconds: float) -> Load:
    times_ms: list[float] = []
    refused = [0]
    connected = threading.Barrier(clients + 1)
    end_s = 0.0

    def client() -> None:
        with contender.connect(contender.port, contender.request) as ask:
            connected.wait()
            while (began_s := time.monotonic()) < end_s:
                refused[0] += not ask()
                times_ms.append((time.monotonic() - began_s) * 1e3)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    began_s, used_s = time.monotonic(), cpu_s(contender.process)
    end_s = began_s + seconds
    connected.wait()
    for thread in threads:
        thread.join()
    took_s = time.monotonic() - began_s
    used_ms = (cpu_s(contender.process) - used_s) * 1e3 / len(times_ms)
    p50, p99 = (sorted(times_ms)[min(len(times_ms) - 1, int(len(times_ms) * share))] for share in (0.5, 0.99))
    return Load(len(times_ms) / took_s, p50, p99, used_ms, refused[0])


def measured(bundle: Path, picture: Path, options: argparse.Namespace) -> Figures:
    """All servers of one bundle."""
    data = picture.read_bytes()
    http, grpc, hand, hand_grpc, theirs = (free_port() for _ in range(5))
    command = [sys.executable, "-m", "edgecv.cli", "serve", f"it={bundle}", "--listen", str(http)]
    command += ["--grpc-port", str(grpc), "--backend", "onnxruntime", "--precision", "float32", "--waiting", "256"]
    plain_command = [sys.executable, str(BY_HAND_FILE), str(bundle), str(hand), str(hand_grpc)]
    rounds: dict[str, dict[str, list[Load]]] = {}
    with contextlib.ExitStack() as closing:
        our_process = closing.enter_context(server(command, http))
        by_hand = closing.enter_context(server(plain_command, hand))
        contenders = {
            OURS: Contender(our_process, over_http, http, ours(data)),
            BY_HAND: Contender(by_hand, over_http, hand, posted("/infer", data)),
            OURS_GRPC: Contender(our_process, over_grpc, grpc, ours_grpc(data)),
            BY_HAND_GRPC: Contender(by_hand, over_grpc, hand_grpc, data),
        }
        if options.mlserver is not None:
            work = Path(closing.enter_context(tempfile.TemporaryDirectory()))
            their_command = mlserver(options.mlserver.resolve(), bundle, work, theirs)
            process = closing.enter_context(server(their_command, theirs, work))
            contenders[MLSERVER] = Contender(process, over_http, theirs, in_base64(data))
        for contender in contenders.values():
            load(contender, 1, 0.5)
        for clients in options.clients:
            found = rounds[str(clients)] = {name: [] for name in contenders}
            for number in range(options.rounds):
                for name in list(contenders)[:: 1 if number % 2 == 0 else -1]:
                    found[name].append(load(contenders[name], clients, options.seconds))
            print(f"{clients} clients of {bundle}: measured", file=sys.stderr, flush=True)
    with rt.Bundle(bundle) as opened:
        return Figures(opened.manifest.name, picture.name, rounds)


def page(figures: list[Figures]) -> list[str]:
    """A table for each bundle."""
    lines = [__doc__.split("\n\n")[2].replace("\n", " ")]
    for each in figures:
        lines += ["", f"### {each.bundle}, {each.picture}", ""]
        lines += ["| clients | server | requests/s | p50, ms | p99, ms | CPU, ms | without an answer |",
                  "| ---: | --- | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
        for clients, servers in each.rounds.items():
            for name, rounds in servers.items():
                rate, p50, p99, cpu = (
                    statistics.median(getattr(one, field) for one in rounds)
                    for field in ("rate", "p50_ms", "p99_ms", "cpu_ms")
                )
                refused = sum(one.refused for one in rounds)
                lines.append(f"| {clients} | {name} | {rate:.0f} | {p50:.1f} | {p99:.1f} | {cpu:.2f} | {refused} |")
        lines += [
            "",
            "| clients | ratio of | requests/s | p50 | p99 | CPU |",
            "| ---: | --- | ---: | ---: | ---: | ---: |",
        ]
        for clients, servers in each.rounds.items():
            for mine, other in PAIRS:
                if other in servers:
                    pairs = list(zip(servers[mine], servers[other], strict=True))
                    ratios = (
                        statistics.median(getattr(one, field) / getattr(two, field) for one, two in pairs)
                        for field in ("rate", "p50_ms", "p99_ms", "cpu_ms")
                    )
                    lines.append(
                        f"| {clients} | {mine} to {other} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |"
                    )
    return lines


STUDY = study.Study(
    Path(__file__),
    "`edgecv serve` beside handlers by hand",
    page,
    kind=list[Figures],
    picture=plots.Rows(
        "ratio of requests/s, median of pairs of rounds; above 1 edgecv answers more",
        {"requests/s": ""},
        label=lambda row: f"{row['clients']} client{'s' if row['clients'] != '1' else ''}",
        series=lambda row: row["ratio of"],
        group=plots.heading,
        where=lambda row: "ratio of" in row.cells,
        line=1,
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", metavar="BUNDLE PICTURE", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--mlserver", metavar="FOLDER", type=Path)
    options = parser.parse_args()
    places = zip(options.places[::2], options.places[1::2], strict=True)
    record = {each.bundle: each for each in STUDY.figures() or []}
    for place in places:
        new = measured(*place, options)
        old = record.get(new.bundle)
        if old is not None and old.picture == new.picture:
            new = msgspec.structs.replace(new, rounds=dict(sorted({**old.rounds, **new.rounds}.items(), key=_clients)))
        record[new.bundle] = new
    STUDY.record(list(record.values()))


def _clients(each: tuple[str, object]) -> int:
    return int(each[0])


if __name__ == "__main__":
    main()
