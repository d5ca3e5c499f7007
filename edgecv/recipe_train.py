"""What a recipe's `train:` section holds."""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations
from typing import Any, Literal

import msgspec

from edgecv_runtime.records import Record


class Augment(Record, frozen=True):
    """How training images are varied; everything is off unless asked for, because a mirrored "2" is no "2".

    pad: pixels of black border before a random crop to the old size. scale: (least, greatest) share of the area that a
    random crop keeps before it is resized, 0 to 1. flip: mirror half of the images left to right.
    rotate: greatest angle in degrees, either way. shift: greatest shift as a share of the side. zoom: greatest change
    of size, 0.1 for 0.9 to 1.1 times. color: greatest change of brightness, contrast and saturation, 0.2 for 0.8 to 1.2
    times.
    randaugment: how many of RandAugment's operations are applied (Cubuk et al. 2019), 0 for none; magnitude: how
    strongly, 1 to 29.
    mosaic: share of the pictures, with boxes, that become parts of four, side by side.
    """

    pad: int = 0
    scale: tuple[float, float] | None = None
    flip: bool = False
    rotate: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    color: float = 0.0
    randaugment: int = 0
    magnitude: int = 9
    mosaic: float = 0.0

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError(f"pad must be at least 0, got {self.pad}")
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be two rising shares of the area above 0 up to 1, got {self.scale}")
        if self.scale is not None and self.pad:
            raise ValueError("pad and scale are two ways to crop; give one")
        if not 0 <= self.rotate <= 180:
            raise ValueError(f"rotate must lie in 0..180 degrees, got {self.rotate}")
        if not 0 <= self.shift < 1:
            raise ValueError(f"shift must lie in 0..1, 1 exclusive, got {self.shift}")
        for name in ("zoom", "color"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in 0..1, 1 exclusive, got {getattr(self, name)}")
        if not 0 <= self.mosaic <= 1:
            raise ValueError(f"mosaic must lie in 0..1, got {self.mosaic}")
        if not 0 <= self.randaugment <= 15:
            raise ValueError(f"randaugment must lie in 0..15 operations, got {self.randaugment}")
        if not 1 <= self.magnitude <= 29:
            raise ValueError(f"magnitude must lie in 1..29, got {self.magnitude}")


class TrainConfig(Record, frozen=True):
    """How a network is trained; unknown keys are refused.

    epochs: passes over the training images; batch: images a step. optimizer, lr, weight_decay (not on norms and
    biases), momentum (SGD's): the peak learning rate is reached after `warmup_epochs` (of a run that is not longer than
    they are: after half of it) and falls to 0 along a cosine.
    backbone_lr: share of the learning rate with which the backbone of a detector or segmenter learns: 0.1 where that
    starts from published weights and all else from nothing, which then wants a higher rate.
    label_smoothing: share of the target that is spread over all classes. mixup: alpha of its Beta distribution
    (Zhang et al. 2018), 0 for none. ema: decay of the weights' moving average, which is what is validated and kept;
    it warms up, so short runs need no other value; 0 keeps the weights themselves.
    bn_images: training images from which batch-norm statistics are estimated anew before each validation (Wu and
    Johnson 2021): running averages lag in short runs, and averaged weights have statistics of their own; 0 leaves
    the running averages.
    precision: "auto" is bf16-mixed on a CUDA GPU that has it, else float32; validation is always float32.
    channels_last: "auto" for networks with batch norm, which it speeds up, and not for others, which it slows down.
    dice: of masks, the weight of the Dice loss beside cross-entropy, null for 1. class_weights: of masks, what a pixel
    of each class counts in the cross-entropy: one number a class, in their order, or "balanced", which grows as a class
    gets rarer; null counts all alike.
    patience: stop after so many epochs without a better validation, 0 never. seed: of order, augmentation and dropout.
    """

    epochs: int = 30
    batch: int = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    warmup_epochs: float = 2.0
    backbone_lr: float = 1.0
    label_smoothing: float = 0.1
    mixup: float = 0.0
    ema: float = 0.99
    bn_images: int = 1024
    augment: Augment = Augment()
    precision: Literal["auto", "float32", "bf16"] = "auto"
    channels_last: bool | Literal["auto"] = "auto"
    dice: float | None = None
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("weight_decay", "mixup", "bn_images", "patience", "seed"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("momentum", "label_smoothing", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in 0..1, 1 exclusive, got {getattr(self, name)}")
        if self.dice is not None and not 0 <= self.dice < float("inf"):
            raise ValueError(f"dice must be at least 0, got {self.dice}")
        if isinstance(self.class_weights, tuple) and not all(0 < each < float("inf") for each in self.class_weights):
            raise ValueError(f"class_weights must be positive, got {self.class_weights}")
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr must be positive, got {self.lr}")
        if not 0 <= self.warmup_epochs < float("inf"):
            raise ValueError(f"warmup_epochs must not be negative, got {self.warmup_epochs}")
        if not 0 < self.backbone_lr <= 1:
            raise ValueError(f"backbone_lr is a share of lr, above 0 up to 1, got {self.backbone_lr}")

    @property
    def warmup(self) -> float:
        """Epochs of warm-up: half of all epochs where `warmup_epochs` would leave none for the fall of the rate."""
        return self.warmup_epochs if self.warmup_epochs < self.epochs else self.epochs / 2


class QuantizedTraining(Record, frozen=True):
    """How the int8 files are trained on, as a recipe's `quantize.train` says; what is not here is as in `train`.

    epochs, lr, warmup_epochs: of this training, which starts from the trained weights. scale_lr: the learning rate of
    the activations' scales, by their logarithms: a calibrated range may begin ten times too wide. live: share of the
    training in which batch norms follow the batches; then they are frozen.
    """

    epochs: int = 5
    lr: float = 3e-4
    scale_lr: float = 0.03
    warmup_epochs: float = 0.5
    live: float = 0.5

    def __post_init__(self) -> None:
        self.applied_to(TrainConfig())
        if not 0 < self.scale_lr < float("inf"):
            raise ValueError(f"scale_lr must be positive, got {self.scale_lr}")
        if not 0 <= self.live < 1:
            raise ValueError(f"live must lie in 0..1, 1 exclusive, got {self.live}")

    def applied_to(self, config: TrainConfig) -> TrainConfig:
        """The config of this training. Grids want float32, and batch norms that are frozen are not estimated anew."""
        return msgspec.structs.replace(
            config,
            epochs=self.epochs,
            lr=self.lr,
            warmup_epochs=self.warmup_epochs,
            backbone_lr=1.0,
            bn_images=0,
            precision="float32",
        )


# Keys that came after the first versions: a training that leaves them at their default is the one that it was.
_LATER = {"train": ("dice", "class_weights", "backbone_lr"), "augment": ("color", "mosaic")}


def earlier(config: TrainConfig) -> dict[str, set[str | None]]:
    """How a config was written, key by key as `repr`, when some of the later keys were not there yet."""
    usual = TrainConfig()
    found: dict[str, set[str | None]] = {
        key: {None} for key in _LATER["train"] if getattr(config, key) == getattr(usual, key)
    }
    plain = msgspec.structs.asdict(config.augment)
    unsaid = [key for key in _LATER["augment"] if plain[key] == getattr(usual.augment, key)]
    lacking = [set(keys) for count in range(1, len(unsaid) + 1) for keys in combinations(unsaid, count)]
    found["augment"] = {_written(config.augment, plain.keys() - keys) for keys in lacking}
    return found


def _written(record: Record, keys: Collection[str]) -> str:
    """The `repr` of a record that has only these keys."""
    fields = ", ".join(f"{key}={value!r}" for key, value in msgspec.structs.asdict(record).items() if key in keys)
    return f"{type(record).__name__}({fields})"


def as_before(config: TrainConfig | None) -> Any:
    """A config in plain values that stay the same when keys are added, so that what was trained stays known."""
    if config is None:
        return None
    plain = msgspec.to_builtins(config)
    usual = msgspec.to_builtins(TrainConfig())
    for section, keys in _LATER.items():
        own, default = (each if section == "train" else each[section] for each in (plain, usual))
        for key in keys:
            if own[key] == default[key]:
                del own[key]
    return plain
