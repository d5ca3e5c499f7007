"""Choose what runs: which variant on which backend, by what was asked, by the bundle's evidence and by measurement."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from edgecv_runtime import backends, machine, offers, onnxfile, tuning
from edgecv_runtime.backends import DEFAULT_DEVICE, Injected, Remote
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import BadInput, nearest
from edgecv_runtime.evidence import Evidence, Key
from edgecv_runtime.goals import Goal, Trial
from edgecv_runtime.inputs import Input
from edgecv_runtime.machine import Machine
from edgecv_runtime.manifest import Manifest, TensorSpec
from edgecv_runtime.offers import Offers
from edgecv_runtime.records import Record
from edgecv_runtime.target import Target, injected, targets
from edgecv_runtime.tuning import Memory

# Until it has been measured: the order in which backends are tried.
PREFERENCE = ("tensorrt", "openvino", "onnxruntime")
# The int8 dialects that a backend is made for, the best first; they count until one has been verified there.
DIALECTS = {"tensorrt": ("int8-s8s8-fp16", "int8-s8s8"), "openvino": ("int8-u8s8",), "onnxruntime": ("int8-u8s8",)}


class Ask(Record, frozen=True):
    """What was asked of `load`: see there. tune: search the whole grid, and remember the result for `load`."""

    backend: str | Injected = "auto"
    precision: str = "auto"
    device: str = DEFAULT_DEVICE
    threads: int = 0
    goal: Goal = Goal()
    tune: bool = False
    busy_wait: bool = True

    def __post_init__(self) -> None:
        if self.device != DEFAULT_DEVICE and self.backend == "auto":
            raise BadInput(f"device '{self.device}' is a backend's own: name the backend too, backend='openvino' say")
        if self.threads < 0:
            raise BadInput(f"threads must be at least 0, got {self.threads}")

    @property
    def named(self) -> str:
        """The backend's name."""
        return self.backend if isinstance(self.backend, str) else self.backend.name


def for_bundle(bundle: Bundle, ask: Ask) -> Target:
    """Choose for a bundle; raises BadInput or BackendUnavailable that says what there is."""
    rejected: list[str] = []
    usable = []
    found = targets(bundle, ask.backend, ask.threads, ask.device)
    evidence = bundle.evidence()
    places = {place.key: place for place in (each.machine for each in found)}
    now = {each.backend: each.kind.probe() for each in found}
    verdicts = {key: _Verdicts(bundle.manifest, evidence, place, now) for key, place in places.items()}
    for target in found:
        why_not = _why_not(target, bundle.manifest, verdicts[target.machine.key], ask.precision)
        if why_not:
            rejected.append(f"not {target.key}: {why_not}")
        else:
            usable.append(target)
    if not usable:
        names = [variant.name for variant in bundle.manifest.variants]
        known = list(dict.fromkeys(["auto", "float32", "bf16", "fp16", "int8", *names]))
        hint = nearest(ask.precision, known) if ask.precision not in known else ""
        reasons = "; ".join(rejected)
        raise BadInput(
            f"{bundle.path}: nothing runs at precision '{ask.precision}' on backend '{ask.named}'{hint} ({reasons})"
        )
    if ask.precision == "int8":
        usable = _one_dialect(usable, lambda target: verdicts[target.machine.key].here)
    best = _pick(usable, bundle.manifest.input, rejected, ask)
    return msgspec.structs.replace(best, busy_wait=ask.busy_wait)


def _one_dialect(usable: list[Target], there: Callable[[Target], Offers]) -> list[Target]:
    """Of several int8 variants on one backend, those offered there, or else the dialect that it is made for.

    "int8-u8s8-openvino" was made for that one backend, where it wanted another file than the others.
    """

    def rank(target: Target) -> tuple[bool, int]:
        offered = there(target).why_not.get((target.variant, target.backend, offers.FLOAT)) == ""
        made_for = DIALECTS.get(target.backend, (target.variant,))
        made_for = (*(f"{name}-{target.backend}" for name in made_for), *made_for)
        return (not offered, made_for.index(target.variant) if target.variant in made_for else len(made_for))

    best = {target.backend: min(rank(each) for each in usable if each.backend == target.backend) for target in usable}
    return [target for target in usable if rank(target) == best[target.backend]]


def for_file(file: Path, external: tuple[str, ...], entry: Input, ask: Ask) -> Target:
    """Choose for a plain ONNX file and the data files it names: only the backend and the float precision are open."""
    kinds = backends.asked(ask.backend)
    if any(isinstance(kind, Remote) for kind in kinds.values()):
        raise BadInput(
            f"{file}: a plain ONNX file has no golden inputs that would prove what {ask.named} answers: make it a "
            "bundle first, edgecv adopt"
        )
    digest = onnxfile.digest(file, external)
    usable = [
        Target(file.stem, file, digest, name, hint, ask.threads, ask.device, rows=entry.rows, injected=injected(kind))
        for name, kind in kinds.items()
        for hint in kind.precisions(ask.device)
        if hint == ask.precision or (ask.precision == "auto" and hint == "float32")
    ]
    if not usable:
        raise BadInput(
            f"{file}: precision '{ask.precision}' is not to be had on backend '{ask.named}' here; try 'auto'"
        )
    return msgspec.structs.replace(_pick(usable, entry.spec, [], ask), busy_wait=ask.busy_wait)


class _Verdicts:
    """What the evidence says of each way to run: that of the machine, and until there is some that of others.

    Of a server others say nothing.
    """

    def __init__(self, manifest: Manifest, evidence: Evidence, place: Machine, now: offers.Versions) -> None:
        self.here = offers.offered(manifest, evidence, place, now)
        others = [each for key, each in evidence.machines().items() if key != place.key and not place.server]
        self._elsewhere = [offers.offered(manifest, evidence, each) for each in others]

    def refused(self, key: Key) -> str:
        """Why a way to run is withheld, or ""; by other machines only where it was not measured here, and all agree.

        What another machine did not measure is no verdict.
        """
        if key in self.here.why_not:
            return self.here.why_not[key]
        known = [(each.machine, each.why_not[key]) for each in self._elsewhere if key in each.why_not]
        known = [(name, why) for name, why in known if why not in (offers.NOT_VERIFIED, offers.NOT_TIMED)]
        if not known or not all(why for _, why in known):
            return ""
        return f"{known[0][1]} (judged on {known[0][0]}; {offers.CURE} here)"


def _why_not(target: Target, manifest: Manifest, verdicts: _Verdicts, precision: str) -> str:
    """Why a target does not answer what was asked, or "" when it does."""
    variant = manifest.variant(target.variant)
    assert variant is not None
    key = (target.variant, target.backend, target.hint)
    if precision == variant.name != variant.precision and target.hint == "float32":
        return ""  # a dialect asked for by name: as it is, whatever the evidence says
    if precision == "auto" and target.hint != "float32":
        if verdicts.here.why_not.get(key) == "":
            return ""
        return f"{target.hint} is used only when asked for, or where it was measured to be the faster one"
    executes = target.hint if variant.precision == "float32" else variant.precision
    if precision not in ("auto", executes):
        return f"it is {executes}"
    if target.hint == "float32" and (refused := verdicts.refused(key)):
        return refused
    judged = key in verdicts.here.why_not or target.is_remote  # by the golden inputs, when it is loaded
    if precision == "auto" and variant.precision != "float32" and not judged:
        if key in verdicts.here.stale:
            return verdicts.here.stale[key]
        where = target.backend if verdicts.here.why_not else "this machine"
        return f"not judged on {where}; {offers.CURE}"
    return ""


def _pick(usable: list[Target], spec: TensorSpec, rejected: list[str], ask: Ask) -> Target:
    """Take what was found the best here before, or measure now, or where nothing is open what was asked for."""
    memory = None if ask.tune else tuning.recall(lambda: _digest(usable, ask))
    best = _target_of(memory.best, usable) if memory else None
    if memory is None or best is None:
        open_choice = len(usable) > 1 and "auto" in (ask.named, ask.precision)
        if not ask.tune and not open_choice:
            best = msgspec.structs.replace(min(usable, key=_preference), streams=1 if ask.goal.is_latency else 0)
            return msgspec.structs.replace(best, reasons=(f"{best.key}: what was asked for", *rejected))
        best, memory = _measured(usable, spec, ask)
        lost = tuning.remember(_digest(usable, ask), memory)
        rejected = [*rejected, *([lost] if lost else [])]
    ranked = sorted(memory.trials, key=lambda trial: (trial != memory.best, ask.goal.cost(trial)))
    tried = [_sentence(trial, usable) for trial in ranked]
    kept = ask.goal.kept_by(memory.best)
    verdict = "the best found here for" if kept else "the nearest, for nothing found here keeps"
    why = f"{_named(memory.best, best)}: {verdict} {ask.goal.text}"
    return msgspec.structs.replace(best, reasons=(why, *tried, *rejected), keeps_goal=kept)


def _measured(usable: list[Target], spec: TensorSpec, ask: Ask) -> tuple[Target, Memory]:
    """Search the grid, or measure every target once."""
    search = tuning.Search(usable, ask.goal, lambda some: tuning.measure(some, spec))
    best = search.run() if ask.tune else search.once()
    return best, search.memory(best)


def _digest(usable: list[Target], ask: Ask) -> str:
    """Names what was measured: this machine, these files, these versions, this goal."""
    import hashlib

    versions = {target.backend: [target.machine.key, target.kind.probe()] for target in usable}
    facts = [
        (machine.this().key, machine.this().driver, machine.this().power),
        ask.goal.text,
        [(each.key, each.islands, each.sha256, each.threads, each.device, versions[each.backend]) for each in usable],
    ]
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()[:32]


def _target_of(trial: Trial, known: list[Target]) -> Target | None:
    """The target that a trial measured, with its settings; None when it is no longer among those that may run."""
    for target in known:
        if (target.variant, target.backend, target.hint) == (trial.variant, trial.backend, trial.hint):
            return msgspec.structs.replace(target, threads=trial.threads, streams=trial.streams, batch=trial.batch)
    return None


def _preference(target: Target) -> int:
    return PREFERENCE.index(target.backend) if target.backend in PREFERENCE else len(PREFERENCE)


def _sentence(trial: Trial, known: list[Target]) -> str:
    target = _target_of(trial, known)
    name = _named(trial, target) if target else trial.variant
    if trial.failed:
        return f"not {name}: it does not load here: {trial.failed}"
    return f"measured {name}: {trial.p50_ms:.2f} ms (p99 {trial.p99_ms:.2f}), {trial.frames_per_s:.0f} frames/s"


def _named(trial: Trial, target: Target) -> str:
    """Its key, with the settings that are not the usual ones."""
    unusual = [("threads", trial.threads, 0), ("streams", trial.streams, 1), ("batch", trial.batch, 1)]
    text = ", ".join(f"{name} {value}" for name, value, usual in unusual if value != usual)
    return f"{target.key} [{text}]" if text else target.key
