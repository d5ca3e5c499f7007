"""Whether a bundle can run on a device that is not here: rules against real libraries; what is not known is said."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from edgecv.cli.app import app
from edgecv.deploy import targets, traits
from edgecv.deploy.check import NOT_KNOWN, REFUSED, RUNS, check
from edgecv_runtime import Bundle
from edgecv_runtime import bundle as bundles
from edgecv_runtime.backends.tensorrt import api
from edgecv_runtime.backends.tensorrt.network import Parsed
from edgecv_runtime.errors import BadInput, ModelFileError

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
import tensorrt_lab

DOCS = Path(__file__).parents[2] / "docs"


def verdicts(path, name, **how):
    with Bundle(path) as bundle:
        return {(each.variant, each.backend): each for each in check(bundle, targets.find(name), **how).verdicts}


def said(verdict):
    return "; ".join(each.because for each in verdict.reasons)


def relu(path, opset=17, ir=8):
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "one", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir), path)
    return path


def with_file(bundle, change):
    """The bundle with its float32 file changed, and its manifest with it."""
    with Bundle(bundle) as opened:
        file = opened.manifest.variants[0].file
        model = change(onnx.load(opened.file(file)))
        bundles.update(opened, content={file: model.SerializeToString()})
    return bundle


def test_every_rule_and_target_is_complete_and_asks_for_words_that_there_are():
    ways = {name for target in targets.TARGETS.values() for name in target.ways}
    versions = {
        f"{name.split()[0]} {way.version}" for each in targets.TARGETS.values() for name, way in each.ways.items()
    }
    kinds = {"float32", "fp16", "int8", "zero points", "int32 bias", "opset 19", "antialias"}
    known = ways | versions | kinds | set(targets.TARGETS)
    known |= {trait for target in targets.TARGETS.values() for trait in target.traits}
    operators = {f"operator {schema.name}" for schema in onnx.defs.get_all_schemas()}
    for rule in targets.RULES:
        assert rule.when
        assert set(rule.when) <= known | operators, rule.when
        assert rule.because
        assert rule.source
    for name, target in targets.TARGETS.items():
        assert target.source
        assert all(way.source for way in target.ways.values())
        assert f"`{name}`" in (DOCS / "deploy.md").read_text()


@pytest.mark.parametrize("kind", ["float32", "fp16", "int8-u8s8", "int8-s8s8", "int8-s8s8-fp16"])
def test_what_is_said_of_tensorrt_is_what_its_own_parser_says(kind, finished, tmp_path):
    changes = {
        "float32": lambda model: model,
        "fp16": tensorrt_lab.half,
        "int8-s8s8": tensorrt_lab.symmetric,
        "int8-s8s8-fp16": lambda model: tensorrt_lab.half(tensorrt_lab.symmetric(model)),
    }
    file = finished / "model.int8-u8s8.onnx"
    if kind in changes:
        file = tmp_path / "model.onnx"
        onnx.save(changes[kind](onnx.load(finished / "model.onnx")), file)
    words = {"tensorrt", *traits.read(file).words}
    refused = any(words.issuperset(rule.when) for rule in targets.RULES if rule.verdict == "refused")
    try:
        Parsed(file, api.library(), strong=True)
        parses = True
    except ModelFileError:
        parses = False
    assert refused == (not parses)
    assert kind.split("-")[0] in words


@pytest.mark.parametrize(("opset", "ir"), [(17, 8), (23, 11), (24, 11), (23, 12)])
def test_a_file_above_a_librarys_opset_or_ir_version_is_refused(opset, ir, exported, tmp_path):
    """What onnxruntime 1.23.2 itself answered, 2026-11: 23 and 11 are the highest that it loads."""

    def raised(model):
        model.opset_import[0].version, model.ir_version = opset, ir
        return model

    shutil.copytree(exported, tmp_path / "bundle")
    found = verdicts(with_file(tmp_path / "bundle", raised), "jetson-orin-jp6")
    fits = opset <= 23 and ir <= 11
    assert found["float32", "onnxruntime"].verdict == (RUNS if fits else REFUSED)
    if not fits:
        assert "above" in said(found["float32", "onnxruntime"])
    assert found["float32", "openvino"].verdict == RUNS
    there = verdicts(tmp_path / "bundle", "rpi5")
    assert there["float32", "onnxruntime"].verdict == RUNS


def test_int8_of_openvino_on_a_raspberry_pi(finished):
    four, five = verdicts(finished, "rpi4"), verdicts(finished, "rpi5")
    assert four["int8-u8s8", "openvino"].verdict == REFUSED
    assert "Cortex-A72" in said(four["int8-u8s8", "openvino"])
    assert four["int8-u8s8", "onnxruntime"].verdict == four["float32", "openvino"].verdict == RUNS
    assert five["int8-u8s8", "openvino"].verdict == RUNS
    assert "mix" in five["int8-u8s8", "openvino"].notes[0].because


def test_what_nobody_has_run_is_not_known_until_there_is_evidence_of_it(finished_copy):
    key = ("float32", "tensorrt")
    assert verdicts(finished_copy, "jetson-orin-jp6")[key].verdict == NOT_KNOWN
    with Bundle(finished_copy) as bundle:
        evidence = bundle.evidence()
        board = msgspec.structs.replace(evidence.entries[0].machine, cpu="NVIDIA Jetson AGX Orin Developer Kit")
        like = next(each for each in evidence.entries if each.variant == "float32")
        there = msgspec.structs.replace(like, backend="tensorrt", hint="float32", machine=board)
        bundles.update(bundle, evidence=evidence.merged([there]))
    found = verdicts(finished_copy, "jetson-orin-jp6")
    assert found[key].verdict == RUNS
    assert "Jetson AGX Orin" in found[key].reasons[0].source
    assert found["float32", "tensorrt dla"].verdict == REFUSED
    assert verdicts(finished_copy, "jetson-jp7")[key].verdict == NOT_KNOWN
    with Bundle(finished_copy) as bundle:
        failed = msgspec.structs.replace(there, failed="no memory for the engine", latency=None, agreement=None)
        bundles.update(bundle, evidence=bundle.evidence().merged([failed]))
    assert said(verdicts(finished_copy, "jetson-orin-jp6")[key]) == "no memory for the engine"
    other = msgspec.structs.replace(board, cpu="NVIDIA Jetson Orin NX Engineering Reference Developer Kit")
    with Bundle(finished_copy) as bundle:
        ran = msgspec.structs.replace(there, machine=other)
        bundles.update(bundle, evidence=bundle.evidence().merged([ran]))
    found = verdicts(finished_copy, "jetson-orin-jp6")[key]
    assert (found.verdict, found.notes[-1].because) == (RUNS, "no memory for the engine")
    assert verdicts(finished_copy, "jetson-orin-jp6", memory_mb=8)[key].verdict == REFUSED


def test_memory_is_compared_with_the_measured_peak(finished):
    key = ("float32", "onnxruntime")
    assert verdicts(finished, "rpi4")[key].verdict == RUNS
    small = verdicts(finished, "rpi4", memory_mb=8)[key]
    assert small.verdict == REFUSED
    with Bundle(finished) as bundle:
        peak = max(
            each.latency.peak_rss_mb
            for each in bundle.evidence().entries
            if (each.variant, each.backend) == key and each.latency
        )
    assert f"needs {peak * 1e6 / 2**20:.0f} MiB, the device has 8" in said(small)


def test_the_words_of_a_file_are_what_onnx_says_of_it(finished, tmp_path):
    model = onnx.load(finished / "model.int8-u8s8.onnx")
    kinds = {each.name: each.data_type for each in model.graph.initializer}
    points = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    biases = {node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    words = traits.read(finished / "model.int8-u8s8.onnx").words
    assert ("zero points" in words) == any(kinds[name] == TensorProto.UINT8 for name in points)
    assert ("int32 bias" in words) == any(kinds.get(name) == TensorProto.INT32 for name in biases)
    assert {word for word in words if word.startswith("operator ")} == {
        f"operator {node.op_type}" for node in model.graph.node
    }
    nodes = [helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear", antialias=1)]
    image = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 4, 4]) for name in ("x", "y")]
    scales = numpy_helper.from_array(np.ones(4, np.float32), "s")
    graph = helper.make_graph(nodes, "one", image[:1], image[1:], [scales])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "r.onnx")
    assert "antialias" in traits.read(tmp_path / "r.onnx").words
    assert "antialias" not in traits.read(relu(tmp_path / "plain.onnx")).words


def test_the_verb_says_it_and_ends_with_4_where_nothing_can_run(exported):
    done = CliRunner().invoke(app, ["check", str(exported), "--target", "rpi5"])
    assert done.exit_code == 0, done.output
    assert "float32 on onnxruntime 1.32.0: runs: " in done.stdout
    done = CliRunner().invoke(app, ["check", str(exported), "--target", "jetson-jp5", "--json"])
    assert done.exit_code == 4
    found = json.loads(done.stdout)
    assert {each["verdict"] for each in found["verdicts"]} == {"refused"}
    assert "its Python is 3.8" in done.stdout
    assert done.stderr == f"edgecv: nothing of {exported} can run on jetson-jp5\n"
    done = CliRunner().invoke(app, ["check", str(exported), "--target", "rpi6"])
    assert done.exit_code == 2
    assert "did you mean 'rpi5'" in done.stderr
    with pytest.raises(BadInput):
        targets.find("jetson")
