"""A graph that takes so many rows at once and no other number, run with any number of them.

Exporters fix the batch of what they traced unless they are told not to: a third of the files that people bring has a
batch of 1. Rows run in groups of that size; the last group is filled up with its last row, whose results are dropped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.backends import DEFAULT_DEVICE, Backend, Executed, Tensors
from edgecv_runtime.errors import ModelFileError
from edgecv_runtime.manifest import Precision


class FixedBatch:
    """A backend around another one, whose graph wants batches of `rows`."""

    def __init__(self, inner: Backend, rows: int, where: str) -> None:
        self.streams = inner.streams
        self._inner = inner
        self._rows = rows
        self._where = where

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Run any number of rows, group by group."""
        count = len(next(iter(feeds.values())))
        groups = [
            self._group({name: tensor[start : start + self._rows] for name, tensor in feeds.items()})
            for start in range(0, count, self._rows)
        ]
        if len(groups) == 1 and count == self._rows:
            return groups[0]
        for name in groups[0]:
            shapes = sorted({group[name].shape[1:] for group in groups})
            if len(shapes) > 1:
                raise ModelFileError(
                    f"{self._where}: output '{name}' is {shapes[0]} for one frame and {shapes[-1]} for another: export "
                    "the network with outputs of one size, before it drops any"
                )
        return {name: np.concatenate([group[name] for group in groups])[:count] for name in groups[0]}

    def executed(self) -> Executed:
        """What the graph executes."""
        return self._inner.executed()

    def close(self) -> None:
        """Release the graph."""
        self._inner.close()

    @staticmethod
    def probe() -> dict[str, str]:
        """It brings no library of its own."""
        return {}

    @staticmethod
    def precisions(device: str = DEFAULT_DEVICE) -> tuple[Precision, ...]:
        """Those of the graph's own backend, which is asked before this one is made."""
        del device
        return ()

    def _group(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        missing = self._rows - len(next(iter(feeds.values())))
        if missing:
            feeds = {name: np.concatenate([rows, np.repeat(rows[-1:], missing, 0)]) for name, rows in feeds.items()}
        return {name: self._by_row(name, tensor) for name, tensor in self._inner.run(feeds).items()}

    def _by_row(self, name: str, tensor: NDArray[Any]) -> NDArray[Any]:
        """An output with a row for each input; a graph for one row may leave that axis out."""
        if self._rows == 1 and (tensor.ndim < 2 or len(tensor) != 1):
            return tensor[np.newaxis]
        if tensor.ndim == 0 or len(tensor) != self._rows:
            raise ModelFileError(
                f"{self._where}: output '{name}' is {tensor.shape} for a batch of {self._rows}: it has no row for each "
                "frame; export the network with an output of (N, classes)"
            )
        return tensor
