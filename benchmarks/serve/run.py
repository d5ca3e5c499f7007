"""Requests per second and latency of `edgecv serve`, beside a plain Starlette handler that runs the same file.

    python benchmarks/serve/run.py BUNDLE PICTURE.jpg [--seconds 3] [--rounds 3] [--clients 1 4 16 64]

The plain handler is what one writes by hand: a function in Starlette's pool of threads (as FastAPI runs its own) that
decodes with OpenCV, resizes, runs ONNX Runtime on the float32 file and answers label and score as JSON. Ours answers
label and score of the same picture. Each client keeps its connection and asks again when it has its answer; clients run
in this process, on the same cores as the servers. CPU is what the server itself used for a request, which tells
more than the wall clock where others use the machine, too. Rounds are interleaved, medians of the rounds are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import edgecv_runtime as rt


def plain(bundle: Path, port: int) -> None:
    """The handler by hand, served until the process is ended."""
    import cv2
    import numpy as np
    import onnxruntime
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    with rt.Bundle(bundle) as opened:
        manifest = opened.manifest
        session = onnxruntime.InferenceSession(opened.file(manifest.variant("float32").file))
    height, width = manifest.preprocess.size

    def label(data: bytes) -> dict[str, object]:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        image = cv2.cvtColor(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
        logits = session.run(None, {manifest.input.name: image[None]})[0][0]
        scores = np.exp(logits - logits.max())
        index = int(scores.argmax())
        return {"label": manifest.labels[index], "score": float(scores[index] / scores.sum())}

    async def infer(request: Request) -> JSONResponse:
        return JSONResponse(await run_in_threadpool(label, await request.body()))

    app = Starlette(routes=[Route("/infer", infer, methods=["POST"])])
    uvicorn.run(app, port=port, http="h11", log_level="error", access_log=False)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def server(*command: str, port: int) -> Iterator[int]:
    """A process that serves at a port -> its number."""
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL)
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


def ours(name: str, picture: bytes) -> bytes:
    asked = {
        "inputs": [
            {
                "name": "image",
                "shape": [1],
                "datatype": "BYTES",
                "parameters": {"binary_data_size": len(picture) + 4},
            }
        ],
        "outputs": [{"name": "label"}, {"name": "score"}],
    }
    document = json.dumps(asked).encode()
    body = document + len(picture).to_bytes(4, "little") + picture
    return posted(f"/v2/models/{name}/infer", body, f"Inference-Header-Content-Length: {len(document)}")


def ask(file: io.BufferedReader) -> int:
    """Read an answer -> its status."""
    status = int(file.readline().split()[1])
    length = 0
    while (line := file.readline().lower()) not in (b"\r\n", b""):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    file.read(length)
    return status


class Load(NamedTuple):
    """What clients saw: requests per second, sorted latencies, CPU of the server a request, answers other than 200."""

    rate: float
    times_ms: list[float]
    cpu_ms: float
    refused: int


def cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(process: int, port: int, request: bytes, clients: int, seconds: float) -> Load:
    times_ms: list[float] = []
    refused = [0]
    end_s = time.monotonic() + seconds

    def client() -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as file:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while (began_s := time.monotonic()) < end_s:
                connection.sendall(request)
                refused[0] += ask(file) != 200
                times_ms.append((time.monotonic() - began_s) * 1e3)

    began_s, used_s = time.monotonic(), cpu_s(process)
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used_ms = (cpu_s(process) - used_s) * 1e3 / len(times_ms)
    return Load(len(times_ms) / (time.monotonic() - began_s), sorted(times_ms), used_ms, refused[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("picture", type=Path, nargs="?")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--plain", type=int, help=argparse.SUPPRESS)  # the port of the handler by hand
    options = parser.parse_args()
    if options.plain:
        return plain(options.bundle, options.plain)
    picture = options.picture.read_bytes()
    ports = {"edgecv serve": free_port(), "by hand": free_port()}
    asking = {"edgecv serve": ours("it", picture), "by hand": posted("/infer", picture)}
    command = ["-m", "edgecv.cli", "serve", f"it={options.bundle}", "--listen", str(ports["edgecv serve"])]
    same = ["--backend", "onnxruntime", "--precision", "float32"]
    with (
        server(*command, *same, "--waiting", "256", port=ports["edgecv serve"]) as our_process,
        server(__file__, str(options.bundle), "--plain", str(ports["by hand"]), port=ports["by hand"]) as their_process,
    ):
        processes = dict(zip(ports, (our_process, their_process), strict=True))
        print("| clients | server | requests/s | p50, ms | p99, ms | CPU, ms | refused |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for name, port in ports.items():
            load(processes[name], port, asking[name], 1, 0.5)
        for clients in options.clients:
            found: dict[str, list[Load]] = {name: [] for name in ports}
            for number in range(options.rounds):
                for name in list(ports)[:: 1 if number % 2 == 0 else -1]:
                    found[name].append(load(processes[name], ports[name], asking[name], clients, options.seconds))
            for name, rounds in found.items():
                rate, cpu_ms = (
                    statistics.median(each) for each in zip(*((x.rate, x.cpu_ms) for x in rounds), strict=True)
                )
                p50, p99 = (
                    statistics.median(
                        x.times_ms[min(len(x.times_ms) - 1, int(len(x.times_ms) * share))] for x in rounds
                    )
                    for share in (0.5, 0.99)
                )
                refused = sum(x.refused for x in rounds)
                print(f"| {clients} | {name} | {rate:.0f} | {p50:.1f} | {p99:.1f} | {cpu_ms:.1f} | {refused} |")
            pairs = list(zip(*found.values(), strict=True))
            ratio = statistics.median(mine.rate / other.rate for mine, other in pairs)
            more = statistics.median(mine.cpu_ms / other.cpu_ms for mine, other in pairs)
            print(f"| {clients} | ratio | {ratio:.2f} | | | {more:.2f} | |", flush=True)
    return None


if __name__ == "__main__":
    main()
