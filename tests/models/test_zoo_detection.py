"""Detectors of the zoo: their places, what their outputs mean, the features of every backbone, its weights."""

import numpy as np
import pytest
import torch
from zoo_reference import on_meta

from edgecv import models
from edgecv.models import rtmdet
from edgecv_runtime.errors import BadInput

DETECTORS = [name for name in models.names() if models.spec(name).task == "detection"]
NO_PYRAMID = ("lenet", "alexnet", "vit")  # one resolution, or none at these strides


@pytest.mark.parametrize("name", [name for name in models.names() if models.spec(name).task == "classification"])
def test_every_backbone_gives_its_features_at_three_strides(name):
    network, family = on_meta(name).eval(), models.spec(name).family
    x = torch.empty(2, models.spec(name).channels, 64, 96, device="meta")
    if family in NO_PYRAMID:
        with pytest.raises(BadInput, match=f"{name} has no features at the strides 8, 16 and 32"):
            network.pyramid(x)
        return
    found = network.pyramid(x)
    assert [each.shape[2:] for each in found] == [(8, 12), (4, 6), (2, 3)]
    assert all(each.shape[0] == 2 and each.shape[1] >= 24 for each in found)


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "swin_t", "convnext_atto", "mobilenet_v2"])
def test_features_are_those_that_the_classifier_sees(name):
    """Oracle: what flows into the classifier's own layers, caught by hooks."""
    network = models.create(name, seed=0).eval()
    seen = []
    for module in network.modules():
        module.register_forward_hook(lambda _, __, out: seen.append(out) if isinstance(out, torch.Tensor) else None)
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        network(x)
        through = list(seen)
        found = network.pyramid(x)
    for each in found:
        channels_last = each.permute(0, 2, 3, 1)
        assert any(
            torch.equal(out, wanted) for out in through for wanted in (each, channels_last) if out.shape == wanted.shape
        )


def test_places_are_the_centres_of_cells():
    found = rtmdet.places(64, 96).numpy()
    right = [
        (column * stride + stride / 2, row * stride + stride / 2, stride)
        for stride in (8, 16, 32)
        for row in range(64 // stride)
        for column in range(96 // stride)
    ]
    assert found.tolist() == [list(each) for each in right]


def test_boxes_and_scores_are_decoded_in_the_network():
    network = models.create("det_mobilenet_v2", classes=3, seed=0)
    branches = {}
    for kind in ("scores", "distances"):
        for level, branch in enumerate(getattr(network, kind)):
            branch.register_forward_hook(lambda _, __, out, key=(kind, level): branches.__setitem__(key, out.numpy()))
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        network.eval()
        found = network(x)
    where = rtmdet.places(64, 96).numpy().astype(np.float64)
    at = 0
    for level, stride in enumerate((8, 16, 32)):
        scores, reach = branches["scores", level].astype(np.float64), branches["distances", level].astype(np.float64)
        for row in range(64 // stride):
            for column in range(96 // stride):
                left, top, right, bottom = (np.log1p(np.exp(reach[1, :, row, column])) * stride).tolist()
                x, y, _ = where[at]
                box = [x - left, y - top, x + right, y + bottom]
                assert found.boxes[1, at].tolist() == pytest.approx(box, abs=1e-3)
                score = 1 / (1 + np.exp(-scores[1, :, row, column]))
                assert found.scores[1, at].tolist() == pytest.approx(score.tolist(), abs=1e-6)
                at += 1
    assert at == found.boxes.shape[1]
    assert 0.005 < float(found.scores.mean()) < 0.02  # the prior of a fresh head


def test_in_training_scores_are_before_their_sigmoid():
    network = models.create("det_mobilenet_v2", classes=3, seed=0).train()
    outputs = network(torch.randn(2, 3, 64, 64))
    assert float(outputs.scores.detach().max()) < 0
    assert (outputs.boxes[..., 2:] > outputs.boxes[..., :2]).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_detector_starts_from_the_weights_of_its_classifier(channels):
    """The lite's weights come in a package; the classifier with the same weights is the oracle."""
    name = "det_efficientnet_lite0"
    detector = models.create(name, classes=5, weights="imagenet", in_channels=channels, seed=0).eval()
    classifier = models.create("efficientnet_lite0", weights="imagenet", in_channels=channels).eval()
    x = torch.randn(1, channels, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for ours, theirs in zip(detector.backbone.pyramid(x), classifier.pyramid(x), strict=True):
            torch.testing.assert_close(ours, theirs)
    with pytest.raises(BadInput, match="'imagenet' are weights of the body of det_efficientnet_lite0 alone: train it"):
        models.create(name, weights="imagenet", new_heads=False)
    with pytest.raises(BadInput, match="no weights 'coco' for det_efficientnet_lite0"):
        models.create(name, weights="coco")


def test_weights_of_a_detector_are_saved_and_read(tmp_path):
    first = models.create("det_mobilenet_v2", classes=3, seed=1)
    torch.save(first.state_dict(), tmp_path / "det.pt")
    second = models.create("det_mobilenet_v2", classes=3, weights=tmp_path / "det.pt", seed=2)
    assert all(
        torch.equal(one, other)
        for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    other = models.create("det_mobilenet_v2", classes=4, weights=tmp_path / "det.pt", seed=2)
    assert torch.equal(other.backbone.state_dict()["features.0.0.weight"], first.backbone.features[0][0].weight)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_size_that_the_strides_do_not_divide_is_refused(name):
    with pytest.raises(
        BadInput, match=f"{name} wants sides that are multiples of 32 pixels, got 300x320; .* to 288x320"
    ):
        on_meta(name)(torch.empty(1, 3, 300, 320, device="meta"))
    assert models.spec(name).size in ((320, 320), (416, 416))
    assert models.spec(name).preprocess.mode == "letterbox"
