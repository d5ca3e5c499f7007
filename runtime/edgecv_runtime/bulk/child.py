"""The process that computes chunks: what a decoder or a runtime crashes or hangs ends this process only."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection

import msgspec

from edgecv_runtime.bulk import job
from edgecv_runtime.bulk.tables import Row, broken, rows_of
from edgecv_runtime.errors import ComputationError, EdgecvError
from edgecv_runtime.predictor import Predictor

_TOGETHER = 64  # pictures between two signs of life
_GONE = (EOFError, BrokenPipeError, ConnectionResetError)


def main(descriptor: int) -> None:
    """Serve the `Worker` at the other end of a pipe until that is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the first one decides
    with Connection(descriptor) as channel:
        try:
            try:
                _serve(channel)
            except _GONE:
                raise
            except EdgecvError as exc:
                channel.send(("failed", exc))
            except Exception as exc:  # what nobody has thought of is told where somebody reads it
                channel.send(("failed", ComputationError(f"{type(exc).__name__}: {exc}")))
        except _GONE:
            return


def _serve(channel: Connection) -> None:
    predictor, bundle = channel.recv()
    job.check_same(predictor, bundle)
    channel.send(("ready", None))
    while True:
        names, known, together = channel.recv()
        size = _TOGETHER if together else 1
        rows: list[Row] = []
        for start in range(0, len(names), size):
            if start in known:
                rows.append(broken(names[start], known[start], predictor.names))
                continue
            channel.send(("at", start))
            rows += _computed(predictor, names[start : start + size])
        channel.send(("part", (msgspec.msgpack.encode(rows), len(rows), sum(row[-1] is not None for row in rows))))


def _computed(predictor: Predictor, names: Sequence[str]) -> list[Row]:
    """The rows of some pictures; singly when a backend raises what is no error of ours."""
    try:
        return rows_of(names, predictor(names))
    except EdgecvError:
        raise
    except Exception as exc:
        if len(names) == 1:
            return [broken(names[0], f"{names[0]}: {type(exc).__name__}: {exc}", predictor.names)]
        return [row for name in names for row in _computed(predictor, [name])]


if __name__ == "__main__":
    main(int(sys.argv[1]))
