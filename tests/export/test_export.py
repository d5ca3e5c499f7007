import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import edgecv_runtime as rt
from edgecv_export import parity
from edgecv_export.export import export
from edgecv_export.graph import Deployed, reference, to_onnx
from edgecv_runtime.errors import BadInput, ComputationError, ParityError
from tests.conftest import LABELS, NORMALIZATION, PREPROCESS


def test_the_graph_keeps_its_promises(exported):
    model = onnx.load(exported / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    (image,) = model.graph.input
    assert image.name == "image"
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert image.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [dim.dim_value for dim in image.type.tensor_type.shape.dim][1:] == [32, 32, 3]
    assert [node.op_type for node in model.graph.node if "image" in node.input] == ["Cast"]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["edgecv.name"] == "tiny"
    assert tuple(metadata["edgecv.labels"].split("\n")) == LABELS
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}  # folded


def test_normalization_is_that_of_the_record(network, digits):
    """Oracle: (x / 255 - mean) / std in float64 by numpy, then the bare network."""
    frames = digits[0][:4]
    mean, std = np.array(NORMALIZATION.mean), np.array(NORMALIZATION.std)
    pixels = ((frames / 255 - mean) / std).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(pixels.astype(np.float32))).numpy()
    assert np.abs(reference(Deployed(network, NORMALIZATION), frames) - wanted).max() < 1e-5


def test_the_export_repeats_byte_for_byte(network, digits, tmp_path):
    for name in ("a", "b"):
        export(
            network,
            tmp_path / name,
            name="x",
            preprocess=PREPROCESS,
            normalization=NORMALIZATION,
            labels=LABELS,
            images=digits[0][:8],
        )
    for file in ("bundle.json", "model.onnx", "golden.npz"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def damaged(path, where, change):
    """A copy of the graph in which the weights of the node with that name are changed."""
    model = onnx.load(path)
    node = next(each for each in model.graph.node if where in each.name and each.op_type in ("Conv", "Gemm"))
    tensor = next(each for each in model.graph.initializer if each.name == node.input[1])
    values = numpy_helper.to_array(tensor).copy()
    change(values)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


@pytest.mark.parametrize(
    ("where", "last", "first"),
    [("stem", "the input", "stem"), ("point", "module 'depthwise.2'", "point"), ("head", "module 'gate.2'", "head")],
)
def test_the_gate_refuses_a_wrong_graph_and_says_where(exported, network, digits, tmp_path, where, last, first):
    def change(values):
        values[0] = values[0] * 1.5 + 0.1

    path = tmp_path / "wrong.onnx"
    onnx.save(damaged(exported / "model.onnx", where, change), path)
    with pytest.raises(ParityError, match="differs from PyTorch on onnxruntime at batch 1") as caught:
        parity.gate(path, Deployed(network, NORMALIZATION), digits[0][:8])
    assert f"it agrees up to {last}" in str(caught.value)
    assert f"differs from module '{first}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_gate_runs_every_backend_at_batch_1_3_and_8(exported, network, digits):
    found = parity.gate(exported / "model.onnx", Deployed(network, NORMALIZATION), digits[0][:8])
    assert set(found) == {"onnxruntime", "openvino"}
    assert max(found.values()) < 1e-4


class WrongWithBatch(nn.Module):
    """Exports as a constant what depends on the batch: right at the traced batch only."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x) * float(x.shape[0])


def test_a_graph_that_bakes_in_the_batch_is_refused(network, digits, tmp_path):
    with pytest.raises(ParityError, match="at batch 1"):
        export(
            WrongWithBatch(network),
            tmp_path / "bundle",
            name="x",
            preprocess=PREPROCESS,
            normalization=NORMALIZATION,
            labels=LABELS,
            images=digits[0][:8],
        )
    assert list(tmp_path.iterdir()) == []


def test_a_network_in_training_mode_is_exported_as_it_evaluates(network, digits, tmp_path):
    trained = copy.deepcopy(network).train()
    given = {"name": "x", "preprocess": PREPROCESS, "normalization": NORMALIZATION, "labels": LABELS}
    export(trained, tmp_path / "bundle", images=digits[0][:8], **given)
    with rt.load(tmp_path / "bundle", backend="onnxruntime") as model:
        wanted = reference(Deployed(network, NORMALIZATION), digits[0][:8])
        assert np.abs(model.run({"image": digits[0][:8]})["logits"] - wanted).max() < 1e-4


def test_what_does_not_match_is_refused_before_anything_is_written(network, digits, tmp_path):
    given = {"name": "x", "preprocess": PREPROCESS, "normalization": NORMALIZATION, "labels": LABELS}
    path = tmp_path / "bundle"
    with pytest.raises(BadInput, match="wants at least 8 real images, got 3"):
        export(network, path, images=digits[0][:3], **given)
    with pytest.raises(BadInput, match="10 classes, but 2 labels"):
        export(network, path, images=digits[0][:8], **given | {"labels": ["a", "b"]})
    with pytest.raises(BadInput, match="normalization has 1 channels"):
        one = rt.Normalization((0.5,), (0.5,))
        export(network, path, images=digits[0][:8], **given | {"normalization": one})
    assert not path.exists()


class NotExportable(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x.mean(1)).real


def test_what_pytorch_cannot_export_is_one_line():
    with pytest.raises(ComputationError, match="PyTorch cannot export this network") as caught:
        to_onnx(Deployed(NotExportable(), NORMALIZATION), (8, 8), 3, {})
    assert "\n" not in str(caught.value)
