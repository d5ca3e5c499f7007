"""Files and code of others: modules, functions in graphs, outputs that differ from frame to frame, books of trials."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from edgecv_export import adopt, module
from edgecv_export.calibrate import Sample
from edgecv_export.classmap import ClassMap
from edgecv_export.graph import one_tensor
from edgecv_export.trial import digest
from edgecv_runtime import geometry
from edgecv_runtime.errors import BadInput
from edgecv_runtime.tasks.detections import Boxes

DATACLASS = """
from __future__ import annotations
from dataclasses import dataclass
from torch import nn

@dataclass
class Config:
    classes: int = 3

def make():
    return nn.Linear(2, Config().classes)
"""


def test_a_module_with_dataclasses_is_loaded_and_a_broken_one_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "somebodys_net.py").write_text(DATACLASS)
    assert module.load(f"{tmp_path}/somebodys_net.py:make").out_features == 3
    assert module.load(f"{tmp_path}/somebodys_net.py:make").out_features == 3  # again
    (tmp_path / "torch.py").write_text(DATACLASS)
    assert module.load(f"{tmp_path}/torch.py:make").out_features == 3
    assert sys.modules["torch"] is torch
    (tmp_path / "broken_net.py").write_text("raise ValueError('no')")
    with pytest.raises(BadInput, match="make raises ValueError: no"):
        module.load(f"{tmp_path}/broken_net.py:make")
    assert not [name for name in sys.modules if "broken_net" in name]


def test_a_graph_with_functions_is_read_in_a_fresh_process(tmp_path):
    domain = "some.body"
    double = helper.make_function(
        domain, "Double", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], [helper.make_opsetid("", 17)]
    )
    spec = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Double", ["a"], ["b"], domain=domain)], "g", spec[:1], spec[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    onnx.save(helper.make_model(graph, functions=[double], opset_imports=opsets), tmp_path / "a.onnx")
    told = "from edgecv_export import adopt; import pathlib, sys; print(adopt._readable(pathlib.Path(sys.argv[1]), [])"
    code = f"{told}.graph.node[0].op_type)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.onnx"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Add"


def test_outputs_that_differ_from_frame_to_frame_are_not_those_of_a_batch():
    ones = [np.ones((1, 3), np.float32), np.ones((1, 3), np.float32)]
    assert adopt._as_alone(ones, np.ones((2, 3), np.float32))
    assert not adopt._as_alone([ones[0], np.ones((1, 4), np.float32)], np.ones((2, 3), np.float32))
    assert not adopt._as_alone([np.float32([1])[0]] * 2, np.ones(2, np.float32))


def test_what_is_wanted_of_a_network_is_said_of_segmenters_too():
    with pytest.raises(BadInput, match=r"\(N, classes\) or a segmenter's \(N, classes, H, W\)"):
        one_tensor((torch.zeros(1, 2), torch.zeros(1, 3)))
    with pytest.raises(BadInput, match="255 classes at most"):
        ClassMap(torch.nn.Identity())(torch.zeros(1, 256, 2, 2))


def test_a_digest_is_of_content_and_of_views():
    images = np.arange(8 * 4 * 4 * 3, dtype=np.uint8).reshape(8, 4, 4, 3)
    sample = Sample(images, np.arange(8))

    def boxes(first):
        return Boxes(np.array([[first, 0, 4, 4]], np.float32)[:, :], np.zeros(1, np.int64))

    def taken(labels, views=None):
        return digest(sample, images, labels, views)

    wide = np.zeros((1, 8), np.float32)
    wide[0, ::2] = 1, 0, 4, 4
    strided = Boxes(wide[:, ::2], np.zeros(1, np.int64))  # the same boxes, as they lie in another array
    assert taken([boxes(1)] * 8) == taken([strided] * 8) != taken([boxes(2)] * 8)
    assert taken(np.arange(8)) != taken(np.arange(8).reshape(2, 4)) != taken(np.arange(8, dtype=np.int32))
    seen = [geometry.stretched((8, side), (4, 4)) for side in range(4, 12)]
    assert len({taken(None), taken(None, seen), taken(None, seen[::-1])}) == 3
