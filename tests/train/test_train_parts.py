"""The parts of training against other implementations: schedule, optimizer, averages, statistics, augmentation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel
from train_lab import NORMALIZATION, some_digits, tiny

from edgecv.tasks.augment import augmentation, mixed, training_view
from edgecv.train import Augment, TrainConfig, evaluate, normalize
from edgecv.train.averaging import estimate_statistics, follow
from edgecv.train.optimizer import learning_rate, make_optimizer
from edgecv_runtime import records
from edgecv_runtime.errors import BadInput, ShapeError
from edgecv_runtime.preprocess import Normalization, Preprocess

# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epohcs": 3}, "did you mean 'epochs'"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"epochs": "3"}, "epochs"),
        ({"optimizer": "adam"}, "optimizer"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": float("nan")}, "lr must be positive"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"momentum": 1.0}, "momentum must lie in 0..1"),
        ({"ema": 1.0}, "ema must lie in 0..1"),
        ({"label_smoothing": 1.5}, "label_smoothing must lie in 0..1"),
        ({"warmup_epochs": -1.0}, "warmup_epochs must not be negative"),
        ({"mixup": -1.0}, "mixup must be at least 0"),
        ({"patience": -1}, "patience must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"precision": "fp16"}, "precision"),
        ({"augment": {"flp": True}}, "unknown key 'augment.flp'; did you mean 'flip'"),
        ({"augment": {"scale": [0.5, 0.2]}}, "scale must be two rising shares"),
        ({"augment": {"scale": [0.5, 1.0], "pad": 2}}, "two ways to crop"),
        ({"augment": {"magnitude": 30}}, "magnitude must lie in 1..29"),
        ({"augment": {"randaugment": 16}}, "randaugment must lie in 0..15"),
        ({"augment": {"shift": 1.0}}, "shift must lie in 0..1"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(BadInput, match=message):
        records.convert(settings, TrainConfig, "recipe.yaml: train")


# Schedule and optimizer


def test_the_learning_rate_warms_up_and_falls_along_torchs_cosine():
    config = TrainConfig(epochs=10, warmup_epochs=1.5, lr=0.4)
    rates = [learning_rate(config, step, 20) for step in range(200)]
    assert np.allclose(rates[:30], 0.4 * np.arange(1, 31) / 30)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
    schedule = CosineAnnealingLR(optimizer, T_max=170)
    for rate in rates[30:]:
        assert rate == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()
    assert TrainConfig(epochs=1, warmup_epochs=0).lr == learning_rate(TrainConfig(epochs=1, warmup_epochs=0), 0, 5)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_norms_and_biases_do_not_decay(kind):
    model = tiny()
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    config = TrainConfig(optimizer=kind, lr=0.1, weight_decay=0.5, momentum=0)
    optimizer = make_optimizer(model, config, torch.device("cpu"))
    for tensor in model.parameters():
        tensor.grad = torch.zeros_like(tensor)
    optimizer.step()
    decayed = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
    assert decayed == {"stem.weight", "conv.weight", "head.weight"}
    assert torch.allclose(model.head.weight, before["head.weight"] * (1 - 0.1 * 0.5))


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_backbone_learns_at_its_share_of_the_rate(kind):
    """Oracle: a step of all parameters at a tenth of the rate."""
    config = TrainConfig(optimizer=kind, backbone_lr=0.1, weight_decay=0.5)

    def stepped(network, config, rate):
        optimizer = make_optimizer(network, config, torch.device("cpu"))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        for tensor in network.parameters():
            tensor.grad = torch.ones_like(tensor)
        optimizer.step()
        return network.state_dict()

    def two():
        return nn.ModuleDict({"backbone": tiny(), "head": tiny()})

    found = stepped(two(), config, 0.1)
    plain = {rate: stepped(two(), TrainConfig(optimizer=kind, weight_decay=0.5), rate) for rate in (0.1, 0.01)}
    for name, tensor in found.items():
        assert torch.allclose(tensor, plain[0.01 if name.startswith("backbone.") else 0.1][name], atol=1e-7), name
    with pytest.raises(BadInput, match=r"train.backbone_lr=0.1, and .* has no backbone: leave it out"):
        make_optimizer(tiny(), config, torch.device("cpu"))


# Averages and statistics


def test_the_average_is_torchs_once_it_is_warm():
    model, average = tiny(), tiny()
    oracle = AveragedModel(tiny(), avg_fn=lambda kept, new, _: 0.9 * kept + 0.1 * new, use_buffers=True)
    oracle.n_averaged += 1  # else the first update copies
    for step in range(200, 205):  # (1 + 200) / (10 + 200) is above 0.9
        with torch.no_grad():
            for tensor in model.parameters():
                tensor.add_(torch.randn_like(tensor))
            model.train()(torch.randn(4, 1, 8, 8))
        follow(average, model, 0.9, step)
        oracle.update_parameters(model)
    for name, tensor in oracle.module.state_dict().items():
        if tensor.is_floating_point():
            assert torch.allclose(average.state_dict()[name], tensor, atol=1e-5), name
    assert average.norm.num_batches_tracked == 5


def test_the_average_soon_forgets_the_first_weights():
    model, average = nn.Linear(1, 1), nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(0)
        average.weight.fill_(1)
    for step in range(30):
        follow(average, model, 0.9999, step)
    assert abs(average.weight.item()) < 1e-8


def test_statistics_are_those_of_the_images(val_arrays):
    images = val_arrays[0][:64]  # of 8x8 pixels: just as many as give every norm enough values
    model = tiny()
    estimate_statistics(model, images, NORMALIZATION, batch=32)
    with torch.no_grad():
        first = model.stem(normalize(torch.from_numpy(images), NORMALIZATION)).numpy()
        second = model.conv(torch.relu(model.norm.eval()(torch.from_numpy(first)))).numpy()
    assert np.allclose(model.norm.running_mean, first.mean((0, 2, 3)), atol=1e-5)
    assert np.allclose(model.norm.running_var, first.var((0, 2, 3)), rtol=0.02)
    assert np.allclose(model.norm2.running_mean, second.mean((0, 2, 3)), atol=0.02)
    assert model.norm.momentum == 0.01
    assert model.training


def test_statistics_come_from_whole_batches_and_draw_nothing_at_random(val_arrays):
    one, other = tiny(), tiny()
    estimate_statistics(one, val_arrays[0][:100], NORMALIZATION, batch=64)
    estimate_statistics(other, val_arrays[0][:64], NORMALIZATION, batch=64)
    assert torch.equal(one.norm2.running_var, other.norm2.running_var)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.LayerNorm(10))
    estimate_statistics(plain, val_arrays[0][:10], NORMALIZATION)  # no batch norm: nothing to do
    assert plain.training


# Evaluation


def test_logits_are_the_models_on_normalized_pixels(val_arrays):
    images, _ = val_arrays
    model = tiny()
    logits = evaluate(model, images, NORMALIZATION, batch=50)
    assert (logits.shape, logits.dtype) == ((len(images), 10), np.float32)
    assert model.training
    pixels = (images.astype(np.float32).transpose(0, 3, 1, 2) / 255 - 0.3) / 0.35
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(pixels)).numpy()
    assert np.allclose(logits, expected, atol=1e-5)


def test_large_images_go_through_by_the_few():
    """No forward takes more memory than one of 20 images of 224 pixels; small ones go together."""
    seen = []
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[0]))
    normalization = Normalization(mean=(0.3,) * 3, std=(0.35,) * 3)
    for size, count in ((32, 300), (224, 50), (2000, 2)):
        seen.clear()
        evaluate(model, np.zeros((count, size, size, 3), np.uint8), normalization)
        assert sum(seen) == count
        assert max(seen) == {32: 256, 224: 20, 2000: 1}[size]


@pytest.mark.parametrize(("size", "at_once"), [(32, 64), (224, 64), (448, 16), (2000, 2)])
def test_statistics_of_large_images_take_no_more_memory(size, at_once):
    seen = []
    model = nn.Sequential(nn.AvgPool2d(16), nn.BatchNorm2d(3))
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[0]))
    normalization = Normalization(mean=(0.3,) * 3, std=(0.35,) * 3)
    estimate_statistics(model, np.zeros((at_once + 1, size, size, 3), np.uint8), normalization)
    assert seen == [at_once]


def test_each_channel_has_its_own_mean_and_deviation():
    normalization = Normalization(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    pixels = normalize(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8), normalization)
    assert torch.allclose(pixels[0, :, 0, 0], torch.tensor([0.9 / 0.5, 0.8 / 0.6, 0.7 / 0.7]))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 1), np.float32),
        np.zeros((8, 8, 1), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((0, 8, 8, 1), np.uint8),
    ],
)
def test_other_images_are_refused(images):
    with pytest.raises(ShapeError, match=r"images wants \(N, H, W, 1\) uint8"):
        evaluate(tiny(), images, NORMALIZATION)


# Augmentation

ALL = [
    Augment(pad=2),
    Augment(scale=(0.4, 1.0)),
    Augment(flip=True),
    Augment(rotate=15, shift=0.1, zoom=0.1),
    Augment(randaugment=2, magnitude=9),
    Augment(pad=1, flip=True, rotate=5, randaugment=1),
]


@pytest.fixture(scope="module")
def pixels():
    """64 digits as (N, 3, 16, 16) of 0..1."""
    images = Preprocess(size=(16, 16), mode="stretch").batch(list(some_digits(64).train))
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def augmented(config, pixels, seed, size=(16, 16)):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return augmentation(config, size)(pixels)


@pytest.mark.parametrize("config", ALL, ids=repr)
def test_augmented_images_are_images_and_follow_from_the_seed(config, pixels):
    one = augmented(config, pixels, 0)
    assert one.shape == pixels.shape
    assert one.min() >= 0
    assert one.max() <= 1
    assert torch.equal(one, augmented(config, pixels, 0))
    assert not torch.equal(one, augmented(config, pixels, 1))


def test_nothing_is_augmented_unless_asked_for(pixels):
    assert torch.equal(augmented(Augment(), pixels, 0), pixels)


def test_flips_are_flips_and_about_half(pixels):
    out = augmented(Augment(flip=True), pixels, 0)
    flipped = [torch.equal(new, old.flip(-1)) for new, old in zip(out, pixels, strict=True)]
    kept = [torch.equal(new, old) for new, old in zip(out, pixels, strict=True)]
    assert all(one != other for one, other in zip(flipped, kept, strict=True))
    assert 16 < sum(flipped) < 48


def test_padded_crops_are_shifts(pixels):
    out = augmented(Augment(pad=2), pixels, 0)
    padded = nn.functional.pad(pixels, (2, 2, 2, 2))
    offsets = set()
    for new, old in zip(out, padded, strict=True):
        found = [
            (y, x) for y in range(5) for x in range(5) if torch.allclose(new, old[:, y : y + 16, x : x + 16], atol=1e-5)
        ]
        assert found
        offsets.update(found)
    assert len(offsets) > 10


def test_crops_are_cut_from_larger_images():
    preprocess = Preprocess(size=(224, 192), mode="crop", color="BGR", interpolation="cubic")
    view = training_view(preprocess, Augment(scale=(0.5, 1.0)))
    assert view == Preprocess(size=(256, 219), mode="crop", resize=219, color="BGR", interpolation="cubic")
    assert training_view(preprocess, Augment(pad=4)) == preprocess
    out = augmented(Augment(scale=(0.5, 1.0)), torch.rand(4, 3, 20, 20), 0, size=(16, 12))
    assert out.shape == (4, 3, 16, 12)


def test_randaugment_draws_anew_within_a_batch(pixels):
    """The same image all over a batch of 64: kornia alone would treat it with the same operations everywhere."""
    same = pixels[:1].expand(64, -1, -1, -1).clone()
    out = augmented(Augment(randaugment=1, magnitude=15), same, 4)
    groups = [out[start : start + 16] for start in range(0, 64, 16)]
    assert any(not torch.allclose(groups[0], other) for other in groups[1:])


@given(st.integers(2, 12), st.integers(2, 5), st.floats(0.05, 4.0), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_mixup_blends_images_and_targets_alike(count, classes, alpha, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        labels = torch.arange(count) % classes
        targets = nn.functional.one_hot(labels, classes).float()
        # Each image is its own target: whatever share and partner are drawn, both must be blended the same way.
        pixels = targets.view(count, classes, 1, 1).expand(-1, -1, 3, 3)
        new_pixels, new_targets = mixed(pixels, targets, alpha)
    assert torch.allclose(new_targets.sum(1), torch.ones(count), atol=1e-6)
    assert torch.allclose(new_pixels[:, :, 1, 2], new_targets, atol=1e-6)


@pytest.mark.parametrize("color", ["RGB", "BGR", "GRAY"])
def test_a_mosaic_shows_what_the_network_saw(color, tmp_path):
    """Five images of one colour each, read back by OpenCV: their colour, in rows of three, with gaps between."""
    import cv2

    from edgecv.train import mosaic
    from edgecv.train.evaluate import normalize

    channels = 1 if color == "GRAY" else 3
    colours = np.random.default_rng(0).integers(0, 256, (5, 1, 1, channels), np.uint8)
    images = np.broadcast_to(colours, (5, 6, 4, channels)).copy()  # in the channel order of the network
    normalization = Normalization(mean=(0.4, 0.5, 0.6)[:channels], std=(0.2, 0.3, 0.4)[:channels])
    mosaic.keep(tmp_path, 1, normalize(torch.from_numpy(images), normalization), normalization, color)
    sheet = cv2.imread(str(tmp_path / "batch-2.png"))
    assert sheet.shape == (6 + 2 + 6, 4 + 2 + 4 + 2 + 4, 3)
    for index, colour in enumerate(colours[:, 0, 0]):
        top, left = index // 3 * 8, index % 3 * 6
        wanted = colour[::-1] if color == "RGB" else np.resize(colour, 3)  # OpenCV reads BGR
        assert (sheet[top : top + 6, left : left + 4] == wanted).all()
    assert (sheet[6:8] == 255).all()
