"""What `edgecv inspect` names, made ready for its pictures: something that runs, and a photograph to run it on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecv.xray.graph import Graph
from edgecv.xray.named import Bundled, Named, Zoo, parse
from edgecv.xray.pictures.subject import Photo, Subject
from edgecv_runtime import images
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import BadInput
from edgecv_runtime.preprocess import Image, Normalization, Preprocess

NO_PICTURE = "the input is not one picture of 1 or 3 channels"
BUNDLED = "datasets/images/china.jpg"  # a photograph that scikit-learn brings along


class Source(NamedTuple):
    """A decoded image, (H, W, 3) uint8 BGR, and its name."""

    name: str
    image: Image


@contextmanager
def opened(
    what: str | Path | Named,
    graph: Graph,
    *,
    variant: str = "float32",
    weights: str | None = None,
    image: Path | None = None,
) -> Iterator[Subject]:
    """Make the subject of the pictures from a model of the zoo, a bundle or an ONNX file, and its graph.

    weights: of a model of the zoo, as `edgecv.models.create` takes them; None makes fresh ones, the same every time.
    image: the photograph; None takes scikit-learn's, where that is installed. Raises BadInput for weights of a file
    and ImageError for an image that cannot be decoded.
    """
    photo = Source(image.name, images.read(image)) if image is not None else bundled_photo()
    named = parse(what, variant)
    if isinstance(named, Zoo):
        yield _network(named.name, graph, weights, photo)
        return
    if weights is not None:
        raise BadInput(f"--weights belongs to models of the zoo; {named.path} has its own")
    if isinstance(named, Bundled):
        with Bundle(named.path) as bundle:
            fed = _for_bundle(bundle.manifest.preprocess, photo) if photo else None
            yield Subject(graph, file=bundle.variant_file(named.variant), photo=fed)
        return
    fed = _for_file(graph, photo) if photo else None
    yield Subject(graph, file=named.path, photo=fed, no_photo=NO_PICTURE if photo and not fed else "")


def bundled_photo() -> Source | None:
    """The photograph that comes with scikit-learn, or None where that is not installed."""
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        return None
    path = Path(package.submodule_search_locations[0]) / BUNDLED
    return Source("scikit-learn's china.jpg", images.read(path)) if path.is_file() else None


def _network(name: str, graph: Graph, weights: str | None, photo: Source | None) -> Subject:
    from edgecv import models

    spec = models.spec(name)
    channels, *size = graph.tensors[graph.inputs[0]].shape[1:]
    network = models.create(name, weights=weights, in_channels=channels, seed=0).eval()
    fed = None
    if photo is not None and len(size) == 2 and channels in (1, 3):
        source = next((each for each in spec.weights if each.name == weights), None)
        cut = msgspec.structs.replace(
            source.preprocess if source else Preprocess((1, 1)), size=tuple(size), resize=None
        )
        shown = msgspec.structs.replace(cut, color="RGB" if channels == 3 else "GRAY")(photo.image)
        normalization = source.normalization if source else spec.normalization
        fed = Photo(photo.name, _rgb(shown, "RGB"), _normalized(shown, normalization)[None])
    no_photo = NO_PICTURE if photo and not fed else ""
    return Subject(graph, network=network, weights=weights or "", photo=fed, no_photo=no_photo)


def _for_bundle(preprocess: Preprocess, photo: Source) -> Photo:
    shown = preprocess(photo.image)
    return Photo(photo.name, _rgb(shown, preprocess.color), shown[None])


def _for_file(graph: Graph, photo: Source) -> Photo | None:
    """A photograph as a file may want it: uint8 as it is, else scaled to 0..1, in the layout of its input.

    None where the input is no picture of 1 or 3 channels.
    """
    tensor = graph.tensors[graph.inputs[0]]
    if len(tensor.shape) != 4 or tensor.dtype not in ("uint8", "float32", "float16") or len(graph.inputs) > 1:
        return None
    first = tensor.shape[1] in (1, 3)
    channels = tensor.shape[1] if first else tensor.shape[3]
    if channels not in (1, 3):
        return None
    size = tensor.shape[2:] if first else tensor.shape[1:3]
    shown = Preprocess((size[0], size[1]), color="RGB" if channels == 3 else "GRAY")(photo.image)
    feed = shown if tensor.dtype == "uint8" else (shown / 255).astype(tensor.dtype)
    feed = feed.transpose(2, 0, 1) if first else feed
    how = "" if tensor.dtype == "uint8" else ", scaled to 0..1 because the file does not say what it wants"
    return Photo(photo.name + how, _rgb(shown, "RGB"), np.ascontiguousarray(feed[None]))


def _normalized(shown: Image, normalization: Normalization) -> NDArray[np.float32]:
    """(H, W, C) uint8 -> (C, H, W) float32, of as many channels as the picture has."""
    mean, std = (tuple(np.resize(each, shown.shape[2]).tolist()) for each in (normalization.mean, normalization.std))
    return np.ascontiguousarray(Normalization(mean, std).of(shown).transpose(2, 0, 1))


def _rgb(shown: Image, color: str) -> Image:
    """A preprocessed picture for the page: (H, W, 3) RGB."""
    return np.repeat(shown, 3, 2) if shown.shape[2] == 1 else shown[:, :, ::-1] if color == "BGR" else shown
