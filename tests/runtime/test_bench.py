import msgspec
import pytest

from edgecv_runtime import Bundle
from edgecv_runtime.bench import latency
from edgecv_runtime.errors import BadInput, ComputationError


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
    real = latency._Worker.measure

    def measure(worker, seconds):
        real(worker, seconds)
        found = worker.rounds[-1]
        times = [1.0 if len(worker.rounds) < 3 else slow] * len(found.run_ms)
        worker.rounds[-1] = msgspec.structs.replace(found, run_ms=times)

    monkeypatch.setattr(latency._Worker, "measure", measure)
    said = []
    with Bundle(exported) as opened:
        latency.bench(opened, seconds=0.02, rounds=3, progress=said.append)
    warnings = [line for line in said if line.startswith("warning: the machine's speed changed")]
    assert len(warnings) == warned
    assert all("2.0 times" in line for line in warnings)


@pytest.mark.parametrize("given", [{"seconds": 0}, {"rounds": 0}, {"batch": 0}])
def test_impossible_settings_are_refused(exported, given):
    with Bundle(exported) as opened, pytest.raises(BadInput, match="must be positive"):
        latency.bench(opened, **given)


def test_a_worker_that_dies_is_an_error_with_its_last_words(exported, monkeypatch):
    monkeypatch.setattr(latency.sys, "executable", "/bin/false")
    with Bundle(exported) as opened, pytest.raises(ComputationError, match="benchmark process ended"):
        latency.bench(opened, seconds=0.02, rounds=1)


def test_no_process_is_left_behind(exported):
    import psutil

    before = len(psutil.Process().children(recursive=True))
    with Bundle(exported) as opened:
        latency.bench(opened, seconds=0.02, rounds=1)
    assert len(psutil.Process().children(recursive=True)) == before
