"""A backend of a program's own, given to `load`, `verify` and `bench` as an object: outputs in half precision.

    python examples/inject_backend.py BUNDLE

So one asks what an accelerator would do to a bundle before there is one. An object holds settings, as an address or a
backend below it; what is measured of it is kept under its name and its machine.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

import edgecv_runtime as rt
from edgecv_runtime import backends, machine, verify
from edgecv_runtime.backends import DEFAULT_DEVICE, Backend, Options, Tensors
from edgecv_runtime.machine import Machine
from edgecv_runtime.manifest import Precision


# --- the backend
class Halves:
    """A network whose outputs are rounded to float16."""

    def __init__(self, inner: Backend) -> None:
        self.streams, self.executed, self.close = inner.streams, inner.executed, inner.close
        self._run = inner.run

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Run named tensors through the network."""
        return {name: each.astype(np.float16).astype(each.dtype) for name, each in self._run(feeds).items()}


class Halving:
    """Another backend, and an accelerator behind it."""

    name = "halving"

    def __init__(self, inner: str = "onnxruntime") -> None:
        self._inner = backends.get(inner)
        self.probe = self._inner.probe

    def __call__(self, model: Path, options: Options) -> Halves:
        """Compile an ONNX file."""
        return Halves(self._inner(model, options))

    def precisions(self, device: str = DEFAULT_DEVICE) -> tuple[Precision, ...]:
        """Float32 only."""
        return self._inner.precisions(device)[:1]

    def machine(self) -> Machine:
        """This one, with the accelerator."""
        return msgspec.structs.replace(machine.this(), gpu="halving accelerator")


# --- that is all
def main() -> None:
    """Run a bundle on it, and prove it."""
    path = Path(sys.argv[1])
    with rt.load(path, backend=Halving()) as model:
        print(f"{model.info.variant} on {model.info.backend}, runs in {model.info.precision}")
    with rt.Bundle(path) as bundle:
        for each in verify.verify(bundle, backend=Halving()):
            found = each.entry.agreement
            assert found is not None
            print(f"{each.entry.variant} there: {found.said()}, outputs off by {found.max_abs:.4f}")
            print(f"kept as evidence of: {each.entry.machine.key}")


if __name__ == "__main__":
    main()
