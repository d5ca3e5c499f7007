"""Running with TensorRT: progress, devices, and what is missing; inference itself where a GPU is at hand."""

import json
import logging
import pickle
import re
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from tensorrt_lab import why_not

import edgecv_runtime as rt
from edgecv_runtime import backends
from edgecv_runtime.backends import Options
from edgecv_runtime.backends.tensorrt import TensorRtBackend, api, backend, build, builder, cuda
from edgecv_runtime.backends.tensorrt.build import Plan
from edgecv_runtime.backends.tensorrt.builder import build_engine
from edgecv_runtime.backends.tensorrt.cuda import Gpu
from edgecv_runtime.backends.tensorrt.engine import inspected
from edgecv_runtime.backends.tensorrt.progress import EVERY_S, Progress
from edgecv_runtime.errors import BackendUnavailable, BadInput, Closed, ComputationError
from tests.conftest import LABELS

ADA = Gpu(name="NVIDIA RTX 4090", compute_capability=(8, 9), multiprocessors=128, cuda="13.0")


# Progress of a build


def test_phases_fill_the_steps_of_their_parents(caplog):
    now = [0.0]
    progress = Progress("model.onnx", clock=lambda: now[0])
    progress.start("Building", None, 4)
    progress.step("Building", 0)
    assert progress.fraction == 1 / 4
    progress.start("Timing", "Building", 2)
    progress.step("Timing", 0)
    assert progress.fraction == pytest.approx(1 / 4 + 1 / 8)
    progress.start("Layer", "Timing", 10)
    progress.step("Layer", 4)
    assert progress.fraction == pytest.approx(1 / 4 + 1 / 8 + 1 / 16)
    progress.finish("Layer")
    progress.finish("Timing")
    progress.step("Building", 1)
    assert progress.fraction == 1 / 2
    with caplog.at_level(logging.INFO, "edgecv.tensorrt"):
        progress.step("Building", 1)
        assert caplog.text == ""
        now[0] += EVERY_S
        progress.step("Building", 2)
        progress.step("Building", 2)
    assert [record.getMessage() for record in caplog.records] == ["model.onnx: building its TensorRT engine, 75 % done"]
    progress.finish("Building")
    assert progress.fraction == 1


def test_a_real_build_tells_how_far_it_is(exported, monkeypatch, caplog):
    watched, fractions = [], []

    class Watched(Progress):
        def __init__(self, name):
            super().__init__(name)
            watched.append(self)

        def step(self, phase, step):
            super().step(phase, step)
            fractions.append(self.fraction)

    monkeypatch.setattr(build, "Progress", Watched)
    with caplog.at_level(logging.INFO, "edgecv.tensorrt"):
        build.build_here(exported / "model.onnx", compute_capabilities=[(8, 9)])
    assert len(fractions) > 20
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < 0.2
    assert watched[0].fraction == 1
    first, *_, last = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(
        r"model.onnx: building its engine with TensorRT-RTX [\d.]+; on a Jetson this takes minutes", first
    )
    assert re.fullmatch(r"model.onnx: engine built in [\d.]+ s, [\d.]+ MB", last)


def test_a_build_in_its_own_process_tells_its_progress_here(exported, caplog):
    with caplog.at_level(logging.INFO, "edgecv.tensorrt"):
        assert build_engine(exported / "model.onnx", compute_capabilities=[(8, 9)])
    assert caplog.messages[0].startswith("model.onnx: building its engine with TensorRT-RTX")
    assert caplog.messages[-1].startswith("model.onnx: engine built in")


def test_an_interrupt_ends_a_build_at_once(exported, monkeypatch):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    children = []

    class Watched(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            children.append(self)

    def interrupted(answers):
        pickle.load(answers)  # the first record: the build has begun
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(builder.subprocess, "Popen", Watched)
    monkeypatch.setattr(builder, "_listen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_engine(exported / "model.onnx", compute_capabilities=[(8, 9)])
    assert [child.returncode for child in children] == [-signal.SIGKILL]


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "builder crashed (SIGSEGV)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "builder crashed (SIGKILL): is there enough memory?"),
        ("sys.exit(4)", "builder ended with exit code 4"),
        ("import time; os.close(1); time.sleep(0.5); os._exit(5)", "builder ended with exit code 5"),
    ],
)
def test_a_builder_that_crashes_is_an_error_here(exported, monkeypatch, last, said):
    no_core = "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))"  # a file of megabytes in the working folder
    monkeypatch.setattr(builder, "_CHILD", f"import os, resource, signal, sys; {no_core}; {last}; {builder._CHILD}")
    with pytest.raises(ComputationError) as caught:
        build_engine(exported / "model.onnx", compute_capabilities=[(8, 9)])
    assert str(caught.value) == f"{exported / 'model.onnx'}: TensorRT's {said}"


def test_what_tensorrt_raises_in_the_child_is_one_line_here(exported, monkeypatch, capfd):
    broken = "b.build_here = lambda *_, **__: (_ for _ in ()).throw(RuntimeError('out of\\nresources'))"
    monkeypatch.setattr(
        builder, "_CHILD", builder._CHILD.replace("from {module}", f"import {{module}} as b; {broken}; from {{module}}")
    )
    with pytest.raises(ComputationError) as caught:
        build_engine(exported / "model.onnx", compute_capabilities=[(8, 9)])
    assert str(caught.value) == (
        f"{exported / 'model.onnx'}: TensorRT's builder failed: RuntimeError: out of resources"
    )
    assert "Traceback" not in capfd.readouterr().err


# Devices, and what is missing


@pytest.mark.parametrize(
    ("device", "plan"), [(Options().device, Plan()), ("gpu", Plan()), ("dla:0", Plan(1, 0)), ("dla:1", Plan(1, 1))]
)
def test_devices(device, plan):
    assert backend.plan(device) == plan


@pytest.mark.parametrize("device", ["cpu", "npu", "dla", "dla:x", "dla:10", "gpu:1", ""])
def test_devices_that_tensorrt_has_not_are_refused(exported, device):
    with pytest.raises(BadInput, match="runs on device 'gpu', .* or a Jetson's 'dla:0' or 'dla:1', not on"):
        TensorRtBackend(exported / "model.onnx", Options(device=device))


def test_precision_by_option_is_refused(exported):
    with pytest.raises(BadInput, match="takes its precision from the ONNX file, not bf16"):
        TensorRtBackend(exported / "model.onnx", Options(precision="bf16"))


@pytest.fixture
def without_gpu(monkeypatch):
    """No NVIDIA driver, whatever this machine has."""

    def refuse(name, *_, **__):
        raise OSError(f"{name}: cannot open shared object file")

    cuda.gpu.cache_clear()
    monkeypatch.setattr(cuda.ctypes, "CDLL", refuse)


def test_without_a_gpu_the_others_are_used(without_gpu, exported, photos):
    assert "tensorrt" in backends.names()
    assert "tensorrt" not in backends.available()
    with rt.load(exported) as model:
        assert model.info.backend in ("onnxruntime", "openvino")
        assert model(photos[0]).label in LABELS


def test_without_a_gpu_asking_for_tensorrt_names_the_gpu(without_gpu, exported):
    with pytest.raises(BackendUnavailable, match="needs an NVIDIA GPU and its driver, but there is no lib") as caught:
        rt.load(exported, backend="tensorrt")
    assert isinstance(caught.value.__cause__, OSError)


def test_a_missing_library_names_its_cure(monkeypatch):
    monkeypatch.setattr(backend, "gpu", lambda: ADA)
    for name in api.LIBRARIES:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailable, match=r"not installed .*: .*pip install .*\[tensorrt\]"):
        TensorRtBackend.probe()


def test_a_library_that_does_not_load_says_why(monkeypatch):
    def fail(name):
        raise OSError("libnvinfer.so.10: cannot open shared object file\nand more")

    monkeypatch.setattr(api.importlib, "import_module", fail)
    with pytest.raises(
        BackendUnavailable, match="installed, but does not load: libnvinfer.so.10: cannot open .* file$"
    ):
        api.library()


def test_missing_cuda_bindings_name_their_cure(monkeypatch):
    cuda.cuda_runtime.cache_clear()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(BackendUnavailable, match="pip install cuda-bindings"):
        cuda.cuda_runtime()


def test_tensorrt_rtx_says_which_gpus_it_serves():
    trt = api.library()
    build.check_serves(trt, ADA)
    hopper = Gpu(name="NVIDIA H200", compute_capability=(9, 0), multiprocessors=132, cuda="13.0")
    with pytest.raises(
        BackendUnavailable, match=r"does not serve NVIDIA H200 \(compute capability 9\.0; it serves 7\.5"
    ):
        build.check_serves(trt, hopper)


def test_cuda_errors_come_in_its_own_words():
    with pytest.raises(ComputationError, match="tensorrt: cudaFree: "):
        cuda.cuda("cudaFree", 1)  # no driver, or not an address of the GPU


# Inference, where a GPU is at hand


@pytest.fixture
def images(digits):
    return digits[0][:40]


def open_or_refuse(file, **options):
    """A backend; None, after checking that the refusal says why, where there is no GPU that TensorRT serves."""
    missing = why_not()
    if missing:
        with pytest.raises(BackendUnavailable, match=re.escape(missing)):
            TensorRtBackend(file, Options(**options))
        return None
    return TensorRtBackend(file, Options(**options))


def test_threads_do_not_mix_their_answers(exported, images):
    opened = open_or_refuse(exported / "model.onnx")
    if opened is None:
        return
    expected = opened.run({"image": images})["logits"]
    wrong = []

    def work(seed):
        for turn in range(50):
            start, count = (seed * 7 + turn) % 20, 1 + seed
            logits = opened.run({"image": images[start : start + count]})["logits"]
            if np.abs(logits - expected[start : start + count]).max() > 1e-3 * np.abs(expected).max():
                wrong.append((seed, turn))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opened.close()
    assert wrong == []
    with pytest.raises(Closed, match="model.onnx is closed"):
        opened.run({"image": images})


def test_cuda_graphs_change_no_answer(exported, images, monkeypatch):
    recorded = open_or_refuse(exported / "model.onnx")
    monkeypatch.setenv(backend.GRAPHS_OFF, "0")
    plain = open_or_refuse(exported / "model.onnx")
    if recorded is None or plain is None:
        return
    for count in (1, 1, 1, 5, 5, 1, 1):
        feeds = {"image": images[:count]}
        assert (recorded.run(feeds)["logits"] == plain.run(feeds)["logits"]).all()
    recorded.close()
    plain.close()


def test_an_engine_is_built_once_and_again_when_it_is_damaged(exported, images, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("EDGECV_CACHE", str(tmp_path))

    def built():
        caplog.clear()
        with caplog.at_level(logging.INFO, "edgecv.tensorrt"):
            opened = open_or_refuse(exported / "model.onnx")
        if opened is not None:
            opened.close()
        return "engine built" in caplog.text

    if why_not():
        assert not built()
        assert list(tmp_path.rglob("*.engine")) == []  # nothing is built for a GPU that is not there
        return
    assert built()
    assert not built()
    (engine,) = (tmp_path / "tensorrt").glob("*.engine")
    engine.write_bytes(engine.read_bytes()[:-100])
    assert built()
    assert not built()


# What the engine inspector writes, after NVIDIA's documentation of it


def layer(kind, type_, field="Format/Datatype", name="conv"):
    return {"Name": name, "LayerType": kind, "Inputs": [{"Name": "x", "Dimensions": [1, 8, 4, 4], field: type_}]}


@pytest.mark.parametrize(
    ("layers", "counts"),
    [
        ([layer("CaskConvolution", "Thirty-two wide channel vectorized row major Int8 format.")], {"int8": 1}),
        ([layer("CaskConvolution", "Channel major FP16 format where channel % 8 == 0")], {"fp16": 1}),
        ([layer("CaskGemmConvolution", "Half"), layer("gemm", "BFloat16")], {"fp16": 1, "bf16": 1}),
        ([layer("CaskConvolution", "Float", field="DataType"), layer("Reformat", "Half")], {"float32": 1}),
        ([layer("CaskConvolution", "Int8"), layer("Myelin", "Half", name="{ForeignNode[a...b]}")], {}),
        ([layer("CaskConvolution", "")], {}),
        (["conv + relu", "pool"], {}),
        ([{"Name": "conv", "LayerType": "CaskConvolution", "Inputs": ["x"]}], {}),
    ],
)
def test_the_inspector_is_read(layers, counts):
    assert inspected(json.dumps({"Layers": layers})) == counts


def test_an_inspector_that_writes_no_json_says_nothing():
    assert inspected('{"Layers": [{"Name": "a "quoted" name"}]}') == {}
