"""A segmenter with its class map in the graph; oracle: PyTorch's argmax, ONNX Runtime used directly."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgecv import models
from edgecv.tasks import deployment
from edgecv_export.classmap import ClassMap, logits
from edgecv_export.graph import Deployed, to_onnx
from edgecv_runtime.errors import BadInput
from edgecv_runtime.head import MASK, SegmentationHead
from edgecv_runtime.preprocess import Normalization
from edgecv_runtime.verify import revealed


def exported(name, classes, normalization):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.create(name, classes=classes).eval()
    made = deployment("segmentation", network, tuple(f"class {index}" for index in range(classes)))
    graph = to_onnx(Deployed(made.network, normalization, made.outputs), (64, 96), 3, {})
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return network, made, session


@pytest.mark.parametrize(("name", "classes"), [("unet_small", 5), ("lraspp_mobilenet_v3_large", 21)])
def test_the_graph_gives_pytorchs_largest_logit_in_a_byte(name, classes):
    normalization = Normalization()
    network, made, session = exported(name, classes, normalization)
    assert made.outputs == (MASK,)
    (output,) = session.get_outputs()
    assert (output.name, output.type) == (MASK, "tensor(uint8)")
    assert len(output.shape) == 3
    assert output.shape[1:] == [64, 96]
    for count in (1, 3):
        frames = np.random.default_rng(count).integers(0, 256, (count, 64, 96, 3), np.uint8)
        (mask,) = session.run(None, {session.get_inputs()[0].name: frames})
        pixels = (
            torch.from_numpy(frames).permute(0, 3, 1, 2) / 255 - torch.tensor(normalization.mean).view(-1, 1, 1)
        ) / (torch.tensor(normalization.std).view(-1, 1, 1))
        with torch.inference_mode():
            outputs = network(pixels)
        best, second = outputs.topk(2, 1).values.unbind(1)
        clear = (best - second > 2e-5).numpy()  # else rounding decides
        assert clear.mean() > 0.98
        assert mask.shape == (count, 64, 96)
        assert np.array_equal(mask[clear], outputs.argmax(1).numpy()[clear])
        assert len(np.unique(mask)) > 1
        assert mask.nbytes * 4 * classes == outputs.numel() * 4  # what leaves the network shrinks as much


def test_logits_are_behind_the_classes_and_not_in_the_file():
    """Oracle: PyTorch's logits; the file itself keeps its one small output."""
    normalization = Normalization()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.create("unet_small", classes=3).eval()
    made = deployment("segmentation", network, ("a", "b", "c"))
    deployed = Deployed(made.network, normalization, made.outputs)
    content = to_onnx(deployed, (64, 96), 3, {}).SerializeToString()
    copy, names = revealed(content)
    assert set(names) == {MASK}
    assert [each.name for each in onnx.load_from_string(content).graph.output] == [MASK]
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    session = onnxruntime.InferenceSession(copy, providers=["CPUExecutionProvider"])
    shown, mask = session.run([names[MASK], MASK], {"image": frames})
    (wanted,) = logits(deployed, frames).values()
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (normalization.mean, normalization.std))
    with torch.inference_mode():
        right = network((torch.from_numpy(frames).permute(0, 3, 1, 2) / 255 - mean) / std).numpy()
    assert np.abs(wanted - right).max() < 1e-4 * np.abs(right).max()
    assert np.abs(shown - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert np.array_equal(shown.argmax(1), mask)
    assert logits(Deployed(network, normalization, ("logits",)), frames) == {}
    assert revealed(to_onnx(Deployed(network, normalization), (64, 96), 3, {}).SerializeToString())[1] == {}


@pytest.mark.parametrize(("labels", "background"), [(("background", "road"), 0), (("road", "sky"), None)])
def test_what_is_called_background_is_not_drawn(labels, background):
    made = deployment("segmentation", models.create("unet_small", classes=2), labels)
    assert made.head == SegmentationHead(labels, background=background)


def test_of_equal_logits_the_first_class_counts():
    assert ClassMap(torch.nn.Identity())(torch.zeros(2, 3, 4, 5)).equal(torch.zeros(2, 4, 5, dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(2, 3), (2, 257, 1, 2)])
def test_other_outputs_than_logits_of_pixels(shape):
    with pytest.raises(BadInput, match=r"a class map wants logits \(N, classes, H, W\)"):
        ClassMap(torch.nn.Identity())(torch.zeros(shape))
