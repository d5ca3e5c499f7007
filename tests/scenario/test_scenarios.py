"""Scenarios, played for real on a small network, and held to LoadGen's own log, a simulation and the clock."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from edgecv.cli.app import app
from edgecv_runtime import Bundle, Preprocess, machine
from edgecv_runtime.errors import BadInput, ComputationError, Unavailable
from edgecv_runtime.evidence import Score
from edgecv_runtime.scenario import cold, limits, loadgen, own, page, report, session
from edgecv_runtime.scenario.plan import LOADGEN, Plan
from edgecv_runtime.target import targets
from tests.runtime import faults_lab

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "bench-report.schema.json").read_text())
HERE = ["--variant", "float32", "--backend", "onnxruntime"]


def played(path, backend="onnxruntime", pictures=(), **asked):
    plan = Plan(**{"seconds": 0.3, "warm_up_s": 0.05, **asked})
    with Bundle(path) as opened:
        chosen = [each for each in targets(opened, backend, plan.threads) if each.hint == "float32"][:1]
        found = session.bench(opened, chosen, plan, pictures=pictures)
    jsonschema.validate(json.loads(report.as_json(found)), SCHEMA)
    return found


def edgecv(*arguments, **how):
    command = [sys.executable, "-m", "edgecv.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **how)


@pytest.mark.parametrize("scenario", LOADGEN)
def test_percentiles_are_those_of_loadgens_own_log(exported, scenario):
    asked = {"server": {"qps": 400.0}, "offline": {"batch": 4}}.get(scenario, {})
    (run,) = played(exported, scenario=scenario, **asked).runs
    log = run.loadgen
    assert run.label == f"LoadGen {LOADGEN[scenario]}, unofficial, short"
    assert log["effective_scenario"] == LOADGEN[scenario]
    assert log["effective_min_duration_ms"] == 300
    begin, end = loadgen.moments(log)
    assert run.times.duration_s == pytest.approx(end - begin)
    if scenario == "offline":
        assert run.times.per_s == pytest.approx(log["result_samples_per_second"], rel=0.1)
        assert run.batch == 4
        return
    assert run.times.calls == log["result_query_count"]
    ordered = np.sort(run.took_ms)
    for share, found in ((50, run.times.p50), (90, run.times.p90), (99, run.times.p99)):
        theirs = log[f"result_{share}.00_percentile_latency_ns"] / 1e6
        place = np.searchsorted(ordered, theirs)  # LoadGen takes one that was measured, we lie between two
        assert ordered[max(0, place - 2)] - 1e-3 <= found.ms <= ordered[min(len(ordered) - 1, place + 2)] + 1e-3
    assert run.times.max_ms == pytest.approx(log["result_max_latency_ns"] / 1e6, abs=1e-3)
    assert run.times.mean_ms == pytest.approx(log["result_mean_latency_ns"] / 1e6, abs=2e-3)


def test_the_protected_name_is_nowhere_in_a_report(exported):
    found = played(exported, scenario="single-stream")
    for text in (report.as_json(found).decode(), report.markdown(found), report.as_csv(found), page.html(found)):
        assert "mlperf" not in text.lower()
        assert "LoadGen SingleStream, unofficial, short" in text


def test_what_fails_under_loadgen_is_an_error_and_not_the_end_of_the_process():
    def fails(which):
        raise ComputationError("no more")

    with pytest.raises(ComputationError, match="no more"):
        loadgen.play("single-stream", fails, 8, Plan("single-stream"), 0.1, 1e-3, 1)


def test_without_loadgen_the_cure_is_named(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(Unavailable, match=r"need mlcommons-loadgen: .*pip install .*\[referee\]"):
        played(exported, scenario="single-stream")


class Clock:
    """Time that passes only by sleeping and computing."""

    def __init__(self):
        self.now = 100.0
        self.slept = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.slept += seconds


@pytest.mark.parametrize("takes", [0.1, 0.9, 1.5, 2.5, 7.25])
def test_a_camera_drops_what_came_while_a_frame_was_computed(takes):
    clock, taken = Clock(), []

    def call(number):
        taken.append((number, clock.now))
        clock.now += takes

    blocks = list(own.paced(call, 40, 1.0, clock, clock.sleep))
    # a camera, simulated: every second a frame replaces the one that waits
    expected, free = [], 100.0
    while (newest := max(min(39, int(free - 100 + 1e-6)), expected[-1] + 1 if expected else 0)) < 40:
        expected.append(newest)
        free = max(free, 100.0 + newest) + takes
    assert [number for number, _ in taken] == expected
    assert sum(block.dropped for block in blocks) == expected[-1] + 1 - len(expected)
    assert [ms for block in blocks for ms in block.ms] == pytest.approx([1e3 * takes] * len(expected))
    assert all(when >= 100 + number - 1e-6 for number, when in taken)  # none before it came


def test_paced_and_flat_out_are_both_named(exported):
    paced, flat = played(exported, scenario="paced", fps=50.0, seconds=0.4).runs
    assert (paced.label, flat.label) == ("paced at 50 frames/s", "flat out")
    assert paced.times.calls + paced.dropped == 20
    assert paced.times.duration_s == pytest.approx(0.4, abs=0.1)
    assert np.diff(paced.at_s).min() > 0
    assert flat.times.per_s > 2 * paced.times.per_s


def test_sustained_tells_of_its_whole_length(exported):
    (run,) = played(exported, scenario="sustained", seconds=1.3).runs
    assert run.times.duration_s >= 1.3
    assert run.at_s[-1] == pytest.approx(1.3, abs=0.3)
    assert run.label == "sustained, 0.0216667 min flat out"


@pytest.fixture(scope="module", params=["classification", "detection", "segmentation"])
def any_task(request, exported, photos, tmp_path_factory):
    if request.param == "classification":
        return exported
    preprocess = Preprocess(size=(64, 64), mode="stretch", interpolation="linear")
    made = faults_lab.network(request.param, preprocess, 0)
    frames = np.stack([preprocess(np.roll(photo, 40 * number, 1)) for photo in photos for number in range(4)])
    return faults_lab.bundle(request.param, made, tmp_path_factory.mktemp("task") / "bundle", preprocess, frames)


def test_the_stages_of_a_frame_add_up_to_the_wall_clock(any_task, photos, tmp_path):
    import cv2

    pictures = [tmp_path / f"{number}.jpg" for number in range(2)]
    for path, photo in zip(pictures, photos, strict=True):
        cv2.imwrite(str(path), photo)
    (run,) = played(any_task, scenario="frames", pictures=pictures, seconds=0.4).runs
    assert [stage.name for stage in run.stages] == ["decode", "preprocess", "infer", "postprocess", "draw"]
    assert sum(stage.share for stage in run.stages) == pytest.approx(1)
    near = 0.02 if run.surroundings.others_cores < 0.3 else 0.3  # other programs take time between two stages
    assert abs(run.unstaged) < near
    parts = sum(stage.share for stage in run.stages) * (1 - run.unstaged) * run.times.duration_s
    assert parts == pytest.approx(sum(run.took_ms) / 1e3, rel=near)
    start = time.perf_counter()
    for _ in range(5):
        cv2.imdecode(np.frombuffer(pictures[0].read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    alone_ms = (time.perf_counter() - start) / 5 * 1e3
    assert run.stages[0].p50_ms > alone_ms / 4  # decoding is in it, of the files that were given
    assert run.fed == "2 image files that were given"


def test_no_time_lies_between_stages():
    clock, takes = Clock(), dict(zip(own.STAGES, (4.0, 1.0, 3.0, 0.5, 0.25), strict=True))

    def stages(number):
        for name, seconds in takes.items():
            clock.now += seconds
            yield name

    blocks = list(own.staged(stages, 100.0, clock))
    for name, seconds in takes.items():
        assert {ms for block in blocks for ms in block.parts[name]} == {1e3 * seconds}
    assert {ms for block in blocks for ms in block.ms} == {1e3 * sum(takes.values())}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_start_is_split_into_what_it_consists_of(exported, backend):
    empty, kept = played(exported, backend, scenario="cold", starts=1).runs
    assert (empty.label, kept.label) == (cold.EMPTY, cold.KEPT)
    for run in (empty, kept):
        assert [stage.name for stage in run.stages] == list(cold.STAGES)
        assert sum(stage.p50_ms for stage in run.stages) == pytest.approx(run.took_ms[0])
        by_name = {stage.name: stage.p50_ms for stage in run.stages}
        assert by_name["import"] > by_name["second"]
        assert run.executed == "float32"


ASKED = """
import json, sys
from pathlib import Path
from edgecv_runtime import Bundle, machine
from edgecv_runtime.scenario import limits
with limits.limited(sys.argv[2], 1), Bundle(sys.argv[1]) as opened:
    from edgecv_runtime.backends.openvino import core
    from edgecv_runtime.target import targets
    hints = {each.hint for each in targets(opened, "openvino")}
    compiled = core().compile_model(str(opened.variant_file("float32")), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kinds = [[each[name].astype(str) for name in ("layerType", "primitiveType")] for each in facts]
    print(json.dumps([kinds, sorted(hints), machine.this().key, machine.this().cores]))
"""


@pytest.mark.parametrize("isa", ["avx2", "native"])
def test_openvino_really_is_limited(exported, isa):
    """By the kernels that OpenVINO itself says it took."""
    done = subprocess.run([sys.executable, "-c", ASKED, str(exported), isa], capture_output=True, text=True, check=True)
    kinds, hints, key, cores = json.loads(done.stdout)
    assert cores == 1
    assert "1 cores" in key
    if isa == "avx2":
        beyond = {layer for layer, kind in kinds if "avx512" in kind or "amx" in kind}
        assert beyond <= {"Reduce"}  # OpenVINO 2026.4: the docs and the report say so
        assert {layer for layer, kind in kinds if "avx2" in kind} >= {"Convolution"}
        assert hints == ["float32"]
        assert key.endswith("at most AVX2")
    elif "avx512f" in machine.this().isa:
        assert "Convolution" in {layer for layer, kind in kinds if "avx512" in kind}


@pytest.mark.parametrize(
    ("isa", "cpus", "said"),
    [
        ("avx3", 0, "no instruction set 'avx3'; did you mean"),
        ("avx2_vnni", 0, "this processor has no avx_vnni; it has avx2"),
        ("native", 99, r"--cpus is from 1 to the \d+ of this machine: got 99"),
        ("native", -1, "--cpus is from 1"),
    ],
)
def test_what_this_machine_cannot_stand_for_is_refused(monkeypatch, isa, cpus, said):
    only = msgspec.structs.replace(machine.this(), isa=("avx2",))
    monkeypatch.setattr(limits.machine, "this", lambda: only)
    with pytest.raises(BadInput, match=said), limits.limited(isa, cpus):
        pass


def test_limits_end(monkeypatch):
    before = os.sched_getaffinity(0)
    with limits.limited("native", 1):
        assert len(os.sched_getaffinity(0)) == 1
        assert machine.this().cores == 1
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--scenario", "single"], "no scenario 'single'; did you mean 'single-stream'?"),
        (["--scenario", "server"], "wants the requests a second to try: --qps 50"),
        (["--scenario", "paced", "--fps", "0"], "fps is a camera's frames a second, up to 10000: got 0"),
        (["--scenario", "paced", "--qps", "5"], "--qps is of --scenario server, not of paced"),
        (["--scenario", "paced", "--rules"], "LoadGen's rules are for"),
        (["--scenario", "sustained", "--minutes", "1", "--seconds", "2"], "give one of them"),
        (["--scenario", "cold", "--seconds", "2"], "give --starts, not --seconds"),
        (["--scenario", "cold", "--feed", "frames"], "leave out feed"),
        (["--scenario", "paced", "--feed", "video"], "feed: Invalid enum value 'video'; expected tensors, frames"),
        (["--scenario", "paced", "--batch", "4"], "batch is of scenario 'offline' alone"),
        (["--scenario", "paced", "--seconds", "0"], "seconds must be positive"),
        (["--scenario", "paced", "--variant", "int9"], "no variant 'int9'"),
        (["--scenario", "paced", "--backend", "openvinos"], "no backend 'openvinos'; did you mean 'openvino'?"),
        (["--scenario", "paced", "--out", "report.pdf"], "its ending says what to write: .json, .html, .md, .csv"),
        (["--scenario", "paced", "--out", "nowhere/report.md"], "there is no such folder"),
        (["--scenario", "paced", "--isa", "avx2", "--backend", "onnxruntime"], "cannot be limited to instruction sets"),
        (["--scenario", "paced", "--rounds", "3"], "--rounds: not with --scenario"),
        (["--fps", "30", "--cpus", "1"], "--fps, --cpus: for --scenario only"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(exported, given, said, monkeypatch):
    if "--isa" in given:  # openvino was loaded by other tests of this process
        monkeypatch.delitem(sys.modules, "openvino", raising=False)
    done = CliRunner().invoke(app, ["bench", str(exported), *given])
    assert done.exit_code == 2, done.output
    assert said in " ".join(done.stderr.split())
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_bound_that_is_not_reached_is_said_with_exit_code_4(exported):
    given = ["--scenario", "server", "--qps", "200", "--bound-ms", "0.001", "--seconds", "0.2", *HERE]
    done = CliRunner().invoke(app, ["bench", str(exported), *given])
    assert done.exit_code == 4, done.output
    assert "200 requests a second within 0.001 ms were not reached: p99 is" in done.stderr


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_an_interrupt_keeps_what_was_measured_and_says_so(exported, tmp_path, number, code, word):
    """Sent twice, as `timeout` does: to the process and to its group."""
    out = tmp_path / "report.json"
    command = [sys.executable, "-m", "edgecv.cli", "bench", str(exported), "--scenario", "sustained", "--out", str(out)]
    with subprocess.Popen([*command, *HERE], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert "sustained" in process.stderr.readline()
        time.sleep(6)  # loaded, warm, some blocks
        process.send_signal(number)
        process.send_signal(number)
        words = process.communicate(timeout=30)[1]
    assert process.returncode == code, words
    assert f"edgecv: {word}: what was measured until then is above, marked as partial" in words
    found = report.read(out.read_bytes(), str(out))
    assert found.partial
    assert found.runs[0].partial
    assert found.runs[0].times.calls == len(found.runs[0].took_ms) > 100
    assert "interrupted" in report.markdown(found)


def cut_after_a_block(monkeypatch):
    """Ctrl-C as soon as something was told of an act."""
    real = session._Player.play

    def play(player, act, seconds, take):
        def taken(block):
            take(block)
            raise KeyboardInterrupt

        return real(player, act, seconds, taken)

    monkeypatch.setattr(session._Player, "play", play)


def test_what_is_kept_of_an_interrupted_act_is_whole(exported, monkeypatch):
    """Its accuracy was measured before, its memory and surroundings until then: none is 0, unknown or left out."""
    cut_after_a_block(monkeypatch)
    score = Score("top-1", 0.91, 0.88, 0.94, 200, 0.915, 0.5, -0.4, 1.4, "images of test")
    scores = {("float32", name, "float32"): score for name in ("onnxruntime", "openvino")}
    with Bundle(exported) as opened:
        chosen = [each for each in targets(opened) if each.hint == "float32"]
        found = session.bench(opened, chosen, Plan("paced", seconds=5.0, fps=40.0, warm_up_s=0.05), scores=scores)
    jsonschema.validate(json.loads(report.as_json(found)), SCHEMA)
    assert found.partial
    (run,) = found.runs
    assert (run.partial, run.label, run.score) == (True, "paced at 40 frames/s", score)
    assert run.times.duration_s == pytest.approx(run.at_s[-1] + run.took_ms[-1] / 1e3)
    assert run.times.per_s == pytest.approx(40, rel=0.15)
    assert 20 < run.rss_mb <= run.peak_rss_mb < 2000
    assert run.surroundings.others_cores is not None
    assert "interrupted" not in run.energy.unavailable
    assert report.as_csv(found).splitlines()[1].startswith("paced at 40 frames/s (interrupted),")
    assert "91.00%" in report.markdown(found)


@pytest.mark.parametrize("scenario", ["single-stream", "offline"])
def test_of_a_run_that_loadgen_did_not_end_the_calls_are_kept(exported, monkeypatch, scenario):
    cut_after_a_block(monkeypatch)
    found = played(exported, scenario=scenario, seconds=4.0, batch=4 if scenario == "offline" else 1)
    (run,) = found.runs
    assert found.partial
    assert run.partial
    assert run.loadgen == {}
    assert 10 < run.times.calls <= loadgen.TOLD_CALLS
    assert run.times.per_s == pytest.approx(run.batch * run.times.calls / run.times.duration_s)
    assert run.times.duration_s < 2.0
    (said,) = [each for each in run.trust if each.name == "came to its end"]
    assert said.ok is False
    assert "LoadGen did not end it" in said.detail


def test_what_loadgen_tells_in_the_end_takes_the_place_of_what_was_told(exported):
    told = []
    block, _, log = loadgen.play(
        "single-stream", lambda which: time.sleep(1e-3), 8, Plan("single-stream"), 0.4, 1e-3, 1, told.append
    )
    assert len(block.ms) == log["result_query_count"] > 200
    assert all(each.so_far for each in told)
    assert not block.so_far
    own = [ms for each in told for ms in each.ms]
    assert 100 < len(own) <= len(block.ms)
    assert np.median(own) == pytest.approx(np.median(block.ms), rel=0.1)


def test_an_interrupt_between_two_targets_keeps_the_first(exported):
    with Bundle(exported) as opened:
        chosen = [each for each in targets(opened) if each.hint == "float32"]
        assert len(chosen) == 2
        said = []

        def progress(line):
            said.append(line)
            if len(said) == 2:
                raise KeyboardInterrupt

        found = session.bench(opened, chosen, Plan("sustained", seconds=0.1, warm_up_s=0.05), progress=progress)
    assert found.partial
    assert [(run.partial, run.times.calls > 5) for run in found.runs] == [(False, True)]


def test_an_interrupt_before_anything_says_that_there_is_nothing(exported, monkeypatch, tmp_path):
    def ready(player):
        raise KeyboardInterrupt

    monkeypatch.setattr(session._Player, "ready", ready)
    places = [tmp_path / f"report{ending}" for ending in (".json", ".md", ".csv", ".html")]
    given = [str(each) for place in places for each in ("--out", place)]
    done = CliRunner().invoke(app, ["bench", str(exported), "--scenario", "paced", *HERE, *given])
    assert done.exit_code == 130
    assert "edgecv: interrupted: nothing was measured until then" in done.stderr
    jsonschema.validate(json.loads(places[0].read_bytes()), SCHEMA)
    for place in (places[1], places[3]):
        assert "nterrupted" in place.read_text()


def test_what_could_not_be_run_is_in_the_report(exported, monkeypatch):
    real = session._Player.ready

    def ready(player):
        if player._target.backend == "openvino":
            raise ComputationError("float32 on openvino: the benchmark process ended: no room")
        return real(player)

    monkeypatch.setattr(session._Player, "ready", ready)
    with Bundle(exported) as opened:
        chosen = [each for each in targets(opened) if each.hint == "float32"]
        found = session.bench(opened, chosen, Plan("sustained", seconds=0.1, warm_up_s=0.05))
    jsonschema.validate(json.loads(report.as_json(found)), SCHEMA)
    assert [run.backend for run in found.runs] == ["onnxruntime"]
    assert found.failed == ["float32 on openvino: the benchmark process ended: no room"]
    for text in (report.markdown(found), page.html(found)):
        assert "ot measured: float32 on openvino: the benchmark process ended: no room" in text


def test_a_limit_of_the_environment_is_not_called_native(exported, monkeypatch):
    """ONEDNN_MAX_CPU_ISA, set by who calls: reports showed "native", and limited figures."""
    limited = msgspec.structs.replace(machine.this(), isa_limit="AVX2")
    monkeypatch.setattr(session.machine, "this", lambda: limited)
    found = played(exported, scenario="sustained", seconds=0.1)
    assert "- instruction sets: oneDNN's, and by it OpenVINO's, are limited to AVX2" in report.markdown(found)


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(exported):
    done = CliRunner().invoke(app, ["bench", str(exported), "--scenario", "paced", *HERE, "--out", "/proc/report.json"])
    assert done.exit_code == 3
    assert "/proc/report.json: cannot be written" in done.stderr
    assert "paced:" not in done.stderr  # the first line of progress


def test_a_target_that_cannot_run_is_an_error_with_its_last_words(exported, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(ComputationError, match="nothing could be timed: .*the benchmark process ended"):
        played(exported, scenario="paced")


def test_the_command_line_writes_what_it_was_asked_for(exported, tmp_path):
    places = [tmp_path / f"report{ending}" for ending in (".json", ".md", ".csv")]
    given = [each for place in places for each in ("--out", place)]
    done = edgecv("bench", exported, "--scenario", "paced", "--seconds", "0.2", "--cpus", "1", *HERE, *given)
    assert done.returncode == 0, done.stderr
    found = report.read(places[0].read_bytes(), "report")
    assert len(found.settings.affinity) == found.machine.cores == 1
    assert found.settings.isa == "native"
    assert [run.target for run in found.runs] == ["float32 on onnxruntime"] * 2
    lines = Path(places[2]).read_text().splitlines()
    assert len(lines) == 1 + sum(run.times.calls for run in found.runs)
    assert "accuracy not measured" in places[1].read_text()
    assert "accuracy not measured" in done.stdout


def test_accuracy_is_that_of_the_file_and_backend_that_was_timed(exported, digits, tmp_path):
    """Counted by hand, and its interval as scipy has Wilson's."""
    import cv2
    from scipy import stats

    from edgecv_runtime import load

    frames, labels = (each[1400:1480] for each in digits)
    for index, (frame, label) in enumerate(zip(frames, labels, strict=True)):
        folder = tmp_path / "digits" / f"digit {label}"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{index}.png"), frame)
    out = tmp_path / "report.json"
    given = ["--scenario", "paced", "--seconds", "0.2", *HERE, "--data", str(tmp_path / "digits"), "--out", str(out)]
    done = CliRunner().invoke(app, ["bench", str(exported), *given])
    assert done.exit_code == 0, done.output
    with load(exported, backend="onnxruntime") as model:
        right = sum(model(frame).label == f"digit {label}" for frame, label in zip(frames, labels, strict=True))
    wilson = stats.binomtest(right, 80).proportion_ci(0.95, "wilson")
    for run in report.read(out.read_bytes(), str(out)).runs:
        assert (run.score.metric, run.score.count) == ("top-1", 80)
        assert run.score.value == pytest.approx(right / 80)
        assert (run.score.low, run.score.high) == pytest.approx((wilson.low, wilson.high), abs=1e-6)
        assert run.score.reference == pytest.approx(right / 80)  # float32 against itself
        assert run.score.drop == 0
