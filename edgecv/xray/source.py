"""What a user names - a model of the zoo, a bundle, an ONNX file - read as a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from edgecv.xray.extent import Shape
from edgecv.xray.graph import Graph
from edgecv.xray.named import Bundled, File, Named, parse
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import BadInput, ShapeError, nearest

LARGEST = 1024  # side in pixels up to which a size that works is looked for


def read(
    what: str | Path | Named,
    *,
    size: Shape | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    variant: str = "float32",
) -> Graph:
    """Read a model of the zoo by its name, a bundle's variant, or an ONNX file.

    size: (height, width) of the input instead of the model's own, or what a file leaves open; one number is a square,
    or the length of a signal; input_shapes: whole shapes of a file's inputs. Raises BadInput for a name that is none of
    the three, with the nearest, and when the input does not suit the network.
    """
    named = parse(what, variant)
    if isinstance(named, Bundled):
        return _bundle(named, size, input_shapes)
    if isinstance(named, File):
        return _sized(partial(_file, named.path, input_shapes), size)
    if input_shapes:
        raise BadInput(f"'{named.name}' is no file or bundle: --input-shape and --variant are for those")
    return zoo(named.name, size=size)


def zoo(name: str, *, size: Shape | None = None) -> Graph:
    """Read a model of the zoo without making its weights; raises BadInput for an unknown name or too small a size."""
    import torch

    from edgecv import models
    from edgecv.xray import from_torch

    if name not in models.names():
        raise BadInput(f"'{name}' is no model of the zoo, bundle or file{nearest(name, models.names(), most=5)}")
    spec = models.spec(name)
    with torch.device("meta"):
        network = models.create(name)

    def read_at(given: Shape | None) -> Graph:
        sides = given or spec.size
        sides = sides * len(spec.size) if len(sides) == 1 else sides
        if len(sides) != len(spec.size):
            wanted = "HxW" if len(spec.size) == 2 else "one length"
            raise BadInput(f"the input of {name} has a size of {wanted}, got {'x'.join(map(str, sides))}")
        return from_torch.read(network, (spec.channels, *sides), name=name)

    return _sized(read_at, size)


def _file(path: Path, input_shapes: Mapping[str, Sequence[int]] | None, size: Shape | None) -> Graph:
    from edgecv.xray import from_onnx

    return from_onnx.read(path, input_shapes=input_shapes, size=size)


def _bundle(named: Bundled, size: Shape | None, input_shapes: Mapping[str, Sequence[int]] | None) -> Graph:
    with Bundle(named.path) as opened:
        file = opened.variant_file(named.variant)
        graph = _file(file, input_shapes, size or opened.manifest.preprocess.size)
        return replace(graph, name=f"{opened.manifest.name} {named.variant}")


def _sized(read_at: Callable[[Shape | None], Graph], size: Shape | None) -> Graph:
    """Read at a size; where that is too small, the error says the smallest square that works."""
    try:
        return read_at(size)
    except ShapeError as exc:
        smallest = None if size is None else _smallest(read_at, min(size))
        if smallest is None:
            raise
        shown = f"that works is {smallest}" if len(size or ()) == 1 else f"square that works is {smallest}x{smallest}"
        raise ShapeError(f"{exc}; the smallest {shown}") from exc


def _smallest(read_at: Callable[[Shape | None], Graph], too_small: int) -> int | None:
    """Smallest side above one that fails, by doubling and halving; None when no size works."""
    works = 2 * too_small
    while not _fits(read_at, works):
        works *= 2
        if works > LARGEST:
            return None
    while works - too_small > 1:
        middle = (works + too_small) // 2
        if _fits(read_at, middle):
            works = middle
        else:
            too_small = middle
    return works


def _fits(read_at: Callable[[Shape | None], Graph], side: int) -> bool:
    try:
        read_at((side,))
    except BadInput:
        return False
    return True
