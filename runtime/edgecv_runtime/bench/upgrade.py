"""Two environments beside each other: what another version of a runtime changes of a bundle's answers and speed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import edgecv_runtime
from edgecv_runtime import geometry, offers, spawned
from edgecv_runtime.bench.compare import Contender, compare
from edgecv_runtime.bench.latency import job
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import Unavailable
from edgecv_runtime.evidence import Agreement, Entry, Evidence, Key
from edgecv_runtime.paired import Ratio
from edgecv_runtime.records import Record
from edgecv_runtime.target import Target, targets
from edgecv_runtime.verify.compare import Comparison, task_of

HERE, THERE = "here", "there"
# Our own runtime in both environments, and nothing else of this one: what lies beside it stays out of the path.
_OURS = """
import runpy, sys
from importlib.util import module_from_spec, spec_from_file_location
folder, module, *sys.argv[1:] = sys.argv[1:]
spec = spec_from_file_location("edgecv_runtime", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["edgecv_runtime"] = module_from_spec(spec)
spec.loader.exec_module(sys.modules["edgecv_runtime"])
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


class Change(Record, frozen=True):
    """One way to run in this environment and in another.

    here, there: versions. failed: why it does not run there. agreement: of the answers to the golden inputs there with
    those here; None where these were the same to the last bit. lost: what is there beyond the budget, and was not here.
    ratio: of the times, there to here.
    """

    key: str
    here: dict[str, str]
    there: dict[str, str]
    failed: str = ""
    agreement: Agreement | None = None
    lost: str = ""
    ratio: Ratio | None = None

    @property
    def worse(self) -> bool:
        """Whether it fails there, loses accuracy, or is slower."""
        return bool(self.failed or self.lost) or (self.ratio is not None and self.ratio.verdict == "slower")


def upgrade(
    bundle: Bundle,
    python: Path,
    *,
    rounds: int = 8,
    seconds: float = 0.5,
    threads: int = 0,
    only: Callable[[Target], bool] = lambda _: True,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Change]:
    """Compare this environment with the one of another Python: answers to the golden inputs, and times side by side.

    That one needs the libraries of the runtime (numpy, msgspec, OpenCV and the backends), not edgecv: the same runtime
    is run in both. Raises Unavailable where they are not there.
    """
    progress(f"answers of {sys.executable}")
    before, outputs = _answers(bundle, Path(sys.executable))
    progress(f"answers of {python}")
    after, other_outputs = _answers(bundle, python)
    changes = []
    for target in filter(only, targets(bundle, threads=threads)):
        key = (target.variant, target.backend, target.hint)
        old = before[key]
        if old.failed:
            continue
        new = after.get(key)
        if new is None or new.failed:
            why = new.failed if new is not None else f"{target.backend} is not installed there, or has no {target.hint}"
            changes.append(Change(target.key, old.versions, new.versions if new else {}, failed=why))
            continue
        agreement = _agreement(bundle, target, outputs, other_outputs)
        change = Change(target.key, old.versions, new.versions, agreement=agreement, lost=_lost(bundle, old, new))
        changes.append(msgspec.structs.replace(change, ratio=_ratio(bundle, target, python, rounds, seconds, progress)))
    return changes


def _answers(bundle: Bundle, python: Path) -> tuple[dict[Key, Entry], dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="edgecv-answers-") as folder:
        file = Path(folder) / "answers.npz"
        command = [*_command(python, "edgecv_runtime.bench.answers"), str(bundle.root), str(file)]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except OSError as exc:
            raise Unavailable(
                f"{python}: cannot be run: {exc.strerror}; name a Python: --python ENV/bin/python"
            ) from exc
        if done.returncode:
            lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
            last = lines[-1].strip() if lines else f"exit code {done.returncode}"
            cure = f"; there: {python} -m pip install numpy msgspec opencv-python-headless onnxruntime"
            raise Unavailable(f"{python}: {last}{cure if 'No module named' in last else ''}")
        try:
            found = msgspec.json.decode(done.stdout, type=Evidence)
            with np.load(file) as outputs:
                return {each.target: each for each in found.entries}, dict(outputs)
        except (msgspec.MsgspecError, OSError) as exc:
            raise Unavailable(f"{python}: gives no answers, is it a Python? name one: --python ENV/bin/python") from exc


def _agreement(bundle: Bundle, target: Target, here: dict[str, Any], there: dict[str, Any]) -> Agreement | None:
    key = "/".join((target.variant, target.backend, target.hint)) + "/"
    own = {name.removeprefix(key): values for name, values in here.items() if name.startswith(key)}
    other = {name.removeprefix(key): values for name, values in there.items() if name.startswith(key)}
    if all(np.array_equal(own[name], other[name]) for name in own):
        return None
    view = geometry.whole(bundle.golden().images.shape[1:3])
    thresholds = bundle.manifest.thresholds(target.variant)
    found = Comparison(task_of(bundle.manifest), "this environment", "golden inputs", view, thresholds=thresholds)
    found.add(0, own, other)
    return found.agreement


def _lost(bundle: Bundle, old: Entry, new: Entry) -> str:
    """What is beyond the budget there and was not here."""
    return offers.beyond(new, bundle.manifest) if offers.is_good(old, bundle.manifest) else ""


def _ratio(
    bundle: Bundle, target: Target, python: Path, rounds: int, seconds: float, progress: Callable[[str], None]
) -> Ratio | None:
    contenders = [
        Contender(f"{target.key} {name}", job(bundle, target), _command(each, "edgecv_runtime.bench.worker"))
        for name, each in ((HERE, Path(sys.executable)), (THERE, python))
    ]
    done = compare(contenders, rounds=rounds, seconds=seconds, progress=lambda line: progress(f"{target.key}: {line}"))
    for line in done.disturbance.said:
        progress(f"warning: {line}")
    return done.contenders[1].ratio


def _command(python: Path, module: str) -> tuple[str, ...]:
    folder = edgecv_runtime.__file__
    assert folder is not None
    return (*spawned.command(_OURS, python), str(Path(folder).parent), module)
