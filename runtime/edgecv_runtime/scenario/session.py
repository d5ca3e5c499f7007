"""Play a plan on targets, each in a process of its own, watched, and make the report of it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec
import numpy as np

from edgecv_runtime import backends, machine, spawned
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import BadInput, ComputationError
from edgecv_runtime.evidence import Key, Score
from edgecv_runtime.lastwords import LONGEST, LastWords
from edgecv_runtime.scenario import cold, limits, loadgen, report, trust, watch
from edgecv_runtime.scenario.energy import Energy
from edgecv_runtime.scenario.messages import Block, Done, Job, Play, Ready, Said
from edgecv_runtime.scenario.own import STAGES
from edgecv_runtime.scenario.plan import LOADGEN, Act, Plan
from edgecv_runtime.scenario.report import Report, Run, Stage
from edgecv_runtime.target import Target

T = TypeVar("T")
GPU_BACKENDS = ("tensorrt",)


def bench(
    bundle: Bundle,
    targets: Sequence[Target],
    plan: Plan,
    *,
    isa: str = limits.NATIVE,
    pictures: Sequence[Path] = (),
    scores: Mapping[Key, Score] = {},
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Play a plan on each target, one after the other.

    isa: what this process is limited to (`limits.limited`), for the report. pictures: image files for "frames".
    scores: of the very files, by variant, backend and precision hint. An interrupt ends it: what was measured is
    in the report, which says that it is partial. Raises ComputationError when not one
    target could be timed; what some of several could not run is in the report.
    """
    check(targets, plan, isa)
    settings = watch.settings(isa)
    runs: list[Run] = []
    failed: list[str] = []
    partial = False
    try:
        for target in targets:
            progress(f"{plan.scenario}: {target.key}")
            score = scores.get((target.variant, target.backend, target.hint))
            found = _cold(bundle, target, plan) if plan.scenario == "cold" else _played(bundle, target, plan, pictures)
            try:
                for run in found:
                    runs.append(_judged(run, settings, score))
            except ComputationError as exc:
                failed.append(str(exc))
                progress(f"warning: {exc}")
    except KeyboardInterrupt:
        partial = True
    if not runs and not partial:
        raise ComputationError(f"{bundle.path}: nothing could be timed: {failed[0] if failed else 'no target'}")
    return Report(
        schema=report.SCHEMA,
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        edgecv=_version(),
        bundle=bundle.manifest.name,
        machine=machine.this(),
        settings=settings,
        runs=runs,
        partial=partial,
        failed=failed,
    )


def check(targets: Sequence[Target], plan: Plan, isa: str = limits.NATIVE) -> None:
    """Before minutes go into it: raises BadInput for what a target cannot play, Unavailable without LoadGen."""
    for target in targets:
        limits.check_backend(target.backend, isa)
        if target.is_remote:
            raise BadInput(f"{target.key}: a scenario watches the machine that computes: run it there")
    if plan.scenario in LOADGEN:
        loadgen.module()


def _played(bundle: Bundle, target: Target, plan: Plan, pictures: Sequence[Path]) -> Iterator[Run]:
    """A run of each act; when Ctrl-C comes, one of what was told until then, before it is raised again."""
    with _Player(bundle, target, plan, pictures) as player:
        ready = player.ready()
        for act in plan.acts:
            told: list[Block] = []
            done: Done | None = None
            interrupt: KeyboardInterrupt | None = None
            watcher = watch.Watcher([player.pid], target.backend in GPU_BACKENDS)
            begin = time.time()
            with watcher:
                try:
                    done = player.play(act, plan.seconds, told.append)
                except KeyboardInterrupt as exc:
                    interrupt = exc
            blocks = [each for each in told if not each.so_far] or told
            done = done or _until_now(begin, blocks, plan.calls, player.pid)
            if blocks or interrupt is None:
                around = watcher.around(done.begin, done.end)
                energy = watcher.energy(done.begin, done.end, done.frames)
                run = _run(target, plan, act, ready, blocks, done, around, energy)
                yield msgspec.structs.replace(run, partial=interrupt is not None)
            if interrupt is not None:
                raise interrupt


def _until_now(begin: float, blocks: Sequence[Block], calls: int, pid: int) -> Done:
    """The end of an act that is interrupted: that of the last call that was told; calls: frames of each."""
    frames = calls * sum(len(each.ms) for each in blocks)
    took_s = blocks[-1].at_s[-1] + blocks[-1].ms[-1] / 1e3 if blocks else 0.0
    dropped = sum(each.dropped for each in blocks)
    return Done(begin, begin + took_s, frames, machine.rss_mb(pid), machine.peak_rss_mb(pid), dropped)


def _run(
    target: Target,
    plan: Plan,
    act: Act,
    ready: Ready,
    blocks: list[Block],
    done: Done,
    around: watch.Surroundings,
    energy: Energy,
) -> Run:
    at_s = [at for block in blocks for at in block.at_s]
    took = [ms for block in blocks for ms in block.ms]
    parts = {name: [ms for block in blocks for ms in block.parts.get(name, [])] for name in STAGES}
    stages = _stages(parts) if act == "frames" else []
    return Run(
        label=plan.label(act),
        scenario=plan.scenario,
        act=act,
        variant=target.variant,
        sha256=target.sha256,
        backend=target.backend,
        device=ready.device,
        hint=target.hint,
        executed=ready.executed.precision,
        layers=ready.executed.layers,
        versions=target.kind.probe(),
        threads=ready.threads,
        streams=ready.streams,
        batch=plan.calls,
        fed=ready.fed,
        warm_up=ready.warm_up,
        times=report.times(took, done.frames, done.end - done.begin),
        dropped=done.dropped,
        rss_mb=done.rss_mb,
        peak_rss_mb=done.peak_rss_mb,
        energy=energy,
        score=None,
        stages=stages,
        unstaged=1 - sum(map(sum, parts.values())) / 1e3 / (done.end - done.begin) if stages else None,
        surroundings=around,
        loadgen=done.loadgen,
        trust=[],
        at_s=at_s,
        took_ms=took,
    )


def _stages(parts: Mapping[str, list[float]]) -> list[Stage]:
    whole = sum(map(sum, parts.values()))
    return [Stage(name, float(np.median(ms)), sum(ms) / whole) for name, ms in parts.items() if ms]


def _cold(bundle: Bundle, target: Target, plan: Plan) -> Iterator[Run]:
    """Starts with an empty cache and with a kept one, in turn: a run of each kind."""
    found: dict[str, list[cold.Start]] = {cold.EMPTY: [], cold.KEPT: []}
    moments: dict[str, list[float]] = {cold.EMPTY: [], cold.KEPT: []}
    begin = time.time()
    interrupt: KeyboardInterrupt | None = None
    with watch.Watcher() as watcher:
        try:
            for kind, start in cold.starts(bundle.root, target, plan.threads, plan.starts):
                moments[kind].append(time.time() - begin - start.ends_s[-1])
                found[kind].append(start)
        except KeyboardInterrupt as exc:
            interrupt = exc
    around = watcher.around(begin, time.time())
    for kind, every in found.items():
        if not every:
            continue
        took = [1e3 * start.ends_s[-1] for start in every]
        parts = {name: [start.stages_ms[name] for start in every] for name in cold.STAGES}
        ready = Ready(every[0].executed, target.device, target.threads or machine.this().cores, 1, 0,
                      "a golden input, to results")  # fmt: skip
        memory = [max(getattr(start, name) for start in every) for name in ("rss_mb", "peak_rss_mb")]
        done = Done(begin, begin + sum(took) / 1e3, len(took), *memory)
        whole = Energy(unavailable="of starts it is not measured: processes come and go")
        run = _run(target, plan, "flat out", ready, [Block(moments[kind], took)], done, around, whole)
        cut = interrupt is not None
        yield msgspec.structs.replace(run, label=kind, act="cold", stages=_stages(parts), unstaged=0.0, partial=cut)
    if interrupt is not None:
        raise interrupt


def _judged(run: Run, settings: watch.Settings, score: Score | None) -> Run:
    """The run with its score, and with what is to be said of its trustworthiness."""
    answers = trust.judged(run.times, run.took_ms, run.surroundings, settings, run.act not in ("paced", "server"))
    if run.loadgen:
        why = str(run.loadgen.get("early_stopping_result") or run.loadgen.get("result_invalid_reason") or "")
        valid = run.loadgen["result_validity"] == "VALID"
        answers.append(report.Trust("LoadGen finds it valid", valid, " ".join(why.split()) or "all its rules are met"))
    if run.unstaged is not None:
        answers.append(
            report.Trust(
                "stages add up", abs(run.unstaged) <= 0.02, f"{run.unstaged:.2%} of the wall clock lies in none"
            )
        )
    if run.act == "paced":
        answers.append(
            report.Trust("kept pace", not run.dropped, f"{run.dropped} frames dropped, the newest was taken")
        )
    asked_for = run.hint if run.variant == "float32" else None
    if asked_for and run.executed != backends.UNKNOWN:
        answers.append(
            report.Trust(
                "precision as asked", run.executed == asked_for, f"asked for {asked_for}, ran in {run.executed}"
            )
        )
    scored = report.accuracy(score)
    answers.append(report.Trust("accuracy of this very file", score is not None, scored))
    if run.partial:
        own = "; LoadGen did not end it: times are the calls' own, without what waited" if run.act in LOADGEN else ""
        answers.append(report.Trust("came to its end", False, f"it was interrupted{own}"))
    return msgspec.structs.replace(run, score=score, trust=answers)


class _Player:
    """The process that plays (`player`)."""

    def __init__(self, bundle: Bundle, target: Target, plan: Plan, pictures: Sequence[Path]) -> None:
        self._target = target
        self._process = subprocess.Popen(
            spawned.command("from edgecv_runtime.scenario.player import main; sys.exit(main())"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**spawned.environment(), "TZ": "UTC"},  # LoadGen logs local time
            start_new_session=True,  # Ctrl-C is for us: what was measured is kept
        )
        self._words = LastWords(self._process.stderr)
        self.pid = self._process.pid
        paths = tuple(str(path.resolve()) for path in pictures)
        self._tell(Job(str(bundle.root), target.variant, target.asked, target.hint, plan, paths))

    def ready(self) -> Ready:
        """Wait until it is loaded and warm; raises ComputationError with its last words when it cannot."""
        return self._expect(Ready)

    def play(self, act: Act, seconds: float, take: Callable[[Block], object]) -> Done:
        """Have it play an act; each block is taken as soon as it comes."""
        self._tell(Play(act, seconds))
        while True:
            said = self._hear()
            if isinstance(said, Done):
                return said
            if isinstance(said, Block):
                take(said)

    def _expect(self, kind: type[T]) -> T:
        said = self._hear()
        assert isinstance(said, kind), said
        return said

    def _tell(self, question: Job | Play) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the process has ended; its answer says why
            self._process.stdin.write(msgspec.json.encode(question) + b"\n")
            self._process.stdin.flush()

    def _hear(self) -> Said:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            last = self._words.last()[:LONGEST] or f"without a word, exit status {self._process.returncode}"
            raise ComputationError(f"{self._target.key}: the benchmark process ended: {last}")
        said: Said = msgspec.json.decode(line, type=Said)
        return said

    def __enter__(self) -> _Player:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _version() -> str:
    try:
        return version("edgecv")
    except PackageNotFoundError:
        return ""
