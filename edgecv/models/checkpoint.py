"""Reading a checkpoint file and fitting it into a network, or saying in one line why it does not fit."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from edgecv.models import copies, tensorfile
from edgecv.models.blocks import Network
from edgecv.models.copies import Copy, Key
from edgecv.models.spec import WeightSource
from edgecv.models.weights import SOURCES, fetch
from edgecv_runtime import files
from edgecv_runtime.errors import BadInput
from edgecv_runtime.records import Record

log = logging.getLogger("edgecv.models")

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")  # usual ones; what a file is, its content says

# Beginnings of our names -> the mark of timm's files of these models, whose layers stand in the same order. Those of
# EfficientNet-Lite do, too, but timm has each with two ways of padding under the same names: known by checksum only.
SAME_ORDER = {"mobilenet_v1": "conv_stem.weight", "convnext": "stem.0.weight"}


class LoadReport(Record, frozen=True):
    """What loading a checkpoint did.

    path, sha256: the file. entry: the prefix under which the weights lay in it, dictionaries' and modules' names alike,
    "" at the top. tensors: how many were loaded; left_out: names of those beside them, which are no weights of it.
    classes, checkpoint_classes: rows of the network's head and of the file's; head_replaced: they differ, and the
    network kept its own, untrained heads. auxiliary_missing: the file has none of the heads that only training runs,
    and the network kept its own. in_channels, checkpoint_channels, stem_adapted: channels of the network's stem and of
    the file's; they differ, and the kernels were adapted.
    """

    path: str
    sha256: str
    entry: str
    tensors: int
    left_out: tuple[str, ...]
    classes: int
    checkpoint_classes: int
    head_replaced: bool
    auxiliary_missing: bool
    in_channels: int
    checkpoint_channels: int
    stem_adapted: bool


def load_weights(
    network: Network, source: WeightSource | str | os.PathLike[str], *, new_heads: bool = True
) -> LoadReport:
    """Load published weights or a checkpoint file into a network of the zoo, completely or not at all.

    source: a row of `spec(name).weights`, or the path of a file with plain tensors: PyTorch's or safetensors, under any
    name. Where it holds several copies of the weights (of a model and its average, a student and its teacher), one is
    named behind "#": "last.ckpt#ema".
    Heads with another number of classes, and auxiliary ones that the file lacks, are left untrained, and a stem for RGB
    is adapted to another number of channels (see `create`); the report says so, and so does the logger
    "edgecv.models": at INFO for published weights, where it was asked for, and at WARNING for a file of the user's own,
    where it may be a slip. new_heads: False refuses another number of classes.
    Raises BadInput when the file does not fit or holds several copies, ModelFileError when it is no file of plain
    tensors, Unavailable when published weights cannot be had. After an error the network is unchanged.
    """
    path, place = (fetch(source), None) if isinstance(source, WeightSource) else named(source)
    found = tensorfile.read(path)
    digest = files.sha256(path)
    if isinstance(source, WeightSource):
        known: WeightSource | None = source
    else:  # a published file that was put by hand is known by its checksum
        known = next((row for row in SOURCES if digest.startswith(row.sha256)), None)
    wanted = network.state_dict()
    copy = _chosen(network, wanted, found, path, place)
    tensors = copy.tensors
    if _mark(network) in tensors or (known and known.layout == "same order"):
        tensors = _rename_in_order(tensors, wanted, path)

    stem, head, pixels = f"{network.stem_layer}.weight", f"{network.head_layers[0]}.weight", network.stem_pixels
    in_channels = wanted[stem].shape[1] // pixels
    channels, classes = _length(tensors, stem, 1) // pixels, _length(tensors, head, 0)
    stem_adapted = network.pictures and _length(tensors, stem, 1) == 3 * pixels and in_channels != 3
    if stem_adapted:
        kernels = tensors[stem].reshape(-1, 3, pixels, *wanted[stem].shape[2:])
        tensors[stem] = adapt_stem(kernels, in_channels).flatten(1, 2)
    head_replaced = 0 < classes != wanted[head].shape[0]
    if head_replaced and not new_heads:
        raise BadInput(
            f"{path}: its head has {classes} classes, {wanted[head].shape[0]} are wanted: the new one would be random, "
            "and nothing trains it; train it (a recipe's train section), or take data with the classes of the weights"
        )
    auxiliary_missing = bool(network.auxiliary) and not any(_within(name, network.auxiliary) for name in tensors)
    fresh = network.head_layers * head_replaced + network.auxiliary * auxiliary_missing
    kept = [name for name in wanted if _within(name, fresh)]
    where = f"{path} ({copy.place})" if copy.place else str(path)
    _check_fit(network, wanted, tensors | {name: wanted[name] for name in kept}, where)
    loaded = {name: tensor for name, tensor in tensors.items() if name not in kept}
    network.load_state_dict(loaded, strict=False)

    report = LoadReport(
        path=str(path),
        sha256=digest,
        entry=copy.place,
        tensors=len(loaded),
        left_out=copy.left_out,
        classes=wanted[head].shape[0],
        checkpoint_classes=classes,
        head_replaced=head_replaced,
        auxiliary_missing=auxiliary_missing,
        in_channels=in_channels,
        checkpoint_channels=channels,
        stem_adapted=stem_adapted,
    )
    _say(report, logging.INFO if known else logging.WARNING)
    return report


def _say(report: LoadReport, level: int) -> None:
    where = f"{report.path} ({report.entry})" if report.entry else report.path
    log.info("loaded %d tensors from %s", report.tensors, where)
    if report.left_out:
        log.info("%s: %d tensors beside them left out (%s)", where, len(report.left_out), _some(list(report.left_out)))
    if report.head_replaced:
        log.log(
            level,
            "%s has %d classes, the model %d: the head is new and untrained",
            where,
            report.checkpoint_classes,
            report.classes,
        )
    if report.auxiliary_missing:
        log.log(level, "%s lacks the auxiliary heads: they are new and untrained, and only training needs them", where)
    if report.stem_adapted:
        log.log(
            level,
            "%s has a stem for 3 channels, the model for %d: the kernels were adapted",
            where,
            report.in_channels,
        )


def adapt_stem(kernels: Tensor, channels: int) -> Tensor:
    """Adapt kernels for RGB (out, 3, k, k) to another number of channels -> (out, channels, k, k).

    One channel gets the sum, so that grey pictures give exactly what their three equal channels gave; more channels
    repeat R, G, B in turn, scaled by 3 / channels so that the response keeps its size.
    """
    if channels == 1:
        return kernels.sum(dim=1, keepdim=True)
    return kernels[:, [channel % 3 for channel in range(channels)]] * (3.0 / channels)


def named(source: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """The file, and the copy in it that is named behind "#"."""
    path = Path(source)
    whole, sign, place = os.fspath(source).rpartition("#")
    return (path, None) if not sign or path.is_file() else (Path(whole), place)


def _mark(network: Network) -> str:
    """The name that shows a file of timm's in the order of this network's layers; "" where there are none."""
    return next((mark for name, mark in SAME_ORDER.items() if network.variant.startswith(name)), "")


def _chosen(
    network: Network, wanted: Mapping[str, Tensor], found: Mapping[Key, Tensor], path: Path, place: str | None
) -> Copy:
    """The one copy of the network's weights in a file; raises BadInput where several differ and none is named."""
    # Files from before PyTorch 0.4.1 lack this counter, which nothing here uses.
    needed = [
        name for name in wanted if not name.endswith("num_batches_tracked") and not _within(name, network.auxiliary)
    ]
    every = copies.copies(found, wanted, needed, _mark(network))
    names = ", ".join(f"'{path}#{copy.place}'" for copy in every)
    if place is not None:
        some = [copy for copy in every if copy.place == place] or [
            copy for copy in every if _within(copy.place, (place,))
        ]
        if not some:
            raise BadInput(f"{path}: no weights of {network.variant} under '{place}'; there are: {names}")
        every = some
    fresh = (*network.head_layers, network.stem_layer)  # whose shapes may differ
    shapes = {name: _describe(wanted[name]) for name in needed if not _within(name, fresh)}
    fitting = [copy for copy in every if _has_shapes(copy.tensors, shapes)] or every
    if all(copies.same(fitting[0], other) for other in fitting[1:]):
        return fitting[0]
    names = ", ".join(f"'{path}#{copy.place}'" for copy in fitting)
    raise BadInput(
        f"{path}: holds {len(fitting)} different copies of the weights of {network.variant}; name the one to load: "
        f"{names}"
    )


def _has_shapes(tensors: Mapping[str, Tensor], shapes: Mapping[str, str]) -> bool:
    return all(name not in tensors or _describe(tensors[name]) == shape for name, shape in shapes.items())


def _rename_in_order(tensors: dict[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Give the tensors of another implementation our names: same layers, same order, same kind of tensor at each place.

    Axes of length 1 may differ: a 1x1 convolution (out, in, 1, 1) is a linear layer (out, in).
    """
    kinds = {"gamma": "layer_scale"}
    renamed: dict[str, Tensor] = {}
    for (theirs, tensor), (ours, like) in zip(tensors.items(), wanted.items(), strict=False):
        kind = theirs.rsplit(".", 1)[-1]
        if kinds.get(kind, kind) != ours.rsplit(".", 1)[-1]:
            raise BadInput(
                f"{path}: '{theirs}' stands where the model has '{ours}'; these are weights of another model"
            )
        same = [n for n in tensor.shape if n != 1] == [n for n in like.shape if n != 1]
        renamed[ours] = tensor.reshape(like.shape) if same else tensor
    surplus = list(tensors)[len(renamed) :]
    return renamed | {name: tensors[name] for name in surplus}


def _check_fit(network: Network, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Compare names, shapes and kinds of number; raises BadInput with the first few differences and their counts."""
    # Files from before PyTorch 0.4.1 lack this counter, which nothing here uses.
    missing = [name for name in wanted if name not in tensors and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in tensors if name not in wanted]
    other = [
        f"{name}: file {_describe(tensors[name])}, model {_describe(wanted[name])}"
        for name in wanted
        if name in tensors and _describe(tensors[name]) != _describe(wanted[name])
    ]
    problems = [
        f"{len(found)} {what} ({_some(found)})"
        for what, found in (("missing", missing), ("unexpected", unexpected), ("of another shape", other))
        if found
    ]
    if problems:
        heads = tuple(dict.fromkeys(layer.split(".")[0] for layer in network.head_layers))
        if all(_within(name, heads) for name in [*missing, *unexpected, *other]):
            what = "head differs" if len(heads) == 1 else "heads differ"
            problems.append(f"only the {what}: {', '.join(heads)}")
        elif len(unexpected) == len(tensors):
            inner = copies.part([(name,) for name in tensors], wanted)
            problems.append(
                f"these are names of its '{inner}' alone: the file was saved from a part of a network"
                if inner
                else "no name in common: weights of another model or implementation"
            )
        name = network.variant or type(network).__name__
        raise BadInput(f"{where} does not fit {name}: {'; '.join(problems)}")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise BadInput(f"{where}: '{name}' holds NaN or infinite values")


def _within(name: str, modules: tuple[str, ...]) -> bool:
    """Whether a tensor belongs to one of some modules."""
    return any(name.startswith(f"{module}.") for module in modules)


def _describe(tensor: Tensor) -> str:
    shape = f"({', '.join(map(str, tensor.shape))})"
    return shape if tensor.is_floating_point() else f"{shape} {str(tensor.dtype).removeprefix('torch.')}"


def _length(tensors: Mapping[str, Tensor], name: str, axis: int) -> int:
    """Length of an axis of a tensor, 0 where there is none."""
    return tensors[name].shape[axis] if name in tensors and tensors[name].ndim > axis else 0


def _some(names: list[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
