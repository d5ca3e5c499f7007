"""From a bundle here to a bundle that runs there: `edgecv deploy`.

On the device, below one folder:

    environments/ID   a virtual environment, named by the wheel and what it was made with; whole with `complete` in it
    bundles/ID        a bundle, named by its files without the evidence, which grows there
    releases/ID       links to one of each, how to start it (`restart`) and how to tell that it answers (`probe`)
    current           the one link that says what runs

One deployment goes on at a time (`alone.py`). Everything is made beside what runs and renamed when it is whole; then
`current` is exchanged, by one rename. So whatever interrupts this, the connection, a full disk, the power, the old
release runs on; what is half made is made anew next time.
Measured: 2026-11, against OpenSSH 9.2 on Debian 12 (tests/deploy).
"""

from __future__ import annotations

import hashlib
import shlex
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgecv.deploy import device, fits, running, service, wheels
from edgecv.deploy.alone import Alone
from edgecv.deploy.device import Facts, Plan
from edgecv.deploy.service import Service
from edgecv.deploy.ssh import Host
from edgecv_runtime import files, offers, records
from edgecv_runtime.bundle import EVIDENCE, MANIFEST, Bundle
from edgecv_runtime.errors import BadInput, ComputationError, EdgecvError, nearest
from edgecv_runtime.evidence import Entry, Evidence
from edgecv_runtime.records import Record

_ID = 12  # hexadecimal digits of a name by content: among thousands none meet
PROBE = '"$PWD/environment/bin/python" -m edgecv.deploy.probe "$PWD/bundle"\n'


class Asked(Record, frozen=True):
    """How to deploy.

    folder: on the device. wheel: of edgecv, None for one of this very edgecv. offline: bring all wheels from here.
    bench: measure there, too, so long for a round, and so many rounds. restart, probe: shell commands, run in the
    release's folder; restart starts what runs it (a service, say), probe tells by its exit code whether it answers, and
    by default loads the bundle with its self-test. ready_s: until it has to. extras: of edgecv, beside those that fit.
    service: what runs there from now on, in the place of restart and probe; without_service: ends what runs there.
    keep: how many old releases stay there, beside what runs and what ran before it.
    """

    folder: str = device.FOLDER
    wheel: Path | None = None
    offline: bool = False
    bench: bool = True
    seconds: float = 0.5
    rounds: int = 5
    restart: str = ""
    probe: str = ""
    ready_s: int = 60
    extras: tuple[str, ...] = ()
    keep: int = 2
    service: Service | None = None
    without_service: bool = False

    def __post_init__(self) -> None:
        if self.keep < 0:
            raise BadInput(f"--keep is how many old releases stay, 0 or more; got {self.keep}")
        for name, value in (("--ready", self.ready_s), ("--seconds", self.seconds), ("--rounds", self.rounds)):
            if value <= 0:  # there it would be said after minutes
                raise BadInput(f"{name} must be positive, got {value:g}")
        if self.service is not None and (self.restart or self.probe):
            raise BadInput("--service starts and probes by itself: leave out --restart and --probe")
        known = metadata.metadata("edgecv").get_all("Provides-Extra") or []
        for name in self.extras:
            if name not in known:
                raise BadInput(f"no extra '{name}'{nearest(name, known)}")


class Outcome(Record, frozen=True):
    """What came of it. steps: what each did, by its name. entries: the evidence that is new; release: what runs now."""

    host: str
    facts: Facts
    plan: Plan
    release: str
    before: str
    steps: dict[str, str]
    entries: tuple[Entry, ...]
    warnings: tuple[str, ...]


@dataclass
class Deployment:
    """One deployment as it goes on."""

    host: Host
    bundle: Bundle
    asked: Asked
    work: Path
    alone: Alone = field(init=False)
    facts: Facts = field(init=False)
    plan: Plan = field(init=False)
    wheel: Path = field(init=False)
    environment: str = field(init=False)
    content: str = field(init=False)
    release: str = field(init=False)
    entries: list[Entry] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    made: set[str] = field(default_factory=set)  # folders there that this deployment made

    def run(self, script: str, what: str, data: Path | None = None) -> str:
        """Run a script in the folder of deployments, which is this deployment's alone."""
        self.alone.check()
        script = f"set -e\nmkdir -p {shlex.quote(self.facts.folder)}\ncd {shlex.quote(self.facts.folder)}\n{script}"
        if data is None:
            return self.host.run(script, what=what)
        with data.open("rb") as file:
            return self.host.run(script, file, what=what)

    @property
    def python(self) -> str:
        """The environment's Python, seen from the folder of deployments."""
        return f"environments/{self.environment}/bin/python"


def _ask(job: Deployment) -> str:
    job.facts = device.ask(job.host, job.asked.folder)
    if job.facts.pending is not None:
        job.warnings.append("the last switch never ended (the power, say): 'edgecv deploy --status' tells what runs")
    return str(job.facts)


def _decide(job: Deployment) -> str:
    size_mb = sum(each.bytes for each in job.bundle.manifest.files.values()) // 1_000_000 + 1
    job.warnings += device.check(job.facts, job.host.name, size_mb, time.time(), offline=job.asked.offline)
    asked = job.asked
    if asked.service is not None:
        job.warnings += asked.service.check(job.facts, job.host.name)
    elif not asked.without_service:
        service.refuse_forgetting(job.facts, job.host.name)
    job.plan = device.plan(job.facts, (*asked.extras, *(asked.service.extras if asked.service else ())))
    refused = fits.refuse(job.bundle, job.facts, job.plan, job.host.name)
    job.wheel = wheels.given(job.asked.wheel) if job.asked.wheel else wheels.own(job.work)
    parts = (files.sha256(job.wheel), job.facts.python, job.facts.python_version, job.plan.sees_system)
    job.environment = _id(*parts, *job.plan.extras, *job.plan.packages)
    job.content = content_id(job.bundle)
    job.release = _id(job.environment, job.content, asked.restart, asked.probe, *_words(asked.service))
    return "; ".join([*job.plan.reasons, *refused])


def _install(job: Deployment) -> str:
    here = f"environments/{job.environment}"
    if job.environment in job.facts.environment:
        return f"{here} is there"
    job.made.add(here)
    box = job.work / "wheels"
    box.mkdir()
    (box / job.wheel.name).write_bytes(job.wheel.read_bytes())
    extras = ",".join(job.plan.extras)
    if job.asked.offline:
        arch = device.ARCHITECTURES[job.facts.arch]
        wheels.bring(job.wheel, extras, job.plan.packages, arch, job.facts.python_version, job.facts.glibc, box)
    system = "--system-site-packages " * job.plan.sees_system
    index = "--no-index --find-links $wheels" if job.asked.offline else ""
    wanted = " ".join(map(shlex.quote, job.plan.packages))
    script = f"""
here={here} wheels={here}/wheels
rm -rf $here
{shlex.quote(job.facts.python)} -m venv {system}$here
mkdir $wheels
tar -xf - -C $wheels
$here/bin/python -m pip --quiet --disable-pip-version-check --no-input install {index} \\
    "$wheels/{job.wheel.name}[{extras}]" {wanted}
$here/bin/python -c 'import edgecv_runtime'
rm -rf $wheels
sync
: >$here/complete
"""
    hint = "" if job.asked.offline else " (--offline brings the wheels from here)"
    job.run(script, f"making an environment{hint}", _packed(job.work, {path.name: path for path in box.iterdir()}))
    return f"{here}: edgecv[{extras}]"


def _copy(job: Deployment) -> str:
    there = f"bundles/{job.content}"
    if job.content in job.facts.bundle:
        return f"{there} is there"
    job.made |= {there, f"{there}.part"}
    names = [MANIFEST, *job.bundle.manifest.files]
    script = f"""
rm -rf {there}.part
mkdir -p {there}.part
tar -xf - -C {there}.part
sync
mv -T {there}.part {there}
"""
    job.run(script, "copying the bundle", _packed(job.work, {name: job.bundle.file(name) for name in names}))
    return there


def _prove(job: Deployment) -> str:
    there = f"bundles/{job.content}"
    options = f"--seconds {job.asked.seconds} --rounds {job.asked.rounds}"
    bench = f"{job.python} -m edgecv.cli --quiet bench {there} --json {options} >/dev/null" if job.asked.bench else ":"
    script = f"""
code=0
{job.python} -m edgecv.cli --quiet verify {there} --json >/dev/null || code=$?
[ $code = 0 ] || [ $code = 4 ] || exit $code
{bench}
cat {there}/{EVIDENCE}
"""
    raw = job.run(script, "verifying there").encode()
    found = records.decode(raw, Evidence, f"{job.host.name}: {EVIDENCE}")
    known = set(map(records.encode, job.bundle.evidence().entries))
    job.entries = [each for each in found.entries if records.encode(each) not in known]
    script = f'said=$({job.python} -m edgecv.deploy.probe {there}) || {{ echo "$said" >&2; exit 1; }}; echo "$said"'
    return job.run(script, "the self-test there").strip()


def _release(job: Deployment) -> str:
    there = f"releases/{job.release}"
    part = f"{there}.part"
    before = job.facts.current if job.facts.pending is None else job.facts.pending
    content = {"restart": job.asked.restart, "probe": job.asked.probe or PROBE}
    if job.asked.service is not None:
        content = job.asked.service.files(f"{job.facts.folder}/{there}", job.facts)
    own = job.work / "release"
    own.mkdir()
    for name, text in content.items():
        (own / name).write_text(text, encoding="utf-8")
    script = f"""
rm -rf {part}
mkdir -p {part}
tar -xf - -C {part}
ln -s ../../environments/{job.environment} {part}/environment
ln -s ../../bundles/{job.content} {part}/bundle
sync
if [ -d {there} ]; then rm -rf {part}; else mv -T {part} {there}; echo made; fi
if [ -n "{before}" ] && [ "{before}" != {job.release} ]; then
    ln -sfn ../{before} {there}/new
    mv -T {there}/new {there}/before
fi
"""
    job.made.add(part)
    if "made" in job.run(script, "writing the release", _packed(job.work, {name: own / name for name in content})):
        job.made.add(there)
    return there


def _switch(job: Deployment) -> str:
    return running.switch(job.host, job.facts.folder, job.release, job.asked.ready_s)


def _prune(job: Deployment) -> str:
    try:
        return running.prune(job.host, job.facts.folder, job.asked.keep)
    except EdgecvError as exc:  # the new release runs, and is not gone back from for this
        job.warnings.append(f"old releases stay, and go with the next deployment: {exc}")
        return "nothing"


class Step(NamedTuple):
    """A step: what it would do, what it does (-> what it did, in words), and what there is then removed to undo it."""

    name: str
    would: Callable[[Deployment], str]
    do: Callable[[Deployment], str]
    makes: Callable[[Deployment], tuple[str, ...]] = lambda _: ()


# The first two change nothing and are what --dry-run does. A switch that fails goes back by itself, on the device.
LOOKING = 2
STEPS = (
    Step("ask", lambda job: f"ask {job.host.name} what it is", _ask),
    Step("decide", lambda _: "pick the extras that fit", _decide),
    Step(
        "environment",
        lambda job: f"make environments/{job.environment} with edgecv[{','.join(job.plan.extras)}]",
        _install,
        lambda job: (f"environments/{job.environment}",),
    ),
    Step(
        "bundle",
        lambda job: f"copy the bundle to bundles/{job.content}",
        _copy,
        lambda job: (f"bundles/{job.content}", f"bundles/{job.content}.part"),
    ),
    Step("prove", lambda job: "verify" + " and bench" * job.asked.bench + " there, bring the evidence home", _prove),
    Step(
        "release",
        lambda job: f"write releases/{job.release}",
        _release,
        lambda job: (f"releases/{job.release}", f"releases/{job.release}.part"),
    ),
    Step("switch", lambda job: f"switch from {job.facts.current or 'nothing'}, probe, go back if it fails", _switch),
    Step("prune", lambda job: f"remove old releases but {job.asked.keep} and the one before", _prune),
)


def measure(host: Host, bundle: Bundle, asked: Asked, *, tell: Callable[[str], object] = lambda _: None) -> Outcome:
    """The same up to the proof: what runs there runs on, and the environment and the bundle stay for later."""
    proven = [step.name for step in STEPS].index("prove") + 1
    return deploy(host, bundle, asked, tell=tell, steps=STEPS[:proven])


def deploy(
    host: Host,
    bundle: Bundle,
    asked: Asked,
    *,
    dry_run: bool = False,
    tell: Callable[[str], object] = lambda _: None,
    steps: Sequence[Step] = STEPS,
) -> Outcome:
    """Bring a bundle to a device, prove it there and switch to it.

    tell: gets a line before each step. Raises Unavailable (no connection, a device that does not fit), ComputationError
    (a step failed there, or the probe did; then the old release runs) or BadInput; what was made there is removed again
    where the device can still be reached.
    """
    done: dict[str, str] = {}
    with ExitStack() as closing:
        work = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="edgecv-deploy-")))
        job = Deployment(host, bundle, asked, work)
        if not dry_run:
            job.alone = closing.enter_context(Alone(host, asked.folder))
        begun: list[Step] = []
        for number, step in enumerate(steps):
            if dry_run and number >= LOOKING:
                done[step.name] = f"would {step.would(job)}"
                continue
            tell(f"{host.name}: {step.name}")
            begun.append(step)
            try:
                done[step.name] = step.do(job)
            except (EdgecvError, KeyboardInterrupt) as exc:
                _take_back(job, begun, exc)
                raise
    return Outcome(
        host.name,
        job.facts,
        job.plan,
        job.release if not dry_run and "switch" in done else job.facts.current,
        job.facts.current,
        done,
        tuple(job.entries),
        tuple(job.warnings),
    )


def _take_back(job: Deployment, begun: list[Step], error: BaseException) -> None:
    """Undo steps, the last first. Where the device is gone, what was made lies there beside what runs.

    A switch that was cut off ends on the device, and needs what was made.
    """
    if begun[-1].name == "switch" and not isinstance(error, ComputationError):
        _add(error, "the device ends the switch alone; 'edgecv deploy --status' tells how")
        return
    try:
        for path in [path for step in reversed(begun) for path in step.makes(job)] if job.made else ():
            if path in job.made:
                job.run(f"rm -rf {path}", f"removing {path}")
    except EdgecvError:
        _add(error, "what runs there is untouched; what was begun lies beside it, and is taken up next time")


def _add(error: BaseException, text: str) -> None:
    error.args = (f"{error}; {text}",)


def lines(bundle: Bundle, entries: tuple[Entry, ...]) -> list[str]:
    """What was measured there, a line for each way to run, and whether it is offered there."""
    evidence, manifest = Evidence(entries), bundle.manifest
    found = []
    for key, machine in evidence.machines().items():
        why_not = offers.offered(manifest, evidence, machine).why_not
        for each in (entry for entry in entries if entry.machine.key == key):
            parts = [f"{each.variant} on {each.backend}" + f" ({each.hint})" * (each.hint != offers.FLOAT)]
            parts += [f"runs in {each.executed}"] * (not each.failed)
            parts += [each.agreement.said()] if each.agreement else []
            parts += [f"p50 {each.latency.p50_ms:.2f} ms"] if each.latency else []
            why = why_not.get(each.target, "")
            found.append(", ".join([*parts, f"not offered: {why}" if why else "offered"]) + f" [{key}]")
    return found


def content_id(bundle: Bundle) -> str:
    """A bundle's name by content: of all its files but the evidence."""
    table = {name: each for name, each in bundle.manifest.files.items() if name != EVIDENCE}
    return _id(records.encode(msgspec.structs.replace(bundle.manifest, files=table)))


def _words(asked: Service | None) -> tuple[bytes, ...]:
    return () if asked is None else (records.encode(asked),)


def _id(*parts: object) -> str:
    text = b"\0".join(part if isinstance(part, bytes) else str(part).encode() for part in parts)
    return hashlib.sha256(text).hexdigest()[:_ID]


def _packed(folder: Path, content: dict[str, Path]) -> Path:
    """A tar archive of plain files."""
    path = folder / "content.tar"
    with tarfile.open(path, "w") as archive:
        for name, file in content.items():
            archive.add(file, name)
    return path
