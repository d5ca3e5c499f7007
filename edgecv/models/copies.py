"""Which tensors of a checkpoint are a network's weights: those under the one prefix under which all its names exist.

Training scripts put dictionaries and modules around a network and call them as they like: `state_dict`, `model.`,
`student.`, `ema.module.`. A dictionary and a module are the same here: what stands before the network's own names is a
prefix. What lies beside (losses, metrics, optimizers, another network) is left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Key = tuple[str, ...]  # names of the dictionaries around a tensor, and its own

# Modules that PyTorch's wrappers put before or within names, without changing what is computed.
WRAPPERS = frozenset(("module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))

# Words in names of what a training script keeps beside the network under the same prefix.
_TRAINING = {"criterion", "criteria", "loss", "losses", "metric", "metrics", "acc", "accuracy", "auroc", "f1",
             "confusion", "confmat", "iou", "miou", "precision", "recall", "optimizer", "optim", "scheduler", "scaler",
             "averaged"}  # fmt: skip


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


class Copy(NamedTuple):
    """Tensors under one prefix. place: the prefix, without its last dot; tensors: by their names behind it, translated;
    left_out: names of what lies beside.
    """

    place: str
    tensors: dict[str, Tensor]
    left_out: tuple[str, ...]


def copies(found: Mapping[Key, Tensor], wanted: Collection[str], needed: Collection[str], mark: str = "") -> list[Copy]:
    """The copies of a network's weights in a file, the fullest alone where none is whole.

    wanted: all names of the network; needed: those that a whole copy has. mark: the name of a tensor that shows another
    implementation's file, whose names are none of the network's.
    """
    places = _places(found, wanted, [mark, *(dialect.mark for dialect in DIALECTS)])
    views = {place: _below(found, place) for place in places}
    foreign = [place for place in places if mark and mark in views[place]]
    whole = [place for place in places if all(name in views[place] for name in needed)]
    fullest = sorted(places, key=lambda place: -sum(name in views[place] for name in wanted))[:1]
    chosen = foreign or whole or fullest
    return [_copy(found, place, views[place], {*wanted, mark}, chosen) for place in chosen]


def same(first: Copy, other: Copy) -> bool:
    """Whether two copies hold the same numbers."""
    return first.tensors.keys() == other.tensors.keys() and all(
        torch.equal(tensor, other.tensors[name]) for name, tensor in first.tensors.items()
    )


def part(found: Collection[Key], wanted: Collection[str]) -> str:
    """The module of a network whose names, without it, are all those of the file; "" when there is none."""
    names = {_clean(".".join(key)) for key in found}
    beginnings = {name[:place] for name in wanted for place in _dots(name)[1:]}
    fitting = [each for each in sorted(beginnings, key=len) if all(each + name in wanted for name in names)]
    return fitting[0].rstrip(".") if fitting else ""


def _places(found: Mapping[Key, Tensor], wanted: Collection[str], marks: Sequence[str]) -> list[str]:
    """Prefixes behind which a name of the network, or a mark, stands; the whole file is one."""
    looked_for = {*wanted, *marks} - {""}
    places = {"": None}
    for key in found:
        whole = ".".join(key)
        for place in _dots(whole):
            if whole[place:].partition(".")[0] not in WRAPPERS and _clean(whole[place:]) in looked_for:
                places[whole[:place]] = None
    return list(places)


def _below(found: Mapping[Key, Tensor], place: str) -> dict[str, Key]:
    """Names behind a prefix, without wrappers and translated -> their keys; a wrapper begins a prefix of its own."""
    behind = {".".join(key)[len(place) :]: key for key in found if ".".join(key).startswith(place)}
    own = {_clean(name): key for name, key in behind.items() if name.partition(".")[0] not in WRAPPERS}
    return dict(zip(_translated(list(own)), own.values(), strict=True))


def _copy(
    found: Mapping[Key, Tensor], place: str, names: Mapping[str, Key], wanted: Collection[str], places: Sequence[str]
) -> Copy:
    """A copy without what lies beside it: not under its prefix, under another, in another dictionary, or training's.

    Where no name is the network's, nothing is known to lie beside.
    """
    homes = {key[:-1] for name, key in names.items() if name in wanted}
    inner = tuple(each for each in places if each != place and each.startswith(place))
    tensors = {}
    for name, key in names.items():
        below_another = bool(inner) and ".".join(key).startswith(inner)
        beside = key[:-1] not in homes or below_another or _of_training(name, found[key])
        if name in wanted or not homes or not beside:
            tensors[name] = found[key]
    kept = {names[name] for name in tensors}
    return Copy(place.rstrip("."), tensors, tuple(".".join(key) for key in found if key not in kept))


def _of_training(name: str, tensor: Tensor) -> bool:
    """Whether a tensor that no network wants is a counter or score, or belongs to a loss, metric or optimizer."""
    alone = "." not in name and tensor.dim() == 0
    return alone or not _TRAINING.isdisjoint(re.split(r"[._\d]+", name.lower()))


def _translated(names: list[str]) -> list[str]:
    """The names of a file that speaks a dialect, as ours."""
    for dialect in DIALECTS:
        if dialect.mark in names:
            for pattern, ours in dialect.renames:
                names = [re.sub(pattern, ours, name) for name in names]
    return names


def _dots(name: str) -> list[int]:
    """Where the parts of a name begin."""
    return [0, *(match.end() for match in re.finditer(r"\.", name))]


def _clean(name: str) -> str:
    """A name without the modules of wrappers."""
    return ".".join(each for each in name.split(".") if each not in WRAPPERS)
