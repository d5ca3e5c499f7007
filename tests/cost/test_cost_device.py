"""surveying, remembering, predicting, and the command line, on a budget of seconds."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from edgecv import xray
from edgecv.cli.app import app
from edgecv.cost import real
from edgecv.cost import record as records
from edgecv.cost.net import Net
from edgecv.cost.predict import FRAMES, predict
from edgecv.cost.record import Limits, Survey
from edgecv.cost.survey import survey
from edgecv_runtime import backends, files, install, machine, onnxfile
from edgecv_runtime.errors import BackendUnavailable, BadInput, Unavailable

runner = CliRunner()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EDGECV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def quick() -> Survey:
    """A survey of about two seconds."""
    return survey("onnxruntime", seconds=2)


@pytest.fixture
def model(tmp_path) -> Path:
    net = Net((1, 3, 32, 32))
    net.conv(16, 3, 2, act="relu")
    net.conv(32, act="relu")
    net.shrink()
    path = tmp_path / "model.onnx"
    path.write_bytes(net.model())
    return path


def known(**changes: object) -> Survey:
    """A machine of which everything is known: 100 GMAC/s, 10 and 50 GB/s, 5 us for a pointwise kernel."""
    limits = Limits(100.0, 10.0, 50.0, 1_000_000, 2_000_000)
    costs = {"run": 7.0, "pointwise: dispatch": 5.0, "pointwise: MACs": 10.0}
    survey = Survey(machine.this(), "onnxruntime", {"onnxruntime": "1"}, "float32", costs, limits, 0.1, 1.0, 0.5, ())
    return msgspec.structs.replace(survey, **changes)


def test_a_survey_in_two_seconds(quick):
    assert quick.machine == machine.this()
    assert len(quick.timed) >= 10
    assert all(timed.ms > 0 for timed in quick.timed)
    assert quick.limits.gmacs_per_s > 0.1
    assert quick.reference_ms > 0
    assert all(cost > 0 for cost in quick.costs.values())


def test_written_and_read_again(quick, tmp_path):
    path = tmp_path / "jetson.json"
    records.write(path, [quick])
    assert records.read(path) == (quick,)


def test_remembered_for_this_hardware_only(quick, monkeypatch):
    with pytest.raises(Unavailable, match="run 'edgecv survey'"):
        records.of_this_machine()
    records.remember(quick)
    assert records.of_this_machine() == (quick,)
    other = msgspec.structs.replace(machine.this(), cpu="another")
    monkeypatch.setattr(machine, "this", lambda: other)
    with pytest.raises(Unavailable, match="not surveyed"):
        records.of_this_machine()


def test_a_damaged_survey_says_how_to_replace_it(quick, cache, model):
    records.remember(quick)
    (path,) = (cache / "calibrations").iterdir()
    path.write_text('{"calibrations": [')
    done = runner.invoke(app, ["inspect", str(model), "--device"])
    assert done.exit_code == 2
    assert "edgecv survey --backend onnxruntime" in done.stderr
    records.remember(quick)
    assert records.of_this_machine() == (quick,)


def test_a_damaged_survey_does_not_take_the_others_with_it(quick, cache, model):
    versions = backends.available()
    for name in ("openvino", "onnxruntime"):
        records.remember(msgspec.structs.replace(quick, backend=name, versions=versions[name]))
        if name == "openvino":
            (path,) = (cache / "calibrations").iterdir()
            path.write_text('{"calibrations": [')
    done = runner.invoke(app, ["inspect", str(model), "--device", "--json"])
    assert done.exit_code == 0, done.stderr
    assert [each["prediction"]["backend"] for each in json.loads(done.stdout)["device"]] == ["onnxruntime"]
    assert "left out" in done.stderr
    assert "edgecv survey --backend openvino" in done.stderr


def test_prediction_by_hand(tmp_path):
    """64 -> 32 channels on 10x10: 7 us a run, 5 us a kernel, 10 us a million MACs."""
    net = Net((1, 64, 10, 10))
    net.conv(32)
    path = tmp_path / "net.onnx"
    path.write_bytes(net.model())
    found = predict(xray.read(path), known())
    macs = 64 * 32 * 100
    assert found.ms == pytest.approx((7 + 5 + 10 * macs / 1e6) / 1e3)
    row = found.kernels[0]
    assert (row.kind, row.bound) == ("pointwise", "overhead")
    assert row.limit_ms == pytest.approx(macs / 100e6)  # 2.05 us of compute, 0.77 us for 38.4 kB at 50 GB/s
    assert found.reached(2 * found.limit_ms) == pytest.approx(0.5)


def test_no_kernel_is_faster_than_the_hardware():
    found = predict(xray.zoo("resnet18"), known(costs={}))
    assert found.ms == pytest.approx(found.limit_ms)
    assert all(row.ms >= row.limit_ms for row in found.kernels)


def test_shares_add_up_and_frames_stand_before_a_network_of_the_zoo(quick):
    found = predict(xray.zoo("mobilenet_v3_small"), quick)
    assert found.kernels[0].layers == (FRAMES,)
    assert sum(row.share for row in found.kernels) == pytest.approx(1, abs=0.02)
    assert found.ms == pytest.approx(quick.costs.get("run", 0) / 1e3 + sum(row.ms for row in found.kernels))


@pytest.mark.parametrize(
    ("place", "code", "said"),
    [
        (".", 2, "is a folder; name a file"),
        ("file/here.json", 3, "here.json: cannot be written: "),
        ("/proc/nowhere/here.json", 3, "cannot be written: No such file or directory; name another place"),
    ],
)
def test_survey_measures_nothing_for_a_file_that_cannot_be_written(tmp_path, monkeypatch, place, code, said):
    monkeypatch.setattr("edgecv.cost.survey.survey", lambda *_, **__: pytest.fail("it measures"))
    (tmp_path / "file").touch()
    done = runner.invoke(app, ["survey", "--out", str(tmp_path / place)])
    assert done.exit_code == code
    (line,) = done.stderr.splitlines()
    assert said in line
    assert sorted({path.name for path in tmp_path.iterdir()} - {"cache"}) == ["file"]


def test_survey_measures_nothing_where_it_cannot_keep_it(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGECV_CACHE", str(tmp_path / "file"))
    done = runner.invoke(app, ["survey", "--seconds", "600"])
    assert done.exit_code == 3
    assert "set EDGECV_CACHE to one that can be written" in done.output


def test_quantized_networks_are_refused(tmp_path):
    net = Net((1, 16))
    scale, zero = net.constant(np.float32(0.1)), net.constant(np.uint8(0))
    net.add("QuantizeLinear", scale, zero)
    net.add("DequantizeLinear", scale, zero)
    net.linear(8)
    path = tmp_path / "int8.onnx"
    path.write_bytes(net.model())
    with pytest.raises(BadInput, match="quantized"):
        predict(xray.read(path), known())


def test_an_int8_file_of_our_own_is_refused(tmp_path):
    """Its Q/DQ pairs are read as types of the tensors between the layers: none of its layers quantizes."""
    net = Net((1, 16))
    weights = net.constant(np.ones((16, 8), np.int8))
    scale, zero, zero_weight = net.constant(np.float32(0.1)), net.constant(np.uint8(0)), net.constant(np.int8(0))
    net.add("Relu")
    net.add("QuantizeLinear", scale, zero)
    given = net.add("DequantizeLinear", scale, zero)
    net.add("MatMul", net.add("DequantizeLinear", scale, zero_weight, at=weights), at=given, shape=(1, 8))
    path = tmp_path / "int8.onnx"
    path.write_bytes(net.model())
    graph = xray.read(path)
    assert "quantize" not in {layer.kind for layer in graph.layers}
    with pytest.raises(BadInput, match="quantized"):
        predict(graph, known())


def test_the_commands(model, tmp_path):
    out = tmp_path / "here.json"
    done = runner.invoke(app, ["survey", "--backend", "onnxruntime", "--seconds", "1", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)[0]["backend"] == "onnxruntime"
    for device in (["--device"], ["--device", str(out)]):
        shown = runner.invoke(app, ["inspect", str(model), *device], env={"COLUMNS": "80"})
        assert "…" not in shown.stdout
        assert shown.exit_code == 0, shown.output
        assert "predicted: " in shown.stdout
    measured = runner.invoke(app, ["inspect", str(model), "--device", "--measure", "--json"])
    assert measured.exit_code == 0, measured.output
    device = json.loads(measured.stdout)["device"]
    assert device[0]["measured_ms"] > 0
    assert device[0]["slower"] > 0
    assert device[0]["reached"] == pytest.approx(device[0]["prediction"]["limit_ms"] / device[0]["measured_ms"])


def test_a_real_run_has_the_size_that_was_predicted(tmp_path):
    """A convolution without padding and a linear layer behind it: the file runs at this one size only."""
    device = tmp_path / "here.json"
    records.write(device, [known()])
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Flatten", ["a"], ["b"]),
         helper.make_node("MatMul", ["b", "m"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 3, "H", "W"))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 5))],
        [numpy_helper.from_array(np.ones(shape, np.float32), name)
         for name, shape in (("w", (4, 3, 3, 3)), ("m", (4 * 6 * 8, 5)))],
    )  # fmt: skip
    path = tmp_path / "open.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    done = runner.invoke(app, ["inspect", str(path), "--size", "8x10", "--device", str(device), "--measure"])
    assert done.exit_code == 0, done.output
    assert "measured: " in done.stdout


def test_signals_are_measured_too_and_have_no_frames(tmp_path):
    device = tmp_path / "here.json"
    records.write(device, [known()])
    arguments = ["inspect", "wavenet_tiny", "--size", "64", "--device", str(device), "--measure", "--json"]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    forecast = json.loads(done.stdout)["device"][0]
    assert forecast["measured_ms"] > 0
    assert all(FRAMES not in kernel["layers"] for kernel in forecast["prediction"]["kernels"])


def test_a_model_of_the_zoo_is_exported_at_the_size_asked_for(tmp_path):
    real.export("lenet5", tmp_path / "lenet5.onnx", (36, 40))
    assert onnxfile.read(tmp_path / "lenet5.onnx").inputs[0].shape[1:] == (36, 40, 3)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["inspect", "MODEL", "--device"], 3, "run 'edgecv survey'"),
        (["inspect", "MODEL", "--device", "missing.json"], 2, "missing.json: No such file"),
        (["inspect", "MODEL", "--device", "BROKEN"], 2, "not valid JSON"),
        (["inspect", "MODEL", "--measure"], 2, "give --device too"),
        (["survey", "--backend", "onxruntime"], 2, "did you mean 'onnxruntime'"),
        (["survey", "--backend", "onnxruntime", "--precision", "fp4"], 2, "no precision 'fp4'"),
        (["survey", "--backend", "onnxruntime", "--seconds", "0"], 2, "seconds must be positive"),
    ],
)
def test_bad_input(model, tmp_path, arguments, code, words):
    broken = tmp_path / "broken.json"
    broken.write_text('{"calibrations": [')
    names = {"MODEL": str(model), "BROKEN": str(broken)}
    done = runner.invoke(app, [names.get(each, each) for each in arguments])
    assert done.exit_code == code
    assert words in " ".join(done.stderr.split())
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_measured(monkeypatch):
    # whoever runs the tests may write everywhere
    monkeypatch.setattr(files, "_temporary", lambda _: Path("/proc/nothing"))
    done = runner.invoke(app, ["survey", "--backend", "onnxruntime", "--seconds", "0"])
    assert done.exit_code == 3
    said = " ".join(done.stderr.split())
    assert "cannot be written: No such file or directory; set EDGECV_CACHE" in said


def test_another_machine_is_predicted_by_file_and_never_measured(model, tmp_path):
    elsewhere = known(machine=msgspec.structs.replace(machine.this(), cpu="Jetson"))
    path = tmp_path / "jetson.json"
    records.write(path, [elsewhere])
    shown = runner.invoke(app, ["inspect", str(model), "--device", str(path)])
    assert "Jetson" in shown.stdout
    refused = runner.invoke(app, ["inspect", str(model), "--device", str(path), "--measure"])
    assert refused.exit_code == 2
    assert "Jetson" in refused.stderr


def test_a_file_of_another_schema_or_of_nothing_is_refused(tmp_path):
    path = tmp_path / "old.json"
    for content, words in (
        ('{"calibrations": [], "schema": 9}', "schema 9"),
        ('{"calibrations": []}', "no survey"),
    ):
        path.write_text(content)
        with pytest.raises(BadInput, match=words):
            records.read(path)


def test_a_backend_that_is_not_installed(monkeypatch):
    from edgecv_runtime.backends import get

    def missing() -> dict[str, str]:
        raise BackendUnavailable("backend 'openvino' is not installed", extra="openvino")

    monkeypatch.setattr(get("openvino"), "probe", staticmethod(missing))
    done = runner.invoke(app, ["survey", "--backend", "openvino"])
    assert done.exit_code == 3
    assert f"is not installed: {install.command('openvino')}" in done.stderr


@pytest.mark.parametrize(("errors", "runs"), [((5.43, 0.2), 2), ((0.2,), 1), ((5.43, 5.43), 2)])
def test_a_survey_that_contradicts_itself_is_repeated_and_then_refused(errors, runs, quick, monkeypatch):
    import edgecv.cost.survey as module
    from edgecv_runtime.errors import ComputationError

    asked: list[float] = []

    def measured(*_arguments):
        asked.append(errors[len(asked)])
        return msgspec.structs.replace(quick, error=asked[-1], timed=quick.timed[:1] * module.ENOUGH)

    monkeypatch.setattr(module, "_measured", measured)
    if errors[-1] > 1:
        with pytest.raises(ComputationError, match="left-out error is 543%, also when measured again"):
            module.survey("onnxruntime")
    else:
        assert module.survey("onnxruntime").error == errors[-1]
    assert len(asked) == runs
