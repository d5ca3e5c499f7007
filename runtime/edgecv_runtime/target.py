"""Targets: the ways to run a bundle's files here, and the entries that hold what was measured of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgecv_runtime import backends, machine, onnxfile
from edgecv_runtime.backends import DEFAULT_DEVICE, Backend, Executed, Options
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import EdgecvError
from edgecv_runtime.evidence import Entry
from edgecv_runtime.goals import Trial
from edgecv_runtime.manifest import Precision, TensorSpec
from edgecv_runtime.records import Record


class Target(Record, frozen=True):
    """One way to run a model: an ONNX file, a backend, the precision of what is not quantized, and its settings.

    streams: calls that compute at once, 0 for as many as the backend likes. batch: frames a call of `Model.map`.
    rows: of a graph whose batch is fixed, how many it takes at once; 0 where it takes any number.
    islands: of an int8 file, the precision of what is not quantized. keeps_goal: False when it was measured to miss the
    bound that was asked for, as did everything else.
    """

    variant: str
    file: Path
    sha256: str
    backend: str
    hint: Precision
    threads: int = 0
    device: str = DEFAULT_DEVICE
    streams: int = 1
    batch: int = 1
    reasons: tuple[str, ...] = ()
    islands: Precision = "float32"
    keeps_goal: bool = True
    rows: int = 0

    @property
    def key(self) -> str:
        """Short name: "int8-u8s8 on openvino", with the precision hint when it is not float32."""
        return f"{self.variant} on {self.backend}" + (f" ({self.hint})" if self.hint != "float32" else "")

    def open(self) -> Backend:
        """Check the file ourselves, the same for every backend, and compile it."""
        onnxfile.read(self.file)
        return self.compile()

    def compile(self) -> Backend:
        """Compile a file that was checked."""
        precision = self.hint if self.islands == "float32" else self.islands
        options = Options(
            device=self.device, precision=precision, threads=self.threads, streams=self.streams, digest=self.sha256
        )
        backend: Backend = backends.get(self.backend)(self.file, options)
        if not self.rows:
            return backend
        from edgecv_runtime.backends.fixed import FixedBatch

        return FixedBatch(backend, self.rows, str(self.file))

    def trial(self, **measured: Any) -> Trial:
        """The record of its measurement."""
        return Trial(self.variant, self.backend, self.hint, self.threads, self.streams, self.batch, **measured)


def targets(
    bundle: Bundle, names: list[str] | None = None, threads: int = 0, device: str = DEFAULT_DEVICE
) -> list[Target]:
    """Every way to run a bundle on the backends of this machine: variant x backend x native float precision."""
    names = list(backends.available()) if names is None else names
    return [
        Target(
            variant.name,
            bundle.file(variant.file),
            bundle.sha256(variant.name),
            name,
            hint,
            threads,
            device,
            islands=_islands(variant.islands, backends.get(name).precisions(device)),
            rows=_fixed_rows(bundle.manifest.input),
        )
        for variant in bundle.manifest.variants
        for name in names
        for hint in (backends.get(name).precisions(device) if variant.precision == "float32" else ("float32",))
    ]


def _fixed_rows(spec: TensorSpec) -> int:
    rows = next(iter(spec.shape), "")
    return rows if isinstance(rows, int) else 0


def _islands(wanted: Precision, native: tuple[Precision, ...]) -> Precision:
    """What a device computes in that is not quantized: an NPU has no float32."""
    return wanted if wanted in native else next(iter(native), "float32")


def new_entry(target: Target, executed: Executed) -> Entry:
    """An entry of this machine with nothing measured yet."""
    return Entry(
        variant=target.variant,
        sha256=target.sha256,
        backend=target.backend,
        hint=target.hint,
        executed=executed.precision,
        layers=executed.layers,
        versions=backends.available()[target.backend],
        machine=machine.this(),
    )


def failed_entry(target: Target, error: EdgecvError) -> Entry:
    """An entry that says why a backend could not run a file."""
    return msgspec.structs.replace(new_entry(target, Executed(precision="", layers={})), failed=str(error))
