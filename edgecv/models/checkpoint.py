"""Reading a checkpoint file and fitting it into a network, or saying in one line why it does not fit."""

from __future__ import annotations

import logging
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edgecv.models.blocks import Network
from edgecv.models.spec import WeightSource
from edgecv.models.weights import SOURCES, fetch
from edgecv_runtime import files
from edgecv_runtime.errors import BadInput, ModelFileError, nearest
from edgecv_runtime.records import Record

log = logging.getLogger("edgecv.models")

SUFFIXES = (".safetensors", ".pth", ".pt")

# Where training scripts keep the weights in a checkpoint; averaged ones first, because they are the better ones.
ENTRIES = (
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
    "ema",
    "shadow",
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "network",
    "net",
)


class Dialect(NamedTuple):
    """Names of another implementation: a file that has `mark` speaks it; patterns and what they become here."""

    mark: str
    renames: tuple[tuple[str, str], ...]


DIALECTS = (
    Dialect(  # torchvision before 0.14, models/vision_transformer.py, MLPBlock; the published files among them
        "encoder.layers.encoder_layer_0.mlp.linear_1.weight",
        ((r"\.mlp\.linear_1\.", ".mlp.0."), (r"\.mlp\.linear_2\.", ".mlp.3.")),
    ),
    Dialect(  # timm 1.0, models/vision_transformer.py
        "cls_token",
        (
            (r"^cls_token$", "class_token"),
            (r"^pos_embed$", "encoder.pos_embedding"),
            (r"^patch_embed\.proj\.", "conv_proj."),
            (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
            (r"\.norm([12])\.", r".ln_\1."),
            (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
            (r"\.attn\.proj\.", ".self_attention.out_proj."),
            (r"\.mlp\.fc1\.", ".mlp.0."),
            (r"\.mlp\.fc2\.", ".mlp.3."),
            (r"^norm\.", "encoder.ln."),
            (r"^head\.", "heads.head."),
        ),
    ),
)

# Beginnings of our names -> the mark of timm's files of these models, whose layers stand in the same order. Those of
# EfficientNet-Lite do, too, but timm has each with two ways of padding under the same names: known by checksum only.
SAME_ORDER = {"mobilenet_v1": "conv_stem.weight", "convnext": "stem.0.weight"}

# What wrappers put before every name: DataParallel, torch.compile, Fabric, Lightning.
PREFIXES = ("module.", "_orig_mod.", "_forward_module.", "model.", "network.", "net.")


class LoadReport(Record, frozen=True):
    """What loading a checkpoint did.

    path, sha256: the file. entry: where in the file the weights lay, "" at the top. tensors: how many were loaded.
    classes, checkpoint_classes: rows of the network's head and of the file's; head_replaced: they differ, and the
    network kept its own, untrained heads. auxiliary_missing: the file has none of the heads that only training runs,
    and the network kept its own. in_channels, checkpoint_channels, stem_adapted: channels of the network's stem and of
    the file's; they differ, and the kernels were adapted.
    """

    path: str
    sha256: str
    entry: str
    tensors: int
    classes: int
    checkpoint_classes: int
    head_replaced: bool
    auxiliary_missing: bool
    in_channels: int
    checkpoint_channels: int
    stem_adapted: bool


def load_weights(network: Network, source: WeightSource | str | os.PathLike[str]) -> LoadReport:
    """Load published weights or a checkpoint file into a network of the zoo, completely or not at all.

    source: a row of `spec(name).weights`, or the path of a .safetensors, .pth or .pt file with plain tensors.
    Heads with another number of classes, and auxiliary ones that the file lacks, are left untrained, and a stem for RGB
    is adapted to another number of channels (see `create`); the report says so, and so does the logger
    "edgecv.models": at INFO for published weights, where it was asked for, and at WARNING for a file of the user's own,
    where it may be a slip.
    Raises BadInput when the file does not fit, ModelFileError when it is not what its suffix says or holds pickled
    code, Unavailable when published weights cannot be had. After an error the network is unchanged.
    """
    path = fetch(source) if isinstance(source, WeightSource) else Path(source)
    tensors, entry = read_checkpoint(path)
    digest = files.sha256(path)
    if isinstance(source, WeightSource):
        known: WeightSource | None = source
    else:  # a published file that was put by hand is known by its checksum
        known = next((row for row in SOURCES if digest.startswith(row.sha256)), None)
    wanted = network.state_dict()
    ordered = any(network.variant.startswith(name) and mark in tensors for name, mark in SAME_ORDER.items())
    if ordered or (known and known.layout == "same order"):
        tensors = _rename_in_order(tensors, wanted, path)

    stem, head, pixels = f"{network.stem_layer}.weight", f"{network.head_layers[0]}.weight", network.stem_pixels
    in_channels = wanted[stem].shape[1] // pixels
    channels, classes = _length(tensors, stem, 1) // pixels, _length(tensors, head, 0)
    stem_adapted = network.pictures and _length(tensors, stem, 1) == 3 * pixels and in_channels != 3
    if stem_adapted:
        kernels = tensors[stem].reshape(-1, 3, pixels, *wanted[stem].shape[2:])
        tensors[stem] = adapt_stem(kernels, in_channels).flatten(1, 2)
    head_replaced = 0 < classes != wanted[head].shape[0]
    auxiliary_missing = bool(network.auxiliary) and not any(_within(name, network.auxiliary) for name in tensors)
    fresh = network.head_layers * head_replaced + network.auxiliary * auxiliary_missing
    kept = [name for name in wanted if _within(name, fresh)]
    _check_fit(network, wanted, tensors | {name: wanted[name] for name in kept}, path)
    loaded = {name: tensor for name, tensor in tensors.items() if name not in kept}
    network.load_state_dict(loaded, strict=False)

    report = LoadReport(
        path=str(path),
        sha256=digest,
        entry=entry,
        tensors=len(loaded),
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


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read a file of tensors -> (name -> tensor on the CPU, the entry of the file where they lay).

    Raises BadInput when there is no such file or suffix, ModelFileError when its content is something else.
    """
    if path.suffix not in SUFFIXES:
        raise BadInput(f"{path}: weights end in {', '.join(SUFFIXES)}{nearest(path.suffix, SUFFIXES)}")
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    _check_first_bytes(path)
    data = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    tensors, entry = _unwrap(data, path)
    return _translate(_strip_prefixes(tensors)), entry


def _check_first_bytes(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise ModelFileError(f"{path}: the file is empty")
    if start.startswith(b"version https://git-lfs"):
        raise ModelFileError(f"{path}: a Git LFS pointer, not the weights; fetch them with: git lfs pull")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelFileError(f"{path}: a web page, not weights; the download went to a login or error page")
    if path.suffix != ".safetensors" and not start.startswith((b"PK\x03\x04", b"\x80")):
        raise ModelFileError(f"{path}: not a PyTorch checkpoint (neither its zip nor its pickle format)")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as exc:
        raise ModelFileError(f"{path}: not a complete safetensors file ({_one_line(exc)})") from exc


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        found = re.search(r"GLOBAL ([\w.]+)", str(exc))
        what = f"pickled Python objects ({found[1]})" if found else "something that is not plain tensors"
        raise ModelFileError(
            f"{path}: holds {what}, which could run code when loaded, or is damaged; "
            "save plain tensors with torch.save(model.state_dict(), path) or safetensors"
        ) from exc
    except Exception as exc:  # a damaged zip or pickle can make the reader raise almost anything
        what = f"{type(exc).__name__}: {_one_line(exc)}"
        raise ModelFileError(f"{path}: not a complete PyTorch checkpoint ({what})") from exc


def _unwrap(data: Any, path: Path) -> tuple[dict[str, Tensor], str]:
    """Descend through what training scripts put around a state dict."""
    entries: list[str] = []
    while not _is_state_dict(data):
        keys = [str(key) for key in data] if isinstance(data, Mapping) else []
        entry = next((name for name in ENTRIES if name in keys and isinstance(data[name], Mapping)), None)
        if entry is None:
            what = f"only {_some(keys)}" if keys else f"a {type(data).__name__}"
            raise ModelFileError(f"{path}: holds no state dict (name -> tensor), {what}")
        entries.append(entry)
        data = data[entry]
    return dict(data), ".".join(entries)


def _is_state_dict(data: Any) -> bool:
    return (
        isinstance(data, Mapping)
        and len(data) > 0
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in data.items())
    )


def _strip_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors = {name: tensor for name, tensor in tensors.items() if name != "n_averaged"}  # torch's AveragedModel
    while True:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None)
        if prefix is None or not tensors:
            return tensors
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _translate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a file that speaks a dialect our names."""
    for dialect in DIALECTS:
        if dialect.mark in tensors:
            for pattern, ours in dialect.renames:
                tensors = {re.sub(pattern, ours, name): tensor for name, tensor in tensors.items()}
    return tensors


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


def _check_fit(network: Network, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
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
            problems.append("no name in common: weights of another model or implementation")
        name = network.variant or type(network).__name__
        raise BadInput(f"{path} does not fit {name}: {'; '.join(problems)}")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise BadInput(f"{path}: '{name}' holds NaN or infinite values")


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


def _one_line(exc: Exception) -> str:
    lines = str(exc).strip().splitlines()
    return lines[0][:200] if lines else type(exc).__name__
