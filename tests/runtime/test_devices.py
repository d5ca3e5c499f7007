"""Devices: what can run here runs, and what is not there is an error that says what is, never another device."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import onnxruntime
import pytest

import edgecv_runtime as rt
from edgecv_runtime.backends import onnxruntime as ort_backend
from edgecv_runtime.backends import openvino as ov_backend
from edgecv_runtime.errors import BackendUnavailable, BadInput, Closed
from edgecv_runtime.target import targets

EVERY = [each.name for each in ort_backend.PROVIDERS.values()]


@pytest.mark.parametrize(
    ("backend", "device"), [("onnxruntime", "cpu"), ("openvino", "cpu"), ("openvino", "auto"), ("openvino", "CPU")]
)
def test_devices_that_are_here_give_the_golden_outputs(exported, backend, device):
    with rt.load(exported, backend=backend, device=device) as model:
        golden = model.bundle.golden()
        assert abs(model.run({"image": golden.images})["logits"] - golden.logits).max() < 1e-4
        assert model.info.device == device
        assert model.info.precision == "float32"


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"backend": "onnxruntime", "device": "cuda"}, BackendUnavailable, "'cuda', only: cpu.*needs onnxruntime-gpu"),
        ({"backend": "onnxruntime", "device": "cuda:1"}, BackendUnavailable, "no device 'cuda', only: cpu"),
        ({"backend": "onnxruntime", "device": "openvino:gpu"}, BackendUnavailable, "needs onnxruntime-openvino"),
        ({"backend": "onnxruntime", "device": "xnnpack"}, BackendUnavailable, "--use_xnnpack"),
        ({"backend": "onnxruntime", "device": "tpu"}, BadInput, "no device 'tpu'; known: cpu, cuda, tensorrt"),
        ({"backend": "onnxruntime", "device": "cpu:3"}, BadInput, "no device 'cpu:3'; known of this kind: 'cpu'$"),
        ({"backend": "onnxruntime", "device": "cuda:x"}, BadInput, "'cuda:x'; known .*: 'cuda', 'cuda:0'"),
        ({"backend": "onnxruntime", "device": "openvino:tpu"}, BadInput, "known of this kind: .*'openvino:npu'"),
        ({"backend": "openvino", "device": "gpu"}, BackendUnavailable, "no device 'gpu' here, only: cpu"),
        ({"backend": "openvino", "device": "npu"}, BackendUnavailable, "no device 'npu' here, only: cpu"),
        ({"backend": "openvino", "device": "cpu.3"}, BackendUnavailable, "no device 'cpu.3' here"),
        ({"backend": "openvino", "device": "tpu"}, BadInput, "no device 'tpu'; known: cpu, gpu, npu, auto"),
        ({"device": "gpu"}, BadInput, "name the backend too"),
    ],
)  # fmt: skip
def test_a_device_that_is_not_here_is_an_error_that_says_what_is(exported, given, error, said):
    with pytest.raises(error, match=said):
        rt.load(exported, **given)


@pytest.mark.parametrize("device", ["cuda", "tensorrt", "openvino", "xnnpack"])
def test_a_silent_fall_back_to_the_cpu_is_caught(exported, monkeypatch, device):
    """As onnxruntime-gpu without a driver does: it lists the provider, and gives a session that runs on the CPU."""
    real = onnxruntime.InferenceSession
    asked = []

    def fall_back(path, settings, providers, enable_fallback, disabled_optimizers):
        asked.extend(providers)
        return real(path, settings, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: EVERY)
    monkeypatch.setattr(onnxruntime, "InferenceSession", fall_back)
    with pytest.raises(BackendUnavailable, match=f"cannot use device '{device}' here.*would run on CPUExecution"):
        rt.load(exported, backend="onnxruntime", device=device)
    assert asked[0][0] == ort_backend.PROVIDERS[device].name


def test_options_of_each_provider():
    """Oracle: the option names of ONNX Runtime's pages on CUDA, TensorRT, OpenVINO and XNNPACK."""
    options = {
        name: each.options("1" if name in ("cuda", "tensorrt") else "", 2)
        for name, each in ort_backend.PROVIDERS.items()
    }
    assert options["cpu"] == {}
    assert options["cuda"] == {"device_id": "1", "use_tf32": "0"}
    assert options["tensorrt"]["device_id"] == "1"
    assert options["tensorrt"]["trt_engine_cache_enable"] == "True"  # onnxruntime_pybind_state.cc throws for "1"
    assert options["tensorrt"]["trt_timing_cache_enable"] == "True"
    assert options["openvino"] == {"device_type": "CPU", "precision": "FP32", "num_of_threads": "2"}
    assert options["xnnpack"] == {"intra_op_num_threads": "2"}


def test_an_int8_file_runs_where_there_is_no_float32(finished, monkeypatch):
    """As on Intel's NPU, which computes in int8 and fp16 only: what is not quantized is fp16 there."""
    real = ov_backend.OpenVinoBackend
    monkeypatch.setattr(real, "precisions", staticmethod(lambda device: ("fp16",) if device == "npu" else ("float32",)))
    given = []

    def compile_(self, model, options):
        given.append((options.device, options.precision))
        self.streams = 1

    monkeypatch.setattr(real, "__init__", compile_)
    with rt.Bundle(finished) as opened:
        found = {each.variant: each for each in targets(opened, "openvino", device="npu")}
        assert found["float32"].hint == "fp16"
        found["int8-u8s8"].compile()
        found["float32"].compile()
    assert given == [("npu", "fp16")] * 2


def test_openvino_that_executes_elsewhere_is_an_error(exported, monkeypatch):
    monkeypatch.setattr(ov_backend, "_device", lambda asked: "CPU" if asked == "default" else "GPU.0")
    backend = ov_backend.OpenVinoBackend(exported / "model.onnx", rt.Options())
    backend._device = "GPU.0"
    with pytest.raises(BackendUnavailable, match="runs model.onnx on .*CPU.*, not on GPU.0"):
        backend._check_device(backend._graph(single=True))


@pytest.mark.parametrize("kind", [ort_backend.OnnxRuntimeBackend, ov_backend.OpenVinoBackend])
def test_a_closed_backend_says_so(exported, kind):
    backend = kind(exported / "model.onnx", rt.Options())
    backend.close()
    with pytest.raises(Closed, match="model.onnx is closed"):
        backend.run({"image": rt.Bundle(exported).golden().images})


# The cache of compiled models


@pytest.fixture
def compiled(exported, monkeypatch, tmp_path):
    """Loads with an empty cache; gives a function that loads again and tells how often OpenVINO compiled."""
    monkeypatch.setenv("EDGECV_CACHE", str(tmp_path))
    calls = []

    class Core:
        def __init__(self, real):
            self._real = real

        def compile_model(self, *given):
            calls.append(given)
            return self._real.compile_model(*given)

        def __getattr__(self, name):
            return getattr(self._real, name)

    core = Core(ov_backend.core())
    monkeypatch.setattr(ov_backend, "core", lambda: core)

    def again(**given):
        calls.clear()
        with rt.load(exported, backend="openvino", **given) as model:
            golden = model.bundle.golden()
            assert abs(model.run({"image": golden.images[:1]})["logits"] - golden.logits[:1]).max() < 1e-4
            assert model.info.precision == "float32"
            assert model.info.layers
        return len(calls)

    assert again() == 1
    return again


def test_a_second_start_compiles_nothing(compiled, tmp_path):
    assert compiled() == 0
    assert len(list((tmp_path / "openvino").iterdir())) == 1


@pytest.mark.parametrize("given", [{"threads": 1}, {"goal": "throughput"}])
def test_other_settings_have_an_entry_of_their_own(compiled, given, tmp_path):
    assert compiled(**given) == 1
    assert compiled(**given) == 0
    assert len(list((tmp_path / "openvino").iterdir())) == 2


def test_another_version_or_cpu_compiles_anew(compiled, monkeypatch):
    monkeypatch.setattr(ov_backend.OpenVinoBackend, "probe", staticmethod(lambda: {"openvino": "2099.1"}))
    assert compiled() == 1


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:40] + b"x" + data[41:]]
)
def test_a_damaged_entry_is_compiled_anew_and_replaced(compiled, tmp_path, damage):
    (entry,) = (tmp_path / "openvino").iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    assert compiled() == 1
    assert compiled() == 0


def test_a_cache_folder_that_cannot_be_made_costs_only_time(compiled, monkeypatch):
    monkeypatch.setenv("EDGECV_CACHE", "/proc/nowhere")
    assert compiled() == 1


def test_threads_that_wait_leave_the_cores_to_others_where_that_is_asked_for(exported):
    spins = "session.intra_op.allow_spinning"
    with rt.load(exported, backend="onnxruntime", threads=1, busy_wait=False) as model:
        assert model._alive()._session.get_session_options().get_session_config_entry(spins) == "0"
    with rt.load(exported, backend="onnxruntime") as model, pytest.raises(RuntimeError):
        model._alive()._session.get_session_options().get_session_config_entry(spins)


@pytest.mark.parametrize("is_faster", [False, True])
def test_calls_that_overlap_have_a_thread_each_and_those_that_come_one_by_one_all(exported, monkeypatch, is_faster):
    """Where one thread is as fast for a call alone, as for small models, there are no others."""
    monkeypatch.setattr(ort_backend, "_is_faster", lambda *_: is_faster)
    with rt.load(exported, backend="onnxruntime", threads=2, busy_wait=False) as model:
        backend, ran, inside = model._alive(), [], threading.Barrier(2)
        real = backend._run

        def run(session, feeds):
            ran.append(session.get_session_options().intra_op_num_threads)
            if len(ran) < 3:
                inside.wait(20)
            return real(session, feeds)

        backend._run = run
        feeds = {"image": model.bundle.golden().images}
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(model.run, feeds)
            while not ran:
                time.sleep(0.001)
            second = model.run(feeds)
        later = [model.run(feeds) for _ in range(4)]
        assert ran == ([1] * 6 if is_faster else [1, 1, 1, 1, 1, 2])
        assert all((each["logits"] == second["logits"]).all() for each in (first.result(), *later))


class Slow:
    """A session whose calls take so long."""

    def __init__(self, seconds, kind="tensor(uint8)", shape=("N", 4, 4, 3)):
        self.seconds, self.fed = seconds, []
        self.get_inputs = lambda: [SimpleNamespace(name="image", type=kind, shape=list(shape))]

    def run(self, outputs, feeds):
        self.fed.append(feeds["image"])
        time.sleep(self.seconds)


def test_whether_one_thread_is_faster_is_measured_by_rows_of_the_model():
    fast, slow = Slow(0.001), Slow(0.01)
    assert ort_backend._is_faster(fast, slow)
    assert not ort_backend._is_faster(slow, fast)
    assert {(each.shape, str(each.dtype)) for each in fast.fed} == {((1, 4, 4, 3), "uint8")}
    fixed = Slow(0.001, shape=(2, 4, 4, 3))
    assert ort_backend._is_faster(fixed, Slow(0.01))
    assert fixed.fed[0].shape == (2, 4, 4, 3)
    assert not ort_backend._is_faster(Slow(0, shape=("N", "H", "W", 3)), slow)
    assert not ort_backend._is_faster(Slow(0, kind="tensor(string)"), slow)
