"""What one writes by hand to serve a network: a handler of FastAPI, and one of gRPC.

    python benchmarks/serve/by_hand.py BUNDLE PORT GRPC_PORT

Each decodes with OpenCV, resizes, runs ONNX Runtime as it comes on the float32 file, and answers label and score.
"""

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import grpc
import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

import edgecv_runtime as rt

THREADS = 40  # of anyio's pool, which FastAPI uses; gRPC gets as many
SERVICE, METHOD = "inference.GRPCInferenceService", "ModelInfer"


def labeller(bundle: Path) -> Callable[[bytes], dict[str, object]]:
    """What both do with a picture."""
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

    return label


def main() -> None:
    """Serve until the process is ended."""
    label = labeller(Path(sys.argv[1]))
    handler = grpc.unary_unary_rpc_method_handler(lambda data, _: json.dumps(label(data)).encode())
    server = grpc.server(ThreadPoolExecutor(THREADS))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    server.add_insecure_port(f"127.0.0.1:{sys.argv[3]}")
    server.start()
    app = FastAPI()

    @app.post("/infer")
    async def infer(request: Request) -> dict[str, object]:
        return await run_in_threadpool(label, await request.body())

    uvicorn.run(app, port=int(sys.argv[2]), log_level="error", access_log=False)


if __name__ == "__main__":
    main()
