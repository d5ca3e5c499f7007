"""Building an engine in a process of its own.

TensorRT's builder takes gigabytes, can be stopped only between its steps (before TensorRT 10 not at all), and takes its
process with it when it crashes. In a child, its memory goes back when it is done, an interrupt ends it at once, and a
crash is an error.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from logging.handlers import QueueHandler
from pathlib import Path
from typing import IO

from edgecv_runtime import spawned
from edgecv_runtime.backends.tensorrt.build import Plan, build_here
from edgecv_runtime.errors import ComputationError, EdgecvError

ENDING_S = 10.0  # what a child that says no more may take to end

# The paths are given too: a caller's may have been set by hand.
_CHILD = "import sys; sys.path[:] = {path!r}; from {module} import main; main()"


def build_engine(
    model: Path,
    plan: Plan | None = None,
    *,
    compute_capabilities: Sequence[tuple[int, int]] = (),
    timing: Path | None = None,
) -> bytes:
    """Build a serialized engine from an ONNX file, in a child process.

    plan: batches of 1 to 16 on the GPU unless given. compute_capabilities: of the GPUs to build for, [(8, 6), (8, 9)]
    say: TensorRT-RTX only, and no GPU is needed here; none: for the GPU of this machine. timing: file that keeps the
    measured times of kernels from build to build.
    Raises ModelFileError in one line, with the node that TensorRT does not take, and ComputationError when the builder
    crashes.
    """
    command = [sys.executable, "-c", _CHILD.format(path=sys.path, module=__name__)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError), child.stdin:
                pickle.dump((model, plan or Plan(), tuple(compute_capabilities), timing), child.stdin)
            engine = _listen(child.stdout)
            if engine is None:  # its pipe closes before it has ended; how it ends is the reason
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(ENDING_S)
        finally:
            child.kill()
    if engine is None:
        raise ComputationError(f"{model}: TensorRT's builder {_ended(child.returncode)}")
    return engine


def main() -> None:
    """What the child runs: log records, then an error or the engine, go back through the standard output."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends it at once; the parent gets the interrupt too
    answers = spawned.answers()

    class Answers(QueueHandler):
        def enqueue(self, record: logging.LogRecord) -> None:
            pickle.dump(record, answers)
            answers.flush()

    logging.getLogger("edgecv").addHandler(Answers(None))  # type: ignore[arg-type]
    logging.getLogger("edgecv").setLevel(logging.INFO)
    model, plan, compute_capabilities, timing = pickle.load(sys.stdin.buffer)
    answer: EdgecvError | bytes
    try:
        answer = build_here(model, plan, compute_capabilities=compute_capabilities, timing=timing)
    except EdgecvError as exc:
        answer = exc
    except Exception as exc:  # TensorRT's own, which may not be pickled
        text = " ".join(f"{type(exc).__name__}: {exc}".split())
        answer = ComputationError(f"{model}: TensorRT's builder failed: {text}")
    pickle.dump(answer, answers)
    answers.flush()


def _listen(answers: IO[bytes]) -> bytes | None:
    """The engine, once it comes; None when the child ends without one."""
    while True:
        try:
            answer = pickle.load(answers)
        except (EOFError, pickle.UnpicklingError):
            return None
        if isinstance(answer, EdgecvError):
            raise answer
        if isinstance(answer, bytes):
            return answer
        logger = logging.getLogger(answer.name)
        if logger.isEnabledFor(answer.levelno):
            logger.handle(answer)


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    reason = ": is there enough memory?" if code == -signal.SIGKILL else ""
    return f"crashed ({signal.Signals(-code).name}){reason}"
