"""What `edgecv bench` does with several contenders, and how it says what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer

from edgecv.cli.benchasked import Asked
from edgecv.cli.evidence import EXIT_LOSSES
from edgecv.cli.output import say, show_json, stderr, stdout
from edgecv_runtime.errors import BadInput

if TYPE_CHECKING:
    from edgecv_runtime.bench.compare import Compared, Timed
    from edgecv_runtime.bench.regress import Regression
    from edgecv_runtime.bench.upgrade import Change
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.evidence import Score
    from edgecv_runtime.paired import Ratio
    from edgecv_runtime.target import Target

ROUNDS = 8


def split(name: str) -> tuple[Path, str, str]:
    """A contender, BUNDLE[#PRECISION][@BACKEND] -> the bundle, the precision and the backend, "auto" by default."""
    bundle, mark, how = name.rpartition("#")
    if not mark or Path(name).exists():
        return Path(name), "auto", "auto"
    precision, _, backend = how.partition("@")
    if not bundle:
        raise BadInput(f"'{name}': expected BUNDLE#PRECISION@BACKEND, runs/photos/bundle#int8@openvino say")
    return Path(bundle), precision or "auto", backend or "auto"


def compare(asked: Asked, seconds: float) -> None:
    """Compare contenders with the first of them, and print the ratios of their times."""
    from edgecv_runtime import choose
    from edgecv_runtime.bench import compare as comparing
    from edgecv_runtime.bench.latency import job
    from edgecv_runtime.bundle import Bundle

    with ExitStack() as stack:
        contenders = []
        for number, name in enumerate(asked.bundles):
            path, precision, backend = split(name)
            opened = stack.enter_context(Bundle(path))
            target = choose.for_bundle(opened, choose.Ask(backend, precision, threads=asked.threads))
            shown = f"{number + 1}: {path}, {target.key}"
            known = _score(opened, target)
            contenders.append(comparing.Contender(shown, job(opened, target, asked.batch), score=known))
        rounds = ROUNDS if asked.rounds is None else asked.rounds
        found = comparing.compare(contenders, rounds=rounds, seconds=seconds, progress=say)
    show(found, asked.json)


def _score(opened: Bundle, target: Target) -> Score | None:
    """What the bundle knows of the accuracy of that very file on that backend, as it is on this machine now."""
    from edgecv_runtime import offers

    now = {target.backend: target.kind.probe()}
    for each in offers.measured(opened.manifest, opened.evidence(), target.machine):
        if each.target == (target.variant, target.backend, target.hint):
            return None if offers.stale(each, target.machine, now) else each.score
    return None


def show(found: Compared, json: bool) -> None:
    """Print a comparison; what disturbed it goes to stderr."""
    if json:
        show_json(found)
    else:
        for each in found.contenders:
            stdout.print(_line(each), soft_wrap=True, highlight=False)
    for line in found.disturbance.said:
        stderr.print(f"edgecv: warning: {line}", soft_wrap=True)


def _line(each: Timed) -> str:
    from edgecv_runtime.scenario.report import accuracy

    times = f"{each.name}: p50 {each.p50_ms:.3g} ms, p99 {each.p99_ms:.3g} ms, runs in {each.executed.precision}"
    return "; ".join([times, *([said(each.ratio)] if each.ratio else []), accuracy(each.score)])


def said(ratio: Ratio) -> str:
    """A ratio, what it is and what it could have told."""
    words = {
        "as fast": f"no difference (one of {ratio.resolves:.1%} would show)",
        "not told": f"not told: only a difference of {ratio.resolves:.0%} would show; a quieter machine or more "
        "--rounds tell more",
    }
    return f"{ratio}: {words.get(ratio.verdict, ratio.verdict)}"


def show_changes(found: Sequence[Change], json: bool) -> None:
    """Print what another environment changes; a loss ends the command with exit code 4."""
    if json:
        show_json([{**msgspec.to_builtins(each), "worse": each.worse} for each in found])
    else:
        for each in found:
            stdout.print(_change(each), soft_wrap=True, highlight=False)
    _end([each.key for each in found if each.worse], "worse there")


def _change(each: Change) -> str:
    versions = ", ".join(
        f"{name} {old} → {each.there[name]}" if each.there.get(name, old) != old else f"{name} {old} in both"
        for name, old in each.here.items()
    )
    if each.failed:
        return f"{each.key}: {versions}: does not run there: {each.failed}"
    answers = "answers are the same to the last bit"
    if each.agreement is not None:
        answers = f"answers changed: there it {each.agreement.said()}, outputs by up to {each.agreement.max_abs:.2g}"
    parts = [f"{each.key}: {versions}: {answers}"]
    parts += [f"worse: {each.lost}"] if each.lost else []
    parts += [said(each.ratio)] if each.ratio else []
    return "; ".join(parts)


def show_regressions(found: Sequence[Regression], json: bool) -> None:
    """Print what is beside a baseline; a slow-down or a loss ends the command with exit code 4."""
    if json:
        show_json([{**msgspec.to_builtins(each), "slower": each.slower, "worse": each.worse} for each in found])
    else:
        for each in found:
            stdout.print(_regression(each), soft_wrap=True, highlight=False)
    _end([each.key for each in found if each.worse], "worse than the baseline")


def _regression(each: Regression) -> str:
    times = ", ".join(f"{value:.2f}" for value in each.times)
    if each.slower:
        speed = f"slower: {times} times, in each of {len(each.times)} measurements"
    elif len(each.times) > 1:
        speed = f"a slow-down is not confirmed: {times} times"
    else:
        speed = f"as fast as before or faster: {times} times" if times else "no times to compare"
    lost = f"; worse: {each.lost}" if each.lost else ""
    unseen = f"; not compared: {each.unseen}" if each.unseen else ""
    return f"{each.key}: {speed}{lost}{unseen}" + (f" ({each.changed})" if each.changed else "")


def _end(worse: Sequence[str], what: str) -> None:
    if worse:
        stderr.print(f"edgecv: {what}: {', '.join(worse)}", soft_wrap=True)
        raise typer.Exit(EXIT_LOSSES)
