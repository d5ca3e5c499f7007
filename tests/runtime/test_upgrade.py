"""What another version of a runtime changes is named: answers, speed, what no longer runs."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import msgspec
import onnxruntime
import pytest
import typer

from edgecv.cli import comparing
from edgecv_runtime import Bundle, machine
from edgecv_runtime.bench import regress as regressing
from edgecv_runtime.bench.regress import Baseline, Regression, regress
from edgecv_runtime.bench.upgrade import upgrade
from edgecv_runtime.errors import BadInput, Unavailable
from edgecv_runtime.evidence import Evidence, Score

OTHER = "1.23.2"  # of onnxruntime, with wheels for every Python that edgecv runs on
# What a version would be that answers otherwise and takes longer.
CHANGED = """
import time, onnxruntime
real = onnxruntime.InferenceSession.run
def run(self, names, feeds, options=None):
    found = real(self, names, feeds, options)
    time.sleep(0.002)
    return [each[:, ::-1].copy() for each in found]
onnxruntime.InferenceSession.run = run
onnxruntime.__version__ = "99.0"
"""


def environment(folder, start="", packages=True):
    """A Python with an environment of its own that sees these packages behind its own ones; start: runs first."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    if packages:
        (site / "these.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")) + "\n")
    if start:
        (site / "sitecustomize.py").write_text(start)
    return folder / "bin" / "python", site


def only_onnxruntime(target):
    return target.backend == "onnxruntime"


def test_two_versions_of_onnxruntime_are_compared_in_one_call(exported, tmp_path, capsys):
    python, site = environment(tmp_path / "other")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site]
    subprocess.run([*install, f"onnxruntime=={OTHER}"], check=True)
    with Bundle(exported) as opened:
        (found,) = upgrade(opened, python, rounds=4, seconds=0.08, only=only_onnxruntime)
    assert found.here == {"onnxruntime": onnxruntime.__version__}
    assert found.there == {"onnxruntime": OTHER}
    assert (found.failed, found.lost) == ("", "")
    assert found.agreement is None or found.agreement.max_abs < 1e-4
    assert found.ratio.pairs == 16
    quick = msgspec.structs.replace(found, ratio=msgspec.structs.replace(found.ratio, value=1.0, low=0.99, high=1.01))
    comparing.show_changes([quick], json=False)
    said = capsys.readouterr().out
    assert said.startswith(f"float32 on onnxruntime: onnxruntime {onnxruntime.__version__} → {OTHER}: answers ")
    assert "no difference (one of 1.0% would show)" in said


def test_changed_answers_and_lost_speed_are_named_and_end_with_exit_code_4(exported, tmp_path, capsys):
    python, _ = environment(tmp_path / "changed", CHANGED)
    with Bundle(exported) as opened:
        (found,) = upgrade(opened, python, rounds=4, seconds=0.08, only=only_onnxruntime)
    assert found.there == {"onnxruntime": "99.0"}
    assert found.agreement.share.value < 0.9
    assert found.lost
    assert found.ratio.verdict == "slower"
    with pytest.raises(typer.Exit) as ended:
        comparing.show_changes([found], json=False)
    assert ended.value.exit_code == 4
    said = capsys.readouterr()
    assert "→ 99.0: answers changed: there it agrees with this environment on " in said.out
    assert "; worse: " in said.out
    assert ": slower" in said.out
    assert "worse there: float32 on onnxruntime" in said.err


def test_what_does_not_run_there_is_named(exported, tmp_path):
    python, _ = environment(tmp_path / "broken", "import sys\nsys.modules['openvino'] = None")
    with Bundle(exported) as opened:
        found = upgrade(opened, python, rounds=4, seconds=0.02, only=lambda each: each.backend == "openvino")
    assert {each.key for each in found} >= {"float32 on openvino"}
    assert all("is not installed there" in each.failed and each.worse for each in found)
    empty, _ = environment(tmp_path / "empty", packages=False)
    with Bundle(exported) as opened:
        for python, said in (
            (empty, "pip install numpy"),
            (tmp_path / "nowhere", "cannot be run"),
            (Path("/bin/true"), "gives no answers"),  # says nothing, and ends well
        ):
            with pytest.raises(Unavailable, match=said):
                upgrade(opened, python)


@pytest.fixture
def timed(finished):
    """Entries with made up times: a function of how many times as long everything takes."""
    with Bundle(finished) as opened:
        manifest, entries = opened.manifest, [each for each in opened.evidence().entries if not each.failed]

    def measured(times, **changes):
        blocks = tuple(times * (1.0 if number % 3 else 2.0) for number in range(40))  # a third in a slow phase
        latency = msgspec.structs.replace(entries[0].latency, session="x", block_ms=blocks)
        good = msgspec.structs.replace(entries[0].agreement, max_abs=0.0, divergence=0.0)
        given = {"agreement": good, "latency": latency, "score": None, "finding": None, **changes}
        return [msgspec.structs.replace(each, **given) for each in entries]

    return manifest, measured


@pytest.mark.parametrize(
    ("now", "again", "slower", "asked"),
    [
        (1.3, [1.3, 1.2], True, 2),
        (1.3, [1.0], False, 1),  # a slow moment
        (1.3, [1.3, 1.0], False, 2),
        (1.05, [], False, 0),
        (0.5, [], False, 0),
    ],
)
def test_a_slow_down_is_confirmed_by_measuring_again(timed, now, again, slower, asked):
    manifest, measured = timed
    left = list(again)
    baseline = Baseline(Evidence(tuple(measured(1.0))), machine.this(), "base.json")
    found = regress(baseline, manifest, measured(now), lambda: measured(left.pop(0)))
    assert len(again) - len(left) == asked
    assert {each.slower for each in found} == {slower}
    assert {each.worse for each in found} == {slower}
    assert {len(each.times) for each in found} == {1 + asked}
    assert found[0].times[0] == pytest.approx(now)


def test_what_became_worse_or_is_gone_is_named(timed):
    manifest, measured = timed
    old = measured(1.0)
    baseline = Baseline(Evidence(tuple(old)), machine.this(), "base.json")
    none = msgspec.structs.replace(old[0].agreement.share, value=0.1, low=0.05, high=0.2)
    bad = msgspec.structs.replace(old[0].agreement, share=none, max_abs=9.0)
    first, *others = old
    new = msgspec.structs.replace(first, agreement=bad, versions={first.backend: "99"}, sha256="0" * 64)
    found = {each.key: each for each in regress(baseline, manifest, [new, *others[:-1]], list)}
    changed, gone = found[regressing._name(first)], found[regressing._name(others[-1])]
    assert changed.worse
    assert changed.lost.startswith(("differs from", "agrees with"))
    assert changed.changed.startswith("the file is another one, ")
    assert changed.changed.endswith(" is 99")
    assert gone.lost.startswith("no longer measured")
    assert not any(each.worse for each in found.values() if each not in (changed, gone))


def test_what_a_loss_would_not_show_in_is_said(timed):
    """Times alone are not "no worse": of answers that one side does not have nothing was compared."""
    manifest, measured = timed
    score = Score("top-1", 0.9, 0.85, 0.94, 200, 0.9, 0.0, -0.5, 0.5, "images of test")

    def unseen(old, new):
        found = regress(Baseline(Evidence(tuple(measured(1.0, **old))), machine.this(), "x"), manifest, new, list)
        assert not any(each.worse for each in found)
        return {each.unseen for each in found}

    assert unseen({}, measured(1.0)) == {""}
    assert unseen({"score": score}, measured(1.0, score=score)) == {""}
    assert unseen({"score": score}, measured(1.0)) == {"top-1, which the baseline has on 200 frames: give --data"}
    (said,) = unseen({"agreement": None}, measured(1.0))
    assert said.startswith("answers, which the baseline does not have: run 'edgecv verify'")


def test_a_lost_score_alone_is_worse(timed):
    """No slow-down, the same answers to golden inputs, and a score whose interval left the old one's."""
    manifest, measured = timed
    score = Score("top-1", 0.9, 0.88, 0.92, 1000, 0.9, 0.0, -0.5, 0.5, "images of test")
    less = msgspec.structs.replace(score, value=0.8, low=0.77, high=0.82)
    baseline = Baseline(Evidence(tuple(measured(1.0, score=score))), machine.this(), "base.json")
    found = regress(baseline, manifest, measured(1.0, score=less), list)
    assert {each.lost for each in found} == {"top-1 fell from 90.00% to 80.00% on 1000 frames"}
    assert {(each.worse, each.slower) for each in found} == {(True, False)}


def test_a_baseline_is_of_this_machine_and_has_times(timed):
    _, measured = timed
    elsewhere = msgspec.structs.replace(machine.this(), cpu="another")
    away = [msgspec.structs.replace(each, machine=elsewhere) for each in measured(1.0)]
    with pytest.raises(BadInput, match=r"base.json: a baseline is of the same machine.*another"):
        Baseline(Evidence(tuple(away)), machine.this(), "base.json")
    with pytest.raises(BadInput, match="edgecv bench --evidence"):
        Baseline(Evidence(tuple(measured(1.0, latency=None))), machine.this(), "base.json")


def test_a_baseline_and_what_is_beside_it_are_said(capsys):
    rows = [
        Regression("a", times=(1.02,)),
        Regression("b", times=(1.3, 1.0)),
        Regression("c", "onnxruntime was 1, is 2", (1.3, 1.2, 1.4)),
        Regression("d", lost="no longer runs: why"),
        Regression("e", times=(1.0,), unseen="top-1: give --data"),
    ]
    with pytest.raises(typer.Exit):
        comparing.show_regressions(rows, json=False)
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "a: as fast as before or faster: 1.02 times",
        "b: a slow-down is not confirmed: 1.30, 1.00 times",
        "c: slower: 1.30, 1.20, 1.40 times, in each of 3 measurements (onnxruntime was 1, is 2)",
        "d: no times to compare; worse: no longer runs: why",
        "e: as fast as before or faster: 1.00 times; not compared: top-1: give --data",
    ]
    assert "worse than the baseline: c, d" in said.err
