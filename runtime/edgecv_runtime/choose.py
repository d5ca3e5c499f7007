"""Choose what runs: which variant on which backend, by what was asked, by the bundle's evidence and by measurement."""

from __future__ import annotations

import dataclasses
import hashlib
import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from edgecv_runtime import backends, files, machine, onnxfile
from edgecv_runtime.backends import Backend, Options
from edgecv_runtime.bench.timing import times_ms
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import BackendUnavailable, BadInput, EdgecvError, nearest
from edgecv_runtime.manifest import Manifest, Precision, TensorSpec

# Until it has been measured: the order in which backends are tried.
PREFERENCE = ("tensorrt", "openvino", "onnxruntime")
# The int8 dialect that a backend is made for; it counts until one has been verified there.
DIALECTS = {"tensorrt": "int8-s8s8", "openvino": "int8-u8s8", "onnxruntime": "int8-u8s8"}
ROUNDS, SECONDS_EACH = 3, 0.08


@dataclass(frozen=True)
class Target:
    """One way to run a model: an ONNX file, a backend and the float precision that is asked for.

    islands: of an int8 file, the precision of what is not quantized.
    """

    variant: str
    file: Path
    sha256: str
    backend: str
    hint: Precision
    threads: int
    reasons: tuple[str, ...] = ()
    islands: Precision = "float32"

    @property
    def key(self) -> str:
        """Short name: "int8-u8s8 on openvino", with the precision hint when it is not float32."""
        return f"{self.variant} on {self.backend}" + (f" ({self.hint})" if self.hint != "float32" else "")

    def open(self) -> Backend:
        """Check the file ourselves, the same for every backend, and compile it."""
        onnxfile.read(self.file)
        precision = self.hint if self.islands == "float32" else self.islands
        return backends.get(self.backend)(self.file, Options(precision=precision, threads=self.threads))


def targets(bundle: Bundle, names: list[str] | None = None, threads: int = 0) -> list[Target]:
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
            islands=variant.islands if variant.islands in backends.get(name).precisions() else "float32",
        )
        for variant in bundle.manifest.variants
        for name in names
        for hint in (backends.get(name).precisions() if variant.precision == "float32" else ("float32",))
    ]


def for_bundle(bundle: Bundle, backend: str, precision: str, threads: int) -> Target:
    """Choose for a bundle; raises BadInput or BackendUnavailable that says what there is."""
    rejected: list[str] = []
    usable = []
    for target in targets(bundle, _names(backend), threads):
        why_not = _why_not(target, bundle.manifest, precision)
        if why_not:
            rejected.append(f"not {target.key}: {why_not}")
        else:
            usable.append(target)
    if not usable:
        names = [variant.name for variant in bundle.manifest.variants]
        known = list(dict.fromkeys(["auto", "float32", "bf16", "fp16", "int8", *names]))
        hint = nearest(precision, known) if precision not in known else ""
        reasons = "; ".join(rejected)
        raise BadInput(
            f"{bundle.path}: nothing runs at precision '{precision}' on backend '{backend}'{hint} ({reasons})"
        )
    if precision == "int8":
        usable = _one_dialect(usable, bundle.manifest)
    return _pick(usable, bundle.manifest.input, rejected, measure=backend == "auto" or precision == "auto")


def _one_dialect(usable: list[Target], manifest: Manifest) -> list[Target]:
    """Of several int8 variants on one backend, those verified there, or else the dialect that it is made for."""

    def rank(target: Target) -> tuple[bool, bool]:
        variant = manifest.variant(target.variant)
        verified = variant is not None and target.backend in variant.backends
        return (not verified, target.variant != DIALECTS.get(target.backend, target.variant))

    best = {target.backend: min(rank(each) for each in usable if each.backend == target.backend) for target in usable}
    return [target for target in usable if rank(target) == best[target.backend]]


def for_file(file: Path, spec: TensorSpec, backend: str, precision: str, threads: int) -> Target:
    """Choose for a plain ONNX file: only the backend and the float precision are open."""
    digest = files.sha256(file)
    usable = [
        Target(file.stem, file, digest, name, hint, threads)
        for name in _names(backend)
        for hint in backends.get(name).precisions()
        if hint == precision or (precision == "auto" and hint == "float32")
    ]
    if not usable:
        raise BadInput(f"{file}: precision '{precision}' is not to be had on backend '{backend}' here; try 'auto'")
    return _pick(usable, spec, [], measure=backend == "auto")


def _names(backend: str) -> list[str]:
    if backend != "auto":
        backends.get(backend).probe()
        return [backend]
    found = backends.available()
    if not found:
        raise BackendUnavailable("no backend is installed: pip install 'edgecv[onnxruntime]' or 'edgecv[openvino]'")
    return list(found)


def _why_not(target: Target, manifest: Manifest, precision: str) -> str:
    """Why a target does not answer what was asked, or "" when it does."""
    variant = manifest.variant(target.variant)
    assert variant is not None
    if precision == variant.name != variant.precision and target.hint == "float32":
        return ""  # a dialect asked for by name: as it is, whatever the evidence says
    if precision == "auto" and target.hint != "float32":
        return f"{target.hint} is used only when asked for"
    executes = target.hint if variant.precision == "float32" else variant.precision
    if precision not in ("auto", executes):
        return f"it is {executes}"
    if target.backend in variant.withheld and target.hint == "float32":
        return variant.withheld[target.backend]
    if precision == "auto" and variant.precision != "float32":
        if manifest.judged_on != machine.this().key:
            return "not judged on this machine; run 'edgecv verify' and 'edgecv bench'"
        if target.backend not in variant.backends:
            return f"not verified on {target.backend}; run 'edgecv verify' and 'edgecv bench'"
    return ""


def _pick(usable: list[Target], spec: TensorSpec, rejected: list[str], measure: bool) -> Target:
    """Take the only one, or the fastest of a short measurement, remembered for this hardware and these files."""
    if len(usable) == 1 or not measure:
        best = min(usable, key=_preference)
        return dataclasses.replace(best, reasons=(f"{best.key}: what was asked for", *rejected))
    times = _remembered(usable, spec)
    for target in usable:
        if target.key not in times:
            rejected.append(f"not {target.key}: it does not load here")
    best = min((each for each in usable if each.key in times), key=lambda each: times[each.key])
    table = sorted(times.items(), key=lambda pair: pair[1])
    tried = [f"measured {key}: {ms:.2f} ms" for key, ms in table]
    return dataclasses.replace(best, reasons=(f"{best.key}: the fastest here", *tried, *rejected))


def _preference(target: Target) -> int:
    return PREFERENCE.index(target.backend) if target.backend in PREFERENCE else len(PREFERENCE)


def _remembered(usable: list[Target], spec: TensorSpec) -> dict[str, float]:
    """Median milliseconds by target, from the cache or measured now."""
    versions = backends.available()
    asked = [
        machine.this().key,
        [(each.key, each.sha256, each.threads, versions.get(each.backend)) for each in usable],
    ]
    digest = hashlib.sha256(msgspec.json.encode(asked)).hexdigest()[:32]
    try:
        path = files.cache_folder("auto") / f"{digest}.json"
        times = msgspec.json.decode(path.read_bytes(), type=dict[str, float])
        if times and set(times) <= {target.key for target in usable}:
            return times
    except (OSError, msgspec.DecodeError):
        pass  # nothing remembered, or nothing that can be read: measure
    times = _measure(usable, spec)
    try:
        files.write(files.cache_folder("auto") / f"{digest}.json", msgspec.json.encode(times))
    except OSError:
        return times  # a read-only or full cache folder costs the next start a measurement, no more
    return times


def _measure(usable: list[Target], spec: TensorSpec) -> dict[str, float]:
    """Short interleaved measurement at batch 1; targets that fail to load are left out, all failing is an error."""
    shape = [size if isinstance(size, int) else 1 for size in spec.shape]
    feed = {spec.name: np.random.default_rng(0).integers(0, 256, shape).astype(spec.dtype)}
    opened: dict[str, Backend] = {}
    errors: list[EdgecvError] = []
    for target in usable:
        try:
            opened[target.key] = target.open()
            opened[target.key].run(feed)
        except EdgecvError as exc:
            opened.pop(target.key, None)
            errors.append(exc)
    if not opened:
        raise errors[0]
    samples: dict[str, list[float]] = {key: [] for key in opened}
    for _ in range(ROUNDS):
        for key, backend in opened.items():
            samples[key].append(statistics.median(times_ms(partial(backend.run, feed), SECONDS_EACH)))
    for backend in opened.values():
        backend.close()
    return {key: statistics.median(values) for key, values in samples.items()}
