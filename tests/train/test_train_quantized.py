"""Quantization-aware training of a bundle's int8 variant: what plain quantization loses comes back."""

import os
import shutil
import signal

import msgspec
import numpy as np
import pytest
import torch
from torch import nn
from train_lab import losses, some_digits

from edgecv.train import Interrupted, QuantizedTraining, TrainConfig, fit
from edgecv.train.quantized import train_quantized
from edgecv_export.calibrate import sample
from edgecv_export.export import export
from edgecv_export.qat.network import FakeQuantized
from edgecv_export.quantize import QuantizeConfig, quantize
from edgecv_runtime import Bundle, verify
from edgecv_runtime.errors import BadInput, ComputationError
from edgecv_runtime.manifest import Budget
from edgecv_runtime.preprocess import Normalization, Preprocess

PREPROCESS = Preprocess(size=(16, 16), mode="stretch", interpolation="linear")
NORMALIZATION = Normalization(mean=(0.3, 0.3, 0.3), std=(0.35, 0.35, 0.35))
PLAIN = QuantizeConfig(images=100, check_images=359, placements=("all",), ranges=("min-max",), passes=(), islands=False)
FLOAT = TrainConfig(epochs=4, batch=64, lr=0.01, ema=0.9, warmup_epochs=1)
TRAINING = QuantizedTraining(epochs=4, lr=3e-3)


class Hostile(nn.Module):
    """Convolutions with batch norms, hard-swish and squeeze-and-excitation."""

    def __init__(self, width=16):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.depthwise = nn.Sequential(
            nn.Conv2d(width, width, 3, 2, 1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.point = nn.Sequential(nn.Conv2d(width, 32, 1), nn.Hardswish())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 32, 1), nn.Hardsigmoid())
        self.head = nn.Linear(32 * 16, 10)

    def forward(self, x):
        x = self.point(self.depthwise(self.stem(x)))
        return self.head(nn.functional.avg_pool2d(x * self.gate(x), 2).flatten(1))  # (N, 32, 4, 4) -> (N, 512)

    @torch.no_grad()
    def spread(self):
        """Let channels differ by 1000x behind both batch norms; what is computed stays the same."""
        for norm, reader, axis in (
            (self.stem[1], self.depthwise[0], 0),
            (self.depthwise[1], self.point[0], 1),
        ):
            factors = torch.logspace(-1.5, 1.5, len(norm.weight))[torch.randperm(len(norm.weight))]
            norm.weight.mul_(factors)
            norm.bias.mul_(factors)
            shape = [1] * 4
            shape[axis] = -1
            reader.weight.div_(factors.reshape(shape))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A trained network that plain quantization breaks, its data, and its bundle with that broken variant."""
    folder = tmp_path_factory.mktemp("hostile")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = Hostile()
        data = some_digits()
        fit(network, data, PREPROCESS, NORMALIZATION, FLOAT, folder / "train", progress=False)
        network.spread()
    frames = PREPROCESS.batch(list(data.val))
    given = {"preprocess": PREPROCESS, "normalization": NORMALIZATION, "labels": data.classes}
    export(network, folder / "bundle", name="hostile", images=frames, **given)
    calibration = PREPROCESS.batch(list(data.train.take(200)))
    quantize(folder / "bundle", calibration, PLAIN, check=frames, labels=data.val.labels)
    return network, data, calibration, frames, folder / "bundle"


@pytest.fixture
def copied(hostile, tmp_path):
    """The same with a bundle that a test may change."""
    return *hostile[:4], shutil.copytree(hostile[4], tmp_path / "bundle")


def trained(parts, folder, config=FLOAT, training=TRAINING, **options):
    network, data, calibration, frames, path = parts
    return train_quantized(
        path,
        network,
        data,
        sample(calibration, 100),
        frames,
        data.val.labels,
        config,
        training,
        folder,
        progress=False,
        **options,
    )


def test_training_brings_back_what_plain_quantization_loses(copied, tmp_path):
    *_, frames, path = copied
    with Bundle(path) as opened:
        float_file = opened.sha256("float32")
    done = trained(copied, tmp_path / "run")
    assert done.before.score.reference > 0.85  # float32
    assert done.before.score.drop > 10
    assert done.after.score.drop < done.before.score.drop / 2
    assert done.after.score.drop < 4
    assert done.kept
    assert str(done).endswith("the trained file is in the bundle")
    with Bundle(path) as opened:
        variant = opened.manifest.variant("int8-u8s8")
        assert variant.calibration.trained
        assert opened.sha256("float32") == float_file  # what it is compared with is the float training's
        with verify.float_reference(opened) as expected:
            found = verify.verify(opened, frames, expected, labels=copied[1].val.labels)
    judged = [each.entry for each in found if each.entry.variant == "int8-u8s8"]
    assert judged
    assert all(entry.finding is None for entry in judged)  # "other weights" is said of strangers, not of these
    assert all(entry.score.value == pytest.approx(done.training.score, abs=0.01) for entry in judged)


def test_a_worse_file_does_not_take_the_place_of_a_better_one(copied, tmp_path):
    before = (copied[-1] / "model.int8-u8s8.onnx").read_bytes()
    done = trained(copied, tmp_path / "run", training=QuantizedTraining(epochs=1, lr=0.3, warmup_epochs=0))
    assert done.after.score.drop > done.before.score.drop
    assert not done.kept
    assert (copied[-1] / "model.int8-u8s8.onnx").read_bytes() == before


SHORT = QuantizedTraining(epochs=2, lr=1e-3)


def test_an_interrupted_training_goes_on_to_the_same_file(copied, tmp_path):
    *parts, path = copied
    files = {}
    for name, every in (("broken", 17), ("whole", None)):
        bundle = shutil.copytree(path, tmp_path / name)
        passes = 0

        def count(module, *_, every=every):
            nonlocal passes
            passes += isinstance(module, FakeQuantized)
            if every and isinstance(module, FakeQuantized) and passes % every == 0:
                os.kill(os.getpid(), signal.SIGINT)

        hook = nn.modules.module.register_module_forward_hook(count)
        ended = 0
        try:
            while name not in files:
                try:
                    trained((*parts, bundle), tmp_path / f"run-{name}", training=SHORT)
                    files[name] = (bundle / "model.int8-u8s8.onnx").read_bytes()
                except Interrupted as exc:
                    ended += 1
                    assert exc.exit_code == 130
        finally:
            hook.remove()
        assert (ended > 1) == (every is not None)
    assert losses(tmp_path / "run-broken") == losses(tmp_path / "run-whole")
    assert files["broken"] == files["whole"]


# Bad input: one line, and the bundle as it was


def no_labels(parts):
    network, data, *rest = parts
    train = data.train.pick(np.arange(len(data.train)))
    object.__setattr__(train, "truths", None)
    return network, type(data)(data.classes, train, data.val), *rest


def quantized_float(parts):
    from edgecv_runtime import bundle

    with Bundle(parts[-1]) as opened:
        bundle.update(opened, content={"model.onnx": opened.variant_file("int8-u8s8").read_bytes()})
    return parts


@pytest.mark.parametrize(
    ("change", "options", "error", "said"),
    [
        (lambda parts: parts, {"dialect": "int8-u8u8"}, BadInput, "got 'int8-u8u8'; did you mean 'int8-u8s8'"),
        (lambda parts: parts, {"dialect": "fp16"}, BadInput, "dialects to train in are int8-u8s8, int8-s8s8"),
        (
            lambda parts: parts,
            {"dialect": "int8-s8s8"},
            BadInput,
            "has no variant 'int8-s8s8' to train; run 'edgecv qu",
        ),
        (no_labels, {}, BadInput, "quantize.train needs labels"),
        (quantized_float, {}, BadInput, "is already quantized; quantize the float32 model"),
        (
            lambda parts: parts,
            {"training": QuantizedTraining(epochs=1, lr=1e30, warmup_epochs=0)},
            ComputationError,
            r"quantize.train in int8-u8s8: the .* loss is (nan|inf) .*lower quantize.train.lr",
        ),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(copied, tmp_path, change, options, error, said):
    parts = change(copied)
    before = (parts[-1] / "bundle.json").read_bytes()
    with pytest.raises(error, match=said) as caught:
        trained(parts, tmp_path / "run", **options)
    assert "\n" not in str(caught.value)
    assert (parts[-1] / "bundle.json").read_bytes() == before


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ([20.0], r"the scale of '.*' is inf after training"),
        ([-20.0], r"the scale of '.*' is 0 after training"),
        ([4.0, -4.0], "onnxruntime failed on candidate.onnx"),  # finite, and too far apart for its int8 kernels
    ],
)
def test_scales_that_training_lost_are_said_with_the_cure(copied, tmp_path, monkeypatch, pattern, why):
    def diverged(model, *_, **__):
        with torch.no_grad():
            model.moved.copy_(torch.tensor(pattern).repeat(len(model.moved))[: len(model.moved)])

    monkeypatch.setattr("edgecv.train.quantized.fit", diverged)
    before = (copied[-1] / "bundle.json").read_bytes()
    with pytest.raises(
        ComputationError, match=rf"lower quantize.train.lr \(it is 0.003\); .*scale_lr \(it is 0.03\): {why}"
    ) as caught:
        trained(copied, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert (copied[-1] / "bundle.json").read_bytes() == before


def test_the_record_says_what_the_trained_weights_lie_on(copied, tmp_path, monkeypatch):
    """Training holds all weights, whatever range the variant before had cut them to."""
    from edgecv_runtime import bundle

    *_, path = copied
    with Bundle(path) as opened:
        variants = [
            msgspec.structs.replace(each, calibration=msgspec.structs.replace(each.calibration, weight_ranges="mse"))
            if each.calibration
            else each
            for each in opened.manifest.variants
        ]
        anything = Budget(max_drop_points=100)
        manifest = msgspec.structs.replace(opened.manifest, variants=tuple(variants), budget=anything)
        bundle.update(opened, manifest=manifest)
    monkeypatch.setattr("edgecv.train.quantized.fit", lambda *_, **__: None)  # the grid that it starts from will do
    assert trained(copied, tmp_path / "run").kept
    with Bundle(path) as opened:
        assert opened.manifest.variant("int8-u8s8").calibration.weight_ranges == "min-max"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"live": 1.0}, "live must"),
        ({"scale_lr": 0.0}, "scale_lr must"),
    ],
)
def test_settings_check_themselves(settings, said):
    with pytest.raises(ValueError, match=said):
        QuantizedTraining(**settings)
