"""Targets: the ways to run a bundle's files here, and the entries that hold what was measured of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec

from edgecv_runtime import backends, onnxfile
from edgecv_runtime.backends import DEFAULT_DEVICE, Backend, Executed, Injected, Kind, Options, Remote
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import EdgecvError
from edgecv_runtime.evidence import Entry
from edgecv_runtime.goals import Trial
from edgecv_runtime.machine import Machine
from edgecv_runtime.manifest import Precision, TensorSpec
from edgecv_runtime.records import Record


class Target(Record, frozen=True):
    """One way to run a model: an ONNX file, a backend, the precision of what is not quantized, and its settings.

    streams: calls that compute at once, 0 for as many as the backend likes. batch: frames a call of `Model.map`.
    rows: of a graph whose batch is fixed, how many it takes at once; 0 where it takes any number.
    is_int8: whether the file is quantized; islands: then the precision of what is not. injected: the backend where its
    name alone does not tell it. busy_wait: see `Options`.
    keeps_goal: False when it was measured to miss the bound that was asked for, as did everything else.
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
    is_int8: bool = False
    islands: Precision = "float32"
    keeps_goal: bool = True
    rows: int = 0
    busy_wait: bool = True
    injected: Injected | None = None

    @property
    def kind(self) -> Kind:
        """What makes its backend."""
        return backends.get(self.backend) if self.injected is None else self.injected

    @property
    def machine(self) -> Machine:
        """Where it computes."""
        return backends.machine_of(self.kind)

    @property
    def asked(self) -> str:
        """By what name `load` finds the backend again; of an object of a program's own there is none."""
        return self.backend if self.injected is None else str(self.injected)

    @property
    def is_remote(self) -> bool:
        """Whether another program answers, by a network of its own in the place of the file."""
        return isinstance(self.injected, Remote)

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
            self.device, precision, self.threads, self.streams, digest=self.sha256, busy_wait=self.busy_wait
        )
        backend = self.kind(self.file, options)
        if not self.rows:
            return backend
        from edgecv_runtime.backends.fixed import FixedBatch

        return FixedBatch(backend, self.rows, str(self.file))

    def trial(self, **measured: Any) -> Trial:
        """The record of its measurement."""
        return Trial(self.variant, self.backend, self.hint, self.threads, self.streams, self.batch, **measured)


def targets(
    bundle: Bundle, backend: str | Injected = "auto", threads: int = 0, device: str = DEFAULT_DEVICE
) -> list[Target]:
    """Every way to run a bundle: variant x backend x native float precision.

    backend: a name, one that is injected, or "auto": all that work on this machine.
    """
    kinds = backends.asked(backend)
    served = {name: kind.serves(_hashes(bundle)) for name, kind in kinds.items() if isinstance(kind, Remote)}
    return [
        Target(
            variant.name,
            bundle.file(variant.file),
            bundle.sha256(variant.name),
            name,
            hint,
            threads,
            device,
            is_int8=variant.precision == "int8",
            islands=_islands(variant.islands, kind.precisions(device)),
            rows=_fixed_rows(bundle.manifest.input),
            injected=injected(kind),
        )
        for variant in bundle.manifest.variants
        for name, kind in kinds.items()
        if served.get(name, variant.name) == variant.name
        for hint in (kind.precisions(device) if variant.precision == "float32" else ("float32",))
    ]


def injected(kind: Kind) -> Injected | None:
    """A backend that is an object: its name alone does not tell it."""
    return None if isinstance(kind, type) else cast(Injected, kind)


def _hashes(bundle: Bundle) -> dict[str, str]:
    return {variant.name: bundle.sha256(variant.name) for variant in bundle.manifest.variants}


def _fixed_rows(spec: TensorSpec) -> int:
    rows = next(iter(spec.shape), "")
    return rows if isinstance(rows, int) else 0


def _islands(wanted: Precision, native: tuple[Precision, ...]) -> Precision:
    """What a device computes in that is not quantized: an NPU has no float32."""
    return wanted if wanted in native else next(iter(native), "float32")


def new_entry(target: Target, executed: Executed) -> Entry:
    """An entry of the machine that computes, with nothing measured yet."""
    return Entry(
        variant=target.variant,
        sha256=target.sha256,
        backend=target.backend,
        hint=target.hint,
        executed=executed.precision,
        layers=executed.layers,
        versions=target.kind.probe(),
        machine=target.machine,
    )


def failed_entry(target: Target, error: EdgecvError) -> Entry:
    """An entry that says why a backend could not run a file."""
    return msgspec.structs.replace(new_entry(target, Executed(precision="", layers={})), failed=str(error))
