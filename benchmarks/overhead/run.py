"""What edgecv adds to the runtime below it, and what other wrappers add: one ready tensor, batch 1.

    python benchmarks/overhead/run.py [--peers FOLDER] [--generations 3]

FOLDER: where `pip install --no-deps --target FOLDER polyinfer openvino-model-api` put the peers; left out, they are not
measured. Each contender runs in a process of its own, because thread pools in one process disturb each other; all are
alive at once and measured in turn. Writes benchmarks/overhead/results.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import edgecv_runtime
from benchmarks import plots, study

MODEL, SIZE, ROUNDS, SECONDS = "mobilenet_v3_small", 224, 6, 0.25


def raw_onnxruntime(bundle: Path, x: Any) -> Callable[[], Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"image": x})


def _compiled(bundle: Path, static: bool) -> Any:
    import openvino

    model = openvino.Core().read_model(str(bundle / "model.onnx"))
    if static:
        model.reshape([1, SIZE, SIZE, 3])
    config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    return openvino.Core().compile_model(model, "CPU", config)


def raw_openvino(bundle: Path, x: Any, static: bool = False) -> Callable[[], Any]:
    request = _compiled(bundle, static).create_infer_request()
    return lambda: request.infer({"image": x}, share_inputs=True, share_outputs=True)


def edgecv(bundle: Path, x: Any, backend: str, precision: str = "float32") -> Callable[[], Any]:
    model = edgecv_runtime.load(bundle, backend=backend, precision=precision)
    return lambda: model.run({"image": x})


def polyinfer(bundle: Path, x: Any, backend: str) -> Callable[[], Any]:
    import polyinfer

    model = polyinfer.load(str(bundle / "model.onnx"), device="cpu", backend=backend)
    return lambda: model(x)


def model_api(bundle: Path, x: Any, hint: str) -> Callable[[], Any]:
    from model_api.adapters import OpenvinoAdapter, create_core

    config = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    adapter = OpenvinoAdapter(create_core(), str(bundle / "model.onnx"), device="CPU", plugin_config=config)
    adapter.load_model()
    return lambda: adapter.infer_sync({"image": x})


CONTENDERS: dict[str, Callable[[Path, Any], Callable[[], Any]]] = {
    "onnxruntime session": raw_onnxruntime,
    "edgecv, onnxruntime": lambda bundle, x: edgecv(bundle, x, "onnxruntime"),
    "polyinfer, onnxruntime": lambda bundle, x: polyinfer(bundle, x, "onnxruntime"),
    "OpenVINO request": raw_openvino,
    "OpenVINO request, shapes fixed by hand": lambda bundle, x: raw_openvino(bundle, x, True),
    "edgecv, OpenVINO": lambda bundle, x: edgecv(bundle, x, "openvino"),
    "openvino-model-api, float32": lambda bundle, x: model_api(bundle, x, "f32"),
    "edgecv, OpenVINO in bf16": lambda bundle, x: edgecv(bundle, x, "openvino", "bf16"),
    "polyinfer, OpenVINO (bf16, unasked)": lambda bundle, x: polyinfer(bundle, x, "openvino"),
    "openvino-model-api, bf16": lambda bundle, x: model_api(bundle, x, "bf16"),
}
# own, other: what is compared with what
RATIOS = [
    ("edgecv, onnxruntime", "onnxruntime session"),
    ("edgecv, OpenVINO", "OpenVINO request"),
    ("edgecv, OpenVINO", "OpenVINO request, shapes fixed by hand"),
    ("edgecv, onnxruntime", "polyinfer, onnxruntime"),
    ("edgecv, OpenVINO", "openvino-model-api, float32"),
    ("edgecv, OpenVINO in bf16", "polyinfer, OpenVINO (bf16, unasked)"),
    ("edgecv, OpenVINO in bf16", "openvino-model-api, bf16"),
]


def added_us() -> list[str]:
    """What a call costs above the runtime's own, on a graph that does next to nothing: a line per backend.

    The least of many rounds: what else the machine does can only add to it.
    """
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["logits"], axes=[1, 2], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 8, 8, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.zeros((1, 8, 8, 3), np.uint8)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        for backend, raw in (
            ("onnxruntime", raw_onnxruntime(path.parent, x)),
            ("openvino", raw_openvino(path.parent, x)),
        ):
            with edgecv_runtime.load(
                path, backend=backend, preprocess=edgecv_runtime.Preprocess((8, 8)), labels=["a", "b", "c"]
            ) as opened:
                calls = {"raw": raw, "own": partial(opened.run, {"image": x})}
                found = {name: min(each) for name, each in study.blocks_us(calls).items()}
            lines.append(f"| {backend} | {found['raw']:.1f} | {found['own']:.1f} | {found['own'] - found['raw']:.1f} |")
    return lines


def serve(bundle: str, name: str) -> None:
    """A contender's process: a line on stdin is answered with the median of one round."""
    x = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)
    study.answer_rounds(CONTENDERS[name](Path(bundle), x))


def main() -> None:
    """Measure every contender and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--generations", type=int, default=3, help="how often all processes are started anew")
    parser.add_argument("--serve", nargs=2, metavar=("BUNDLE", "NAME"))
    given = parser.parse_args()
    if given.serve:
        serve(*given.serve)
        return
    names = [name for name in CONTENDERS if given.peers or not name.startswith(("polyinfer", "openvino-model-api"))]
    with study.exported(MODEL) as bundle:
        contenders = {name: [str(bundle), name] for name in names}
        found = study.processes_ms(Path(__file__), contenders, given.generations, ROUNDS, SECONDS, given.peers)
    lines = ["| contender | ms, median of rounds (10–90 %) |", "| --- | ---: |"]
    lines += [f"| {name} | {study.shown(values)} |" for name, values in found.items()]
    lines += ["", "| compared | ratio of the same round, median (10–90 %) |", "| --- | ---: |"]
    lines += [
        f"| {own} / {other} | {study.shown_ratio(found[own], found[other])} |"
        for own, other in RATIOS
        if own in found and other in found
    ]
    lines += ["", "| a graph that does next to nothing | runtime, µs | edgecv, µs | added, µs |"]
    lines += ["| --- | ---: | ---: | ---: |", *added_us()]
    lines += ["", f"Peers: {', '.join(peer_versions(given.peers))}."] if given.peers else []
    how = (
        f"`{MODEL}` with fresh weights, uint8 (1, {SIZE}, {SIZE}, 3), batch 1, each contender in a process of its own. "
        f"{given.generations} generations of processes, {ROUNDS} interleaved rounds of {SECONDS} s in each. Below 1 is "
        "faster than what it is compared with."
    )
    STUDY.record([how, "", *lines])


def peer_versions(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix(".dist-info") for path in folder.glob("*.dist-info"))


STUDY = study.Study(
    Path(__file__),
    "What edgecv adds to the runtime below it",
    picture=plots.Rows(
        "ratio of times of the same round, median (10–90 %); below 1 the first is faster",
        {"ratio of the same round, median (10–90 %)": ""},
        line=1,
    ),
)


if __name__ == "__main__":
    main()
