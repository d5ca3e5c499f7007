"""What OpenVINO does with int8 on ARM, played on this machine: `make test-arm64` sees it happen."""

import msgspec
import pytest
from evidence_lab import int8, tell

import edgecv_runtime as rt
from edgecv_runtime import backends, machine
from edgecv_runtime import bundle as bundles
from edgecv_runtime.backends import Executed, summarize
from edgecv_runtime.backends import openvino as backend
from edgecv_runtime.errors import ModelFileError
from edgecv_runtime.evidence import Evidence
from edgecv_runtime.offers import offered

LITE0_ON_A76 = {"float32": 16, "fp16": 17, "int8": 17}  # EfficientNet-Lite0 as OpenVINO 2026.4 compiles it there


@pytest.mark.parametrize(
    ("layers", "precision"),
    [
        (LITE0_ON_A76, "mixed"),
        ({"int8": 26, "float32": 24}, "int8"),
        ({"int8": 1, "float32": 1}, "int8"),
        ({"fp16": 30, "int8": 20}, "fp16"),
        ({"int8 on dla:0": 4, "int8 on gpu (fall-back)": 3, "fp16 on gpu (fall-back)": 5}, "int8"),
        ({}, "float32"),
    ],
)
def test_a_mix_is_called_so_where_no_precision_has_half_of_the_layers(layers, precision):
    assert summarize(layers).precision == precision


@pytest.mark.parametrize(
    ("layers", "islands", "is_mixed"),
    [
        (LITE0_ON_A76, "float32", True),
        ({"fp16": 30, "int8": 20}, "float32", True),  # nobody asked for fp16
        ({"fp16": 30, "int8": 20}, "fp16", False),  # the file's own islands
        ({"float32": 30, "int8": 20}, "float32", False),  # left in float when it was quantized
        ({"int8": 48, "fp16": 2}, "float32", False),
        ({"unknown": 5}, "float32", False),
        ({}, "float32", False),
    ],
)
def test_int8_is_mixed_where_most_runs_in_what_nobody_asked_for(layers, islands, is_mixed):
    said = backends.mixed(layers, islands)
    assert bool(said) == is_mixed
    if is_mixed:
        assert f"{layers['int8']} of {sum(layers.values())} layers" in said


@pytest.fixture
def on_a76(monkeypatch):
    """OpenVINO's int8 files run as they do on a Cortex-A76."""
    real = backend.OpenVinoBackend.executed
    mixed = Executed("mixed", LITE0_ON_A76)
    monkeypatch.setattr(
        backend.OpenVinoBackend, "executed", lambda self: mixed if "int8" in self._model.name else real(self)
    )


def test_auto_never_takes_a_mix_for_int8(finished_copy, on_a76):
    with bundles.Bundle(finished_copy) as opened:
        bundles.update(opened, evidence=Evidence())
    with rt.load(finished_copy, precision="int8") as model:
        assert model.info.backend == "onnxruntime"
        assert "not int8-u8s8 on openvino" in model.explain()
        assert "mixed precision, not in int8: 17 of 50 layers (16 in float32, 17 in fp16)" in model.explain()
    with rt.load(finished_copy, precision="int8", backend="openvino") as model:  # as was asked
        assert model.info.precision == "mixed"


def test_what_was_verified_to_be_a_mix_is_withheld_however_fast(finished_copy):
    tell(finished_copy, int8({"openvino": 0.1, "onnxruntime": ""}))
    with bundles.Bundle(finished_copy) as opened:
        entries = [
            msgspec.structs.replace(each, executed="int8", layers=LITE0_ON_A76)  # as older versions called it
            if (each.variant, each.backend) == ("int8-u8s8", "openvino")
            else each
            for each in opened.evidence().entries
        ]
        bundles.update(opened, evidence=Evidence(tuple(entries)))
        found = offered(opened.manifest, opened.evidence(), machine.this())
    assert found.backends("int8-u8s8") == ("onnxruntime",)
    assert found.withheld("int8-u8s8")["openvino"].startswith("runs in mixed precision")
    with rt.load(finished_copy, precision="int8") as model:
        assert model.info.backend == "onnxruntime"


class Uninitialized:
    """OpenVINO's core, as it takes float32 files alone on a Cortex-A72."""

    def __init__(self, core):
        self._core = core

    def __getattr__(self, name):
        return getattr(self._core, name)

    def compile_model(self, model, device, config):
        if any(node.get_type_name() == "FakeQuantize" for node in model.get_ops()):
            raise RuntimeError("Exception from src/inference/src/cpp/core.cpp:110:\nobject is not initialized")
        return self._core.compile_model(model, device, config)


@pytest.fixture
def on_a72(monkeypatch):
    this = msgspec.structs.replace(machine.this(), cpu="Cortex-A72", isa=("asimd",), os="Linux 6.12 aarch64")
    core = Uninitialized(backend.core())
    monkeypatch.setattr(machine, "this", lambda: this)
    monkeypatch.setattr(backend, "core", lambda: core)


def test_a_processor_on_which_openvino_has_no_int8_is_named_with_what_to_do(finished_copy, on_a72):
    with bundles.Bundle(finished_copy) as opened:
        bundles.update(opened, evidence=Evidence())
    with pytest.raises(ModelFileError, match=r"no int8 on this processor.*onnxruntime.*object is not initialized"):
        rt.load(finished_copy, precision="int8", backend="openvino")
    with rt.load(finished_copy, precision="float32", backend="openvino") as model:
        assert model.info.precision == "float32"
    with rt.load(finished_copy, precision="int8") as model:
        assert model.info.backend == "onnxruntime"
        assert "not int8-u8s8 on openvino: it does not load here" in model.explain()
