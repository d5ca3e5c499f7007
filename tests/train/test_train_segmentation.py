"""Training on masks: what moves a picture moves its mask, losses are those of formulas, and networks learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.metrics import jaccard_score
from torch.nn import functional as F

from edgecv import models
from edgecv.data import DataConfig, Dataset, cached_masks, load
from edgecv.data.dataset import Images
from edgecv.tasks import deployment, moves, training
from edgecv.tasks.augment import Color
from edgecv.tasks.segmentation import IGNORE, balanced, dice
from edgecv.train import Augment, QuantizedTraining, TrainConfig, evaluate, fit
from edgecv.train.quantized import train_quantized
from edgecv_export.calibrate import sample
from edgecv_export.export import export
from edgecv_export.quantize import QuantizeConfig, quantize
from edgecv_runtime.errors import BadInput, DatasetError
from edgecv_runtime.preprocess import Normalization, Preprocess

STRETCH = Preprocess(size=(32, 48), mode="stretch")
SHORT = TrainConfig(epochs=1, batch=8, warmup_epochs=0)
MOVES = st.builds(
    Augment,
    scale=st.sampled_from([None, (0.3, 1.0), (0.5, 0.5)]),
    flip=st.booleans(),
    rotate=st.sampled_from([0.0, 25.0, 180.0]),
    shift=st.sampled_from([0.0, 0.3]),
    zoom=st.sampled_from([0.0, 0.4]),
)


@pytest.fixture(scope="module")
def ink():
    """A small share of the written photographs."""
    found = load(DataConfig(source="ink"))
    return Dataset(found.classes, found.train.take(48), found.val.take(16), task="segmentation")


def task(config=SHORT, size=(32, 48), classes=("a", "b", "c")):
    none = Images((), (), lambda index: None, [])
    return training(Dataset(classes, none, none, task="segmentation"), config, size)


# Pictures and masks


@given(MOVES, st.integers(0, 10_000), st.sampled_from([(32, 48), (37, 55), (40, 40)]))
@settings(max_examples=60, deadline=None)
def test_a_mask_follows_its_picture_exactly(config, seed, given):
    """Each pixel of the pictures tells its column and row, and so does the mask: after any move they still agree.

    A ramp is what bilinear sampling gives back exactly, so it says where a pixel was taken from, to a fraction of one.
    """
    height, width = given
    column, row = (torch.arange(side, dtype=torch.float32) for side in (width, height))
    pixels = torch.stack([column.expand(height, width), row[:, None].expand(height, width), torch.ones(given)]) / 100
    for mask, channel in ((column.expand(height, width), 0), (row[:, None].expand(height, width), 1)):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found, moved = task(TrainConfig(augment=config)).augment(
                pixels[None].repeat(4, 1, 1, 1), mask.to(torch.uint8)[None].repeat(4, 1, 1)
            )
        assert found.shape == (4, 3, 32, 48)
        assert moved.shape == (4, 32, 48)
        assert moved.dtype == torch.uint8
        inside = found[:, 2] * 100 > 1 - 1e-4  # mixed of pixels of the picture alone
        off = (found[:, channel] * 100 - moved.float()).abs()[inside]
        assert off.numel() == 0 or off.max() <= 0.5 + 1e-2
        assert (moved[found[:, 2] < 1e-6] == IGNORE).all()  # beyond the picture nothing counts
        assert (moved[inside] != IGNORE).all()


def test_moves_are_the_ones_that_were_asked_for():
    """Corners of crops, flips and turns, read from the maps themselves."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        still = moves.draw(Augment(), 3, (20, 30), (20, 30))
        crops = moves.draw(Augment(scale=(0.25, 0.5)), 200, (20, 30), (10, 10))
        flips = moves.draw(Augment(flip=True), 200, (20, 30), (20, 30))
        turns = moves.draw(Augment(rotate=30), 200, (20, 30), (20, 30))
        shifts = moves.draw(Augment(pad=3), 200, (20, 30), (20, 30))
    assert torch.equal(still, torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(3, 2, 3))
    first = crops @ torch.tensor([0.0, 0, 1])  # (200, 2): x, y
    last = crops @ torch.tensor([10.0, 10, 1])
    area = (last - first).prod(1) / 600
    assert (first >= -1e-4).all()
    assert (last <= torch.tensor([30.0, 20]) + 1e-4).all()
    assert area.max() < 0.5 + 1e-4
    assert 0.2 < area.min() < 0.3
    assert 70 < (flips[:, 0, 0] == -1).sum() < 130
    assert torch.equal(flips[flips[:, 0, 0] == -1][0], torch.tensor([[-1.0, 0, 30], [0, 1, 0]]))
    middle = turns @ torch.tensor([15.0, 10, 1])
    assert torch.allclose(middle, torch.tensor([15.0, 10]).expand(200, 2), atol=1e-4)
    angle = torch.atan2(turns[:, 1, 0], turns[:, 0, 0]).rad2deg()
    assert 25 < angle.max() <= 30.001
    assert -30.001 <= angle.min() < -25
    assert set(shifts[:, 0, 2].tolist()) == set(range(-3, 4))


def test_flipped_pictures_are_flipped_to_the_bit():
    pixels = torch.rand(16, 3, 32, 48)
    masks = torch.randint(0, 3, (16, 32, 48), dtype=torch.uint8)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        found, moved = task(TrainConfig(augment=Augment(flip=True))).augment(pixels, masks)
    flipped = [torch.equal(new, old.flip(-1)) for new, old in zip(moved, masks, strict=True)]
    assert 0 < sum(flipped) < 16
    for new, old, is_flipped in zip(found, pixels, flipped, strict=True):
        assert torch.allclose(new, old.flip(-1) if is_flipped else old, atol=1e-5)


def test_color_changes_no_place_and_leaves_a_grey_picture_grey():
    pixels = torch.rand(32, 3, 8, 8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = Color(0.4)(pixels)
        grey = Color(0.4)(pixels[:, :1])
        same = Color(0.0)(pixels)
    assert torch.equal(same, pixels)
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found.mean((1, 2, 3)) - pixels.mean((1, 2, 3))).abs().max() > 0.1
    assert grey.shape == (32, 1, 8, 8)
    order = pixels[:, 0].flatten(1).argsort(1)
    assert (grey.flatten(1).gather(1, order).diff(dim=1) >= 0).all()  # what was darker is not brighter


@pytest.mark.parametrize("mode", ["crop", "stretch", "letterbox"])
def test_masks_are_kept_in_the_geometry_of_their_pictures(mode, tmp_path):
    """Oracle: the real preprocessing of a picture that shows its mask in grey, big blocks of it."""
    mask = np.random.default_rng(0).integers(0, 2, (5, 7), np.uint8).repeat(20, 0).repeat(20, 1)
    images = Images(("a",), ("1",), lambda index: (mask * 200 + 20)[..., None].repeat(3, 2), [mask])
    preprocess = Preprocess(size=(48, 64), mode=mode, interpolation="linear", fill=0)
    found = cached_masks(images, preprocess, tmp_path, IGNORE)
    assert found.shape == (1, 48, 64)
    picture = preprocess(images[0])[..., 0]
    clear = (picture == 20) | (picture == 220)
    assert np.array_equal(found[0][clear], picture[clear] > 100)
    border = picture == 0
    assert np.array_equal(found[0] == IGNORE, border)
    assert border.any() == (mode == "letterbox")
    assert found.flags.writeable is False


# Losses


def example(seed=0, classes=3):
    torch.manual_seed(seed)
    logits = torch.randn(2, classes, 6, 5, requires_grad=True)
    targets = torch.randint(0, classes, (2, 6, 5)).to(torch.uint8)
    targets[0, :2] = IGNORE
    return logits, targets


def test_cross_entropy_is_pytorchs_mean_over_what_counts():
    logits, targets = example()
    weights = (0.5, 1.0, 3.0)
    config = TrainConfig(dice=0, class_weights=weights, label_smoothing=0.0)
    wanted = F.cross_entropy(logits, targets.long(), torch.tensor(weights), ignore_index=IGNORE)
    assert torch.allclose(task(config).loss(logits, targets), wanted)
    plain = F.cross_entropy(logits, targets.long(), ignore_index=IGNORE, label_smoothing=0.1)
    assert torch.allclose(task(TrainConfig(dice=0)).loss(logits, targets), plain)
    judged = task(TrainConfig(class_weights=weights)).judge(logits.detach(), targets)
    assert judged.loss == pytest.approx(2 * F.cross_entropy(logits, targets.long(), ignore_index=IGNORE).item())


def test_dice_is_the_formula_class_by_class():
    logits, targets = example()
    targets[targets == 2] = 1  # a class that does not occur does not count
    shares, known = logits.softmax(1).detach().numpy(), targets.numpy() != IGNORE
    each = []
    for position in (0, 1):
        share, true = shares[:, position][known], (targets.numpy() == position)[known]
        each.append(1 - 2 * (share * true).sum() / (share.sum() + true.sum()))
    assert dice(logits, targets).item() == pytest.approx(np.mean(each), rel=1e-5)
    sure = 20 * F.one_hot(targets.long().clamp(max=2), 3).permute(0, 3, 1, 2).float()
    assert dice(sure, targets).item() == pytest.approx(0, abs=1e-5)


def test_a_batch_in_which_nothing_counts_teaches_nothing():
    logits, targets = example()
    targets[:] = IGNORE
    for weights in (None, (1.0, 2.0, 3.0)):
        judge = task(TrainConfig(class_weights=weights))
        loss = judge.loss(logits, targets)
        assert loss.item() == 0
        loss.backward()
        assert torch.equal(logits.grad, torch.zeros_like(logits))
        assert judge.right(logits, targets) == 0


def test_rare_classes_weigh_more():
    masks = [np.array([[0] * 8, [0] * 7 + [1]], np.uint8), np.full((2, 8), IGNORE, np.uint8)]
    shares = np.array([15 / 16, 1 / 16, 0])
    assert balanced(masks, 3).numpy() == pytest.approx(1 / np.log(1.02 + shares), rel=1e-6)


# What is refused, in one line


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (TrainConfig(mixup=0.2), "train.mixup changes images without their masks"),
        (TrainConfig(augment=Augment(randaugment=1)), "train.augment.randaugment changes images without"),
        (TrainConfig(class_weights=(1.0, 2.0)), "gives 2 weights for 3 classes"),
    ],
)
def test_settings_that_masks_cannot_follow(config, said):
    with pytest.raises(BadInput, match=said):
        task(config)


@pytest.mark.parametrize("settings", [{"dice": 0.5}, {"class_weights": "balanced"}])
def test_a_classifier_takes_no_settings_of_masks(settings, tmp_path):
    digits = load(DataConfig(source="digits"))
    with pytest.raises(BadInput, match="is for masks, and this data set has a class for each image"):
        training(digits, TrainConfig(**settings), (8, 8))


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("unet_small", (40, 48), "wants sides that are multiples of 16 pixels, got 40x48"),
        ("mobilenet_v3_small", (32, 48), r"the model gives \(2,\) outputs an image, masks want .* = \(2, 32, 48\)"),
    ],
)
def test_a_network_that_does_not_fit(name, size, said, ink, tmp_path):
    model = models.create(name, classes=2)
    with pytest.raises(BadInput, match=said):
        fit(model, ink, Preprocess(size=size, mode="stretch"), Normalization(), SHORT, tmp_path)


def test_masks_that_are_not_there(ink, tmp_path):
    bare = Dataset(ink.classes, ink.train, Images(ink.val.names, ink.val.stamps, ink.val.read), task="segmentation")
    with pytest.raises(DatasetError, match="validation images have no labels"):
        fit(models.create("unet_small", classes=2), bare, STRETCH, Normalization(), SHORT, tmp_path)


# What is learned


def small(classes=2, width=24):
    """Down to a quarter of the size and back, in a tenth of a U-Net's time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = []
        for given, made, stride in ((3, width, 2), (width, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1)):
            layers += [torch.nn.Conv2d(given, made, 3, stride, 1), torch.nn.BatchNorm2d(made), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers, torch.nn.ConvTranspose2d(2 * width, classes, 4, 4))


def test_ink_is_learned_and_the_weights_are_what_was_validated(ink, tmp_path):
    preprocess, normalization = Preprocess(size=(48, 48), mode="stretch"), Normalization()
    config = TrainConfig(epochs=16, batch=8, lr=0.02, warmup_epochs=0, ema=0.9, augment=Augment(flip=True, color=0.1))
    result = fit(small(), ink, preprocess, normalization, config, tmp_path)
    assert result.metric == "mIoU"
    assert result.score > 0.55  # all of one class scores 0.45
    assert result.history[-1].val_loss < 0.8 * result.history[0].val_loss
    assert result.curves_csv.read_text().startswith("epoch,lr,train_loss,train_pixels_right,val_loss,val_mIoU,")
    model = small()
    model.load_state_dict(load_file(result.weights))
    logits = evaluate(model, preprocess.batch(list(ink.val)), normalization)
    truths = np.stack([preprocess.view(mask.shape).project_mask(mask, IGNORE) for mask in ink.val.truths])
    wanted = jaccard_score(truths.ravel(), logits.argmax(1).ravel(), average="macro")
    assert wanted == pytest.approx(result.score, abs=1e-3)


@pytest.mark.parametrize(
    "name",
    ["unet_small", "unet_small_upsample", "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"],
)
def test_the_networks_of_the_zoo_train(name, ink, tmp_path):
    few = Dataset(ink.classes, ink.train.take(8), ink.val.take(4), task="segmentation")
    config = TrainConfig(
        epochs=2,
        batch=4,
        lr=3e-3,
        warmup_epochs=0,
        class_weights="balanced",
        augment=Augment(scale=(0.5, 1.0), flip=True),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.create(name, classes=2)
    result = fit(model, few, Preprocess(size=(32, 32), mode="letterbox"), Normalization(), config, tmp_path)
    assert result.history[1].train_loss < result.history[0].train_loss
    assert 0 < result.score < 1


def test_a_run_goes_on_bit_for_bit(ink, tmp_path):
    """As for classifiers: stopped after an epoch and taken up again, it ends where the unbroken run does."""
    config = TrainConfig(epochs=3, batch=8, warmup_epochs=0, augment=Augment(scale=(0.5, 1.0), rotate=10, color=0.2))
    preprocess = Preprocess(size=(32, 32), mode="stretch")
    whole = fit(small(), ink, preprocess, Normalization(), config, tmp_path / "whole")

    class Stop(Exception):
        pass

    class Stopping(torch.nn.Module):
        calls = 0

        def forward(self, x):
            Stopping.calls += self.training
            if Stopping.calls == 9:
                raise Stop
            return x

    model = small()
    model[2].register_forward_hook(lambda module, inputs, output: Stopping.forward(module, output))
    with pytest.raises(Stop):
        fit(model, ink, preprocess, Normalization(), config, tmp_path / "broken", checkpoint_s=0)
    again = fit(small(), ink, preprocess, Normalization(), config, tmp_path / "broken")
    for name, tensor in load_file(whole.weights).items():
        assert torch.equal(tensor, load_file(again.weights)[name]), name
    assert [row.train_loss for row in again.history] == [row.train_loss for row in whole.history]


def blocks(seed, count):
    """Blocks of colours, the class of each the channel that is largest: learned in a second."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    names = [f"{seed}/{index}" for index in range(count)]
    return Images(tuple(names), tuple(names), images.__getitem__, list(images.argmax(3).astype(np.uint8)))


def test_an_int8_file_is_trained_by_the_logits_of_its_masks(tmp_path):
    """From the float32 training to the trained int8 file in the bundle; the damage is a scale that no grid fits."""
    preprocess, normalization = Preprocess(size=(32, 32), mode="stretch"), Normalization()
    data = Dataset(("blue", "green", "red"), blocks(0, 96), blocks(1, 24), task="segmentation")
    network = small(classes=3)
    config = TrainConfig(epochs=8, batch=16, lr=0.02, warmup_epochs=0, ema=0.9)
    fit(network, data, preprocess, normalization, config, tmp_path / "float")
    with torch.no_grad():  # the same function; one channel that the last layer reads is three hundred times as large
        network[10].weight[0] *= 300
        network[10].bias[0] *= 300
        network[12].weight[0] /= 300
    made = deployment("segmentation", network, data.classes)
    val, calibration = (preprocess.batch(list(images)) for images in (data.val, data.train))
    views = [preprocess.view(image.shape[:2]) for image in data.val]
    bundle = tmp_path / "bundle"
    given = {"preprocess": preprocess, "normalization": normalization, "images": val}
    export(made.network, bundle, name="blocks", head=made.head, outputs=made.outputs, **given)
    plain = QuantizeConfig(
        images=96, check_images=24, placements=("all",), ranges=("min-max",), passes=(), islands=False
    )
    quantize(bundle, calibration, plain, check=val, labels=data.val.truths, views=views)
    done = train_quantized(
        bundle,
        made.network,
        data,
        sample(calibration, 96),
        val,
        data.val.truths,
        config,
        QuantizedTraining(epochs=8, lr=3e-3, scale_lr=0.06),
        tmp_path / "int8",
        views=views,
        progress=False,
    )
    assert done.training.metric == "mIoU"
    assert done.before.score.reference > 0.6  # float32
    assert done.before.score.drop > 5
    assert done.after.score.drop < done.before.score.drop / 2
    assert done.kept
    assert str(done).startswith("int8-u8s8 trained: mIoU ")


# Ink


def test_ink_is_the_same_everywhere_and_of_different_digits_in_each_part():
    one, other = (load(DataConfig(source="ink")) for _ in range(2))
    assert one.train.fingerprint() == other.train.fingerprint()
    assert one.train.stamps != load(DataConfig(source="ink", seed=1)).train.stamps
    assert (len(one.train), len(one.val), one.classes) == (320, 80, ("background", "ink"))
    assert len({*one.train.stamps, *one.val.stamps}) == 400
    shares = [np.mean(mask == 1) for mask in one.train.truths]
    assert min(shares) > 0
    assert 0.02 < np.mean(shares) < 0.3
    # Ink stands out from what it lies on.
    for index in range(20):
        image, mask = one.train[index].astype(int), one.train.truths[index]
        assert np.abs(image[mask == 1].mean() - image[mask == 0].mean()) > 10 or (mask == 1).sum() > 300
