"""The TensorRT backend: devices and options, batches cut to what an engine takes, and what executes."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.backends import Executed, Options, Tensors, summarize
from edgecv_runtime.backends.tensorrt import api
from edgecv_runtime.backends.tensorrt.build import Plan, check_serves, placement
from edgecv_runtime.backends.tensorrt.cuda import gpu
from edgecv_runtime.backends.tensorrt.engine import Engine
from edgecv_runtime.backends.tensorrt.network import MAX_BATCH, read_network
from edgecv_runtime.backends.tensorrt.pool import Pool
from edgecv_runtime.backends.tensorrt.worker import Worker
from edgecv_runtime.errors import BadInput, Closed
from edgecv_runtime.manifest import Precision

GRAPHS_OFF = "EDGECV_CUDA_GRAPHS"
BUSY_STREAMS = 2  # one copies while the other computes

_opening = threading.Lock()


class TensorRtBackend:
    """TensorRT on the first NVIDIA GPU, or on a DLA core of a Jetson (device "dla:0") with the GPU for the rest.

    Up to `streams` calls run at once, each in an execution context of its own that is made when it is needed; others
    wait. A batch larger than the engine's runs in parts. CUDA graphs are off when the environment variable
    EDGECV_CUDA_GRAPHS is 0. CPU threads have no meaning here.
    """

    def __init__(self, model: Path, options: Options) -> None:
        self._plan = plan(options.device)
        if options.precision not in self.precisions():
            raise BadInput(
                f"tensorrt takes its precision from the ONNX file, not {options.precision} by option; "
                f"float files run as: {', '.join(self.precisions())}"
            )
        self.probe()
        self._model = model
        self.streams = options.streams or BUSY_STREAMS
        graphs = os.environ.get(GRAPHS_OFF, "1") != "0"
        with _opening:  # two threads would build one engine twice
            engine = Engine(model, gpu(), self._plan, graphs)
        by_worker = graphs and not api.abilities(api.library()).rtx
        self._engine: Engine | None = engine
        self._pool: Pool[Worker] = Pool(
            lambda: Worker(engine, self._plan.max_batch, by_worker), Worker.close, self.streams, model.name
        )

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Run named tensors through the network; outputs are copies the caller owns."""
        rows = len(next(iter(feeds.values())))
        with self._pool.lend() as worker:
            parts = [
                worker.run({name: tensor[start : start + worker.max_batch] for name, tensor in feeds.items()})
                for start in range(0, rows, worker.max_batch)
            ]
        engine = self._engine
        if engine is not None and any(new for _, new in parts):
            engine.keep_kernels()
        answers = [outputs for outputs, _ in parts]
        if len(answers) == 1:
            return answers[0]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    def executed(self) -> Executed:
        """Count the engine's layers by precision; where it does not tell them, those of the network it was built from.

        Layers that were fused into one name no types; strongly typed networks are built as they were parsed.
        With a DLA, the counts say what its builder gave to the DLA and what fell back to the GPU.
        """
        engine = self._engine
        if engine is None:
            raise Closed(f"tensorrt: {self._model.name} is closed")
        if self._plan.dla is not None:
            return summarize(placement(self._model, self._plan))
        return summarize(engine.layers() or read_network(self._model).layers)

    def close(self) -> None:
        """Wait for the calls that run, then free the engine, its contexts and their memory; closing twice is fine."""
        self._pool.close()
        self._engine = None

    @staticmethod
    def probe() -> dict[str, str]:
        """Versions of TensorRT and of the CUDA that the driver serves.

        Raises BackendUnavailable that says which is missing: GPU or driver, NVIDIA's bindings, or TensorRT.
        """
        found = gpu()
        library = api.library()
        check_serves(library, found)
        return {library.__name__: library.__version__, "cuda": found.cuda}

    @staticmethod
    def precisions(device: str = Options().device) -> tuple[Precision, ...]:
        """Float32 only: other precisions are in the ONNX file."""
        del device
        return ("float32",)


def plan(device: str) -> Plan:
    """What an engine is built for on a device; raises BadInput for one that TensorRT has not."""
    if device in (Options().device, "gpu"):  # the default asks for nothing
        return Plan(max_batch=MAX_BATCH)
    core = re.fullmatch(r"dla:(\d)", device)
    if core is None:
        raise BadInput(
            f"tensorrt runs on device 'gpu', the first NVIDIA GPU, or a Jetson's 'dla:0' or 'dla:1', not on '{device}'"
        )
    return Plan(max_batch=1, dla=int(core[1]))
