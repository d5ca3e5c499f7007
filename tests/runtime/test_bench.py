import json
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from edgecv.cli.app import app
from edgecv.cli.output import Terminated
from edgecv_runtime import Bundle, spawned
from edgecv_runtime.bench import latency, process, upgrade
from edgecv_runtime.bench.compare import Contender, compare
from edgecv_runtime.bench.quiet import Watch
from edgecv_runtime.errors import BadInput, ComputationError
from edgecv_runtime.lastwords import LastWords
from edgecv_runtime.paired import PROCESS_LUCK
from edgecv_runtime.scenario import session
from edgecv_runtime.scenario.plan import Plan
from edgecv_runtime.target import targets


def test_each_target_is_measured_in_every_round(exported):
    said = []
    with Bundle(exported) as opened:
        entries = latency.bench(opened, seconds=0.02, rounds=3, batch=2, threads=1, progress=said.append)
    assert {(each.backend, each.hint) for each in entries} >= {("onnxruntime", "float32"), ("openvino", "float32")}
    assert "round 3 of 3" in said
    for each in entries:
        found = each.latency
        assert (found.batch, found.rounds, found.threads) == (2, 3, 1)
        assert found.runs >= 3 * 10
        assert 0 < found.p50_ms <= found.p90_ms <= found.p99_ms <= found.max_ms
        assert found.throughput_per_s == pytest.approx(2 * 1e3 / found.p50_ms, rel=3)
        assert found.frame_p50_ms > found.p50_ms / 2  # a 1080p frame costs its resize on top
        assert found.load_ms > 0
        assert 20 < found.peak_rss_mb < 2000


@pytest.mark.parametrize(("slow", "warned"), [(2.0, True), (1.1, False)])
def test_a_machine_that_changes_its_speed_meanwhile_is_warned_of(exported, monkeypatch, slow, warned):
    real = process.Worker.measure

    def measure(worker, seconds):
        real(worker, seconds)
        found = worker.blocks[-1]
        times = [1.0 if len(worker.blocks) <= 2 * 2 * process.PAIRS else slow] * len(found.ms)
        worker.blocks[-1] = msgspec.structs.replace(found, ms=times)

    monkeypatch.setattr(process.Worker, "measure", measure)
    said = []
    with Bundle(exported) as opened:
        entries = latency.bench(opened, seconds=0.02, rounds=3, progress=said.append)
    warnings = [line for line in said if line.startswith("warning: the machine's speed changed")]
    assert len(warnings) == warned
    assert all("2.0 times" in line for line in warnings)
    # all slowed down together: the ratios do not know of it
    first, *others = [each.latency for each in entries]
    assert {each.session for each in others} == {first.session}
    for other in others:
        ratio = first.beside(other)
        assert (ratio.value, ratio.pairs, ratio.verdict) == (1.0, 12, "as fast")
        assert ratio.high - 1 == pytest.approx(1.96 * PROCESS_LUCK, rel=0.05)  # each ran in one process
        assert first.beside(msgspec.structs.replace(other, session="another")) is None


@pytest.mark.parametrize(("at", "rounds"), [(0, 0), (2, 2)])
def test_an_interrupt_shows_the_rounds_that_were_whole_and_keeps_nothing(exported, monkeypatch, at, rounds):
    """SIGTERM comes in the middle of a round: one target has a block more than the other."""
    real, before = process.Worker.measure, (exported / "bundle.json").read_bytes()

    def measure(worker, seconds):
        real(worker, seconds)
        if len(worker.blocks) == at * 2 * process.PAIRS + 1:
            raise Terminated

    monkeypatch.setattr(process.Worker, "measure", measure)
    given = ["--backend", "onnxruntime", "--seconds", "0.02", "--rounds", "5", "--json"]
    done = CliRunner().invoke(app, ["bench", str(exported), *given])
    assert done.exit_code == 143, done.output
    assert done.stderr.rstrip().endswith("edgecv: terminated")
    assert (exported / "bundle.json").read_bytes() == before
    assert ("partial: 2 of 5 rounds, and kept nowhere" in done.stderr) == bool(rounds)
    found = [row["latency"] for row in json.loads(done.stdout)] if rounds else []
    assert {(each["rounds"], len(each["block_ms"])) for each in found} == (
        {(2, 4 * process.PAIRS)} if rounds else set()
    )


@pytest.mark.parametrize("given", [{"seconds": 0}, {"rounds": 0}, {"batch": 0}])
def test_impossible_settings_are_refused(exported, given):
    with Bundle(exported) as opened, pytest.raises(BadInput, match="must be positive"):
        latency.bench(opened, **given)


def test_a_worker_that_dies_is_an_error_with_its_last_words(exported, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with Bundle(exported) as opened, pytest.raises(ComputationError, match="benchmark process ended"):
        latency.bench(opened, seconds=0.02, rounds=1)


def test_no_process_is_left_behind(exported):
    import psutil

    before = len(psutil.Process().children(recursive=True))
    with Bundle(exported) as opened:
        latency.bench(opened, seconds=0.02, rounds=1)
    assert len(psutil.Process().children(recursive=True)) == before


# A worker process as the product starts it, with calls that wait for half a millisecond more.
SLOWER = """
import time
from edgecv_runtime.bench import worker
real = worker.block_ms
def block_ms(call, seconds):
    return real(lambda: (call(), time.sleep(0.0005)), seconds)
worker.block_ms = block_ms
worker.main()
"""


def test_contenders_are_compared_with_the_first(exported):
    with Bundle(exported) as opened:
        job = latency.job(opened, targets(opened)[0])
        slow = (sys.executable, "-c", SLOWER)
        found = compare([Contender("a", job), Contender("b", job, slow), Contender("c", job)], rounds=4, seconds=0.08)
    a, b, c = found.contenders
    assert [each.name for each in found.contenders] == ["a", "b", "c"]
    assert a.ratio is None
    assert b.verdict == "slower"
    assert b.ratio.value > 2 * c.ratio.value
    assert {len(each.block_ms) for each in found.contenders} == {4 * 2 * process.PAIRS}
    assert b.ratio.pairs == 4 * process.PAIRS
    for given in ({"rounds": 3}, {"seconds": 0}):
        with pytest.raises(BadInput, match="4 rounds or more"):
            compare([Contender("a", job), Contender("b", job)], **given)


# What libraries print, when they are asked to (ONEDNN_VERBOSE) or have something to warn of: more than a pipe holds.
TALKING = """
import os
from edgecv_runtime.model import Model
computed = Model.run
def run(self, feeds):
    os.write(1, b"dnnl_verbose " * 1000)
    os.write(2, b"a warning " * 10_000)
    return computed(self, feeds)
Model.run = run
"""


def test_what_libraries_print_is_no_answer_and_stops_nothing(exported):
    with Bundle(exported) as opened, process.Worker("a", (sys.executable, "-c", TALKING + SLOWER)) as talking:
        talking.load(latency.job(opened, targets(opened)[0]))
        talking.measure(0.02)
        assert len(talking.blocks[0].ms)


@pytest.fixture
def talking(monkeypatch):
    """Processes of ours print while they compute, and as they end: what C keeps until then comes last."""
    real, code_of_all = spawned.command, TALKING + 'import atexit\natexit.register(os.write, 1, b"late words\\n")\n'
    monkeypatch.setattr(spawned, "command", lambda code, *rest: real(f"exec({code_of_all!r}, {{}}); {code}", *rest))


@pytest.mark.usefixtures("talking")
@pytest.mark.parametrize("scenario", ["sustained", "cold"])
def test_a_scenario_is_not_stopped_by_it_either(exported, scenario):
    with Bundle(exported) as opened:
        plan = Plan(scenario, seconds=0.1, warm_up_s=0.02, starts=1)
        (run, *_) = session.bench(opened, targets(opened)[:1], plan).runs
    assert run.times.calls


@pytest.mark.usefixtures("talking")
def test_nor_are_the_answers_of_another_python(exported):
    with Bundle(exported) as opened:
        entries, outputs = upgrade._answers(opened, Path(sys.executable))
    assert entries
    assert outputs


def test_of_last_words_no_part_of_a_line_is_kept():
    """Of an address that is cut the password would be shown, for nothing tells that it is one."""
    code = "import sys; sys.stderr.write('rtsp://edge:' + 'c4nary-7' * 20_000 + '@h ends\\nlast')"
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    words = LastWords(child.stderr)
    child.wait()
    assert words.whole() == "last"
    assert words.last() == "last"


def burn(seconds):
    return subprocess.Popen(
        [sys.executable, "-c", f"import time; end = time.time() + {seconds}\nwhile time.time() < end: pass"]
    )


def cpu_s(pid):
    """User and system time of a process; proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_another_program_is_noticed_and_our_own_are_not():
    """Ours are those whose processes are named; what else runs on this machine is there in both."""
    watch, ours = Watch(), Watch()
    with burn(1.5) as other, watch.over([]), ours.over([other]):
        began_s, before_s = time.monotonic(), cpu_s(other.pid)
        time.sleep(0.8)
        used_s, took_s = cpu_s(other.pid) - before_s, time.monotonic() - began_s
    theirs, own = watch.found().other_cores, ours.found().other_cores
    assert theirs > 0.3
    assert theirs - own > 0.3
    assert theirs - own == pytest.approx(used_s / took_s, abs=0.1)  # what the kernel says of that process alone
    assert any(line.startswith("other programs took") for line in watch.found().said)


@pytest.mark.parametrize("version", [1, 2])
def test_a_quota_and_a_hot_processor_are_noticed(tmp_path, version):
    """On trees as the kernel lays them out: cgroups(7), Documentation/admin-guide/cgroup-v2.rst, thermal_throttle.c."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/box\n" if version == 2 else "3:cpuset:/\n2:cpu,cpuacct:/box\n")
    group = tmp_path / "sys/fs/cgroup" / ("box" if version == 2 else "cpu/box")
    hot = tmp_path / "sys/devices/system/cpu/cpu0/thermal_throttle"
    for folder in (group, hot):
        folder.mkdir(parents=True)

    def write(seconds, times):
        line = f"throttled_usec {seconds}000000" if version == 2 else f"throttled_time {seconds}000000000"
        (group / "cpu.stat").write_text(f"nr_periods 7\nnr_throttled 3\n{line}\n")
        (hot / "core_throttle_count").write_text(f"{times}\n")

    watch = Watch(tmp_path)
    write(5, 2)
    with watch.over([]):
        write(7, 2)
    with watch.over([]):
        write(7, 6)
    found = watch.found()
    assert (found.other_cores, found.throttled_s, found.hot) == (None, 2.0, 4)
    assert [line.split(":")[0] for line in found.said] == ["throttled", "throttled"]
    assert Watch(tmp_path / "nothing").found().said == []
