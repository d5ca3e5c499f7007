"""What can be known to go wrong before the first epoch: checks that the steps of a build make before any of them runs.

Hours of training that end in "export wants 8 validation images" are lost for a thing that was known at the start.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgecv.data import Dataset
from edgecv.models.spec import WeightSource
from edgecv.tasks import training
from edgecv.train import TrainConfig
from edgecv.train.optimizer import make_optimizer, steps_per_epoch
from edgecv_export.quantize_config import MIN_IMAGES, QuantizeConfig
from edgecv_runtime import backends
from edgecv_runtime.errors import BackendUnavailable, BadInput, Unavailable
from edgecv_runtime.preprocess import Preprocess

COPIES = 15  # of the weights: two checkpoints with two averages and two moments each, weights, two bundles


def packages(step: str, names: Iterable[str], extra: str) -> None:
    """Raise Unavailable when a step's package is not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise Unavailable(f"the step '{step}' needs {', '.join(missing)}", extra=extra)


def some_backend() -> tuple[str, ...]:
    """No notes; raises BackendUnavailable where nothing runs a file."""
    if not backends.available():
        raise BackendUnavailable("no backend works here, onnxruntime will do", extra="onnxruntime")
    return ()


def images(dataset: Dataset, config: TrainConfig) -> Iterator[str]:
    """Notes on how the training images fill the steps of an epoch."""
    count = len(dataset.train)
    if config.batch > count:
        yield f"train.batch={config.batch} is more than there are training images: each step takes all {count}"
    if config.warmup < config.warmup_epochs:
        yield f"the warm-up is cut from {config.warmup_epochs:g} to {config.warmup:g} epochs, half of all"


def network(model: nn.Module, name: str, preprocess: Preprocess, dataset: Dataset, config: TrainConfig) -> None:
    """Run a network that is not needed afterwards on images of the training's size, in training mode and out of it.

    Raises BadInput when it cannot take them, gives what cannot be learned from the data set's truths, or has batch
    norms while a step is of one image.
    """
    count = len(dataset.train)
    smallest = count // steps_per_epoch(count, config.batch)
    if smallest < 2 and any(isinstance(each, _BatchNorm) for each in model.modules()):
        raise BadInput(
            f"train.batch={config.batch} makes steps of one image, and {name} has batch norms, which compare the "
            "images of a step: set train.batch=2 or more, or take a model without them (convnext_tiny, vit_b_16)"
        )
    height, width = preprocess.size
    two = torch.zeros(2, preprocess.channels, height, width)
    try:
        with torch.random.fork_rng(), torch.no_grad():
            model.train()(two)
            outputs = model.eval()(two[:1])
    except (RuntimeError, ValueError, AssertionError) as exc:
        reason = " ".join(str(exc).split())[:200]
        raise BadInput(f"{name} cannot take images of {height}x{width}: {reason}; set preprocess.size") from exc
    make_optimizer(model, config, torch.device("cpu"))
    try:
        training(dataset, config, preprocess.size).check(outputs)
    except BadInput as exc:
        raise BadInput(f"{name}: {exc}") from exc


def published(model: str, source: WeightSource | None, preprocess: Preprocess) -> Iterator[str]:
    """A note when a recipe's size is not that of the model's published weights that it begins with."""
    if source is not None and source.model == model and preprocess.size != source.preprocess.size:
        wanted, size = ("x".join(map(str, each.size)) for each in (source.preprocess, preprocess))
        yield (
            f"the weights '{source.name}' were trained at {wanted}, this recipe's preprocess.size is {size}: they lose "
            "accuracy there; leave the preprocess section out (preprocess=null) for theirs"
        )


def calibration(dataset: Dataset, config: QuantizeConfig) -> Iterator[str]:
    """Notes on a search that gets fewer images than it asks for; raises BadInput where they are too few for any."""
    wanted = {"images": (config.images, dataset.train, "training")}
    judged = dataset.val.truths is not None  # else the training images are divided
    if judged:
        wanted["check_images"] = (config.check_images, dataset.val, "validation")
    least = MIN_IMAGES if judged else 2 * MIN_IMAGES
    for name, (count, found, kind) in wanted.items():
        if len(found) < least:
            raise BadInput(
                f"quantize wants at least {least} {kind} images, there are {len(found)}: add some, or say quantize=null"
            )
        if count > len(found):
            yield f"quantize.{name}={count}, and there are {len(found)} {kind} images: all are taken"


def parity(dataset: Dataset, count: int) -> None:
    """Raise BadInput when there are fewer images than the export compares with PyTorch."""
    found = len(dataset.val) + len(dataset.train)
    if found < count:
        raise BadInput(f"export checks parity on {count} images, there are {found}: add some")


def room(folder: Path, images_bytes: int, model: nn.Module) -> None:
    """Raise Unavailable when the disk of a folder has no room for decoded images and copies of the weights."""
    there = next(each for each in [folder.absolute(), *folder.absolute().parents] if each.exists())
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    need, free = images_bytes + COPIES * weights, shutil.disk_usage(there).free
    if need > free:
        raise Unavailable(
            f"{folder}: the build needs about {_gb(need)} there ({_gb(images_bytes)} of decoded images, "
            f"{_gb(COPIES * weights)} of weights), {_gb(free)} are free: free some, name another place with --runs, or "
            "lower preprocess.size"
        )


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count < 10e9 else f"{count / 1e9:.0f} GB"
