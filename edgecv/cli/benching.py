"""`edgecv bench`: times of one bundle, or of several beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgecv.cli import benchasked as asking
from edgecv.cli import comparing, evidence, scenarios, there
from edgecv.cli.benchasked import Asked
from edgecv.cli.output import say, show_json
from edgecv_runtime import files
from edgecv_runtime.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.evidence import Entry

SECONDS, ROUNDS = 0.5, 5


def bench(
    bundles: asking.Bundles,
    seconds: asking.Seconds = None,
    rounds: asking.Rounds = None,
    batch: asking.Batch = 1,
    threads: asking.Threads = 0,
    data: evidence.Data = None,
    backend: evidence.Backend = "auto",
    max_megapixels: evidence.MaxMegapixels = 50.0,
    evidence_file: evidence.EvidenceFile = None,
    write: evidence.Write = True,
    json: evidence.Json = False,
    markdown: evidence.Markdown = False,
    scenario: asking.Scenario = None,
    variant: asking.Variant = None,
    fps: asking.Fps = None,
    minutes: asking.Minutes = None,
    qps: asking.Qps = None,
    bound_ms: asking.BoundMs = None,
    starts: asking.Starts = None,
    feed: asking.Feed = None,
    frames: asking.Frames = None,
    rules: asking.Rules = False,
    isa: asking.Isa = None,
    cpus: asking.Cpus = None,
    out: asking.Out = None,
    regress: asking.Regress = None,
    python: asking.Python = None,
    on: asking.On = None,
    folder: asking.Folder = None,
    wheel: asking.Wheel = None,
    offline: asking.Offline = False,
    ssh_config: asking.SshConfig = None,
) -> None:
    """Time every variant on every backend, in rounds or by a scenario; or bundles and variants beside each other.

    Several are compared with the first: the ratio of their times with its 95 % interval, and whether that is a
    difference. With --data, the very files that are timed are scored too. With --on, all of it runs on a device.
    """
    given: dict[str, Any] = dict(locals())
    asked = Asked(evidence=given.pop("evidence_file"), **given)
    way = asked.way
    if way is asking.SEVERAL:
        comparing.compare(asked, SECONDS if seconds is None else seconds)
        return
    path, *how = comparing.split(bundles[0])
    if how != ["auto", "auto"]:
        raise BadInput(f"{bundles[0]}: compared with what? name two or more, or the bundle alone: edgecv bench {path}")
    WAYS[way.name](path, asked)


def _rounds(path: Path, asked: Asked) -> None:
    """Time a bundle in rounds, here or on a device, score it where images are given, and keep the evidence."""
    from edgecv_runtime.bench import table
    from edgecv_runtime.bench.latency import bench as run_bench
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.evidence import Evidence

    looks = (asked.batch, asked.threads) != (1, 0)
    if looks and (asked.data is not None or asked.evidence is not None):
        raise BadInput("--batch and --threads only look: they go with neither --data nor --evidence")
    if asked.evidence is not None:
        files.check_place(asked.evidence)
    seconds, rounds = _length(asked)
    with Bundle(path) as opened:

        def partly(entries: list[Entry]) -> None:
            evidence.show(opened, Evidence(tuple(entries)), asked.json, asked.markdown, judged=opened.evidence())
            whole = next(each.latency.rounds for each in entries if each.latency)
            say(f"partial: {whole} of {rounds} rounds, and kept nowhere")

        entries = (
            there.measure(opened, asked, seconds, rounds)
            if asked.on is not None
            else run_bench(
                opened,
                backend=asked.backend,
                seconds=seconds,
                rounds=rounds,
                batch=asked.batch,
                threads=asked.threads,
                progress=say,
                partly=partly,
            )
        )
        if looks:
            say("not kept in the bundle: it is judged at batch 1, with the threads that a backend takes by itself")
            found = table.of_evidence(opened, Evidence(tuple(entries)), judged=opened.evidence())
            show_json(found) if asked.json else evidence.show_rows(found, asked.markdown)
            return
        if asked.data is not None:
            scores = evidence.scored(opened, asked.data, asked.max_megapixels, asked.backend)
            entries = list(Evidence(entries=tuple(entries)).merged(scores).entries)
        known = opened.evidence().merged(entries)
        evidence.show(opened, known, asked.json, asked.markdown)
        measured = {each.key for each in entries}  # with what was known of them: answers and accuracy beside the times
        evidence.save([each for each in known.entries if each.key in measured], asked.evidence)
        if not evidence.keep(opened, known, asked.write):
            raise typer.Exit(Unavailable.exit_code)


def _upgrade(path: Path, asked: Asked) -> None:
    """Measure beside another environment."""
    from edgecv_runtime.bench.upgrade import upgrade
    from edgecv_runtime.bundle import Bundle

    assert asked.python is not None
    seconds, _ = _length(asked)
    rounds = comparing.ROUNDS if asked.rounds is None else asked.rounds
    with Bundle(path) as opened:
        changes = upgrade(opened, asked.python, rounds=rounds, seconds=seconds, threads=asked.threads, progress=say)
    comparing.show_changes(changes, asked.json)


def _regress(path: Path, asked: Asked) -> None:
    """Measure a bundle beside a baseline; nothing is kept in it."""
    from edgecv.run import elsewhere
    from edgecv_runtime import machine
    from edgecv_runtime import verify as verification
    from edgecv_runtime.bench.latency import bench as run_bench
    from edgecv_runtime.bench.regress import Baseline, regress
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.evidence import Evidence

    assert asked.regress is not None
    seconds, rounds = _length(asked)
    with Bundle(path) as opened:
        baseline = Baseline(elsewhere.read(asked.regress), machine.this(), str(asked.regress))

        def timed() -> list[Entry]:
            return run_bench(opened, seconds=seconds, rounds=rounds, progress=say)

        proven = [each.entry for each in verification.verify(opened)]
        scored = _scored(opened, asked)
        now = Evidence().merged(proven).merged(scored).merged(timed())
        comparing.show_regressions(regress(baseline, opened.manifest, now.entries, timed), asked.json)


def _scored(opened: Bundle, asked: Asked) -> list[Entry]:
    return [] if asked.data is None else evidence.scored(opened, asked.data, asked.max_megapixels, "auto")


def _length(asked: Asked) -> tuple[float, int]:
    """Seconds of a round, and rounds."""
    return SECONDS if asked.seconds is None else asked.seconds, ROUNDS if asked.rounds is None else asked.rounds


WAYS = {
    "--scenario": scenarios.bench,
    "--on": _rounds,
    "--regress": _regress,
    "--python": _upgrade,
    asking.PLAIN.name: _rounds,
}
