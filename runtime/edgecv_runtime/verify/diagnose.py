"""Name what is wrong with a preprocessing or a reading of the outputs, by simulating every fault of the catalogue.

The bundle's golden pictures are files whose right pixels and right scores are known. What a pipeline made of them is
compared with what each fault would have made of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import backends, golden, onnxgraph
from edgecv_runtime.backends import Options
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import BackendUnavailable, BadInput, BundleError, ParityError, nearest
from edgecv_runtime.evidence import Finding
from edgecv_runtime.golden import Picture
from edgecv_runtime.tasks.classification import classifying
from edgecv_runtime.tasks.scores import Meaning
from edgecv_runtime.verify import faults
from edgecv_runtime.verify.faults import Fault, Scene
from edgecv_runtime.verify.pictures import LOSSLESS

Array = NDArray[Any]

# What sound pipelines may differ by: decoders of JPEG round differently, so do builds of one resize.
PIXELS_LOSSLESS, PIXELS_JPEG = 0.6, 2.0  # mean difference in levels of 255
SCORES_LOSSLESS, SCORES_JPEG = 0.003, 0.05  # root mean square of the difference, relative to the scores'
MORE_THAN_SHARES = 1.5  # of a network that gives percent, scores with one beyond this are percent, too
LOW_PRECISION = 0.1  # a difference that half precision may make and no fault explains
# A simulation explains what was seen when what it leaves over is small against both the signal and the fault's effect.
LEFT_OF_SIGNAL, LEFT_OF_EFFECT = 0.25, 0.3


def diagnose(bundle: Bundle, pipeline: Callable[[Path], Array]) -> Finding | None:
    """Name the fault of a deployment's own code, or None when it does what the bundle's training did.

    pipeline: takes the path of an image file and gives what this code makes of it: the network's input, (H, W, C) or
    (C, H, W), or the scores, (classes,), as logits or probabilities; a leading dimension of 1 is taken off.
    Raises BadInput for arrays of another shape, ParityError when the bundle itself fails.
    """
    with tempfile.TemporaryDirectory(prefix="edgecv-") as folder:
        paths = write_pictures(bundle, Path(folder))
        seen = [np.asarray(pipeline(path)) for path in paths]
    return against(bundle, seen)


def write_pictures(bundle: Bundle, folder: Path) -> list[Path]:
    """Write the golden pictures as files, in their order; raises BundleError when the bundle has none."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for picture in _pictures(bundle):
        paths.append(folder / picture.name)
        paths[-1].write_bytes(picture.data)
    return paths


def against(bundle: Bundle, seen: Sequence[Array]) -> Finding | None:
    """The same for arrays that were computed elsewhere, one for each golden picture in order."""
    pictures = _pictures(bundle)
    if len(seen) != len(pictures):
        names = ", ".join(picture.name for picture in pictures)
        raise BadInput(f"{len(seen)} arrays were given, the bundle has {len(pictures)} pictures: {names}")
    flat = [each[0] if each.ndim in (2, 4) and len(each) == 1 else each for each in map(np.asarray, seen)]
    if len({each.shape for each in flat}) != 1 or not {each.dtype.kind for each in flat} <= {*"uif"}:
        raise BadInput(f"the pictures gave arrays of {', '.join(f'{each.shape} {each.dtype}' for each in flat)}")
    broken = sum(not np.isfinite(each).all() for each in flat)
    if broken:
        return _finding(faults.NOT_FINITE, f"in {broken} of {len(flat)} arrays")
    observed = np.stack(flat)
    scenes = [_scene(bundle, picture) for picture in pictures]
    if observed.ndim == 4:
        return _of_pixels(observed, pictures, scenes)
    if observed.ndim == 2:
        return _of_scores(bundle, observed, pictures, scenes)
    raise BadInput(f"an input is (H, W, C) or (C, H, W), scores are (classes,), got {flat[0].shape}")


def against_file(bundle: Bundle, path: Path) -> Finding | None:
    """The same for a .npy of one array a picture, or a .npz of such arrays named "inputs", "outputs" or both.

    Raises BadInput when it is none.
    """
    found = [against(bundle, list(arrays)) for _, arrays in sorted(_arrays(path).items())]
    return next((each for each in found if each), None)


def _arrays(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise BadInput(f"{path}: no such file; numpy.save or numpy.savez writes it")
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            table = {"outputs": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded}
    except golden.BROKEN as exc:
        raise BadInput(f"{path}: no .npy or .npz file of numbers; numpy.save or numpy.savez writes one") from exc
    for name, values in table.items():
        if name not in ("inputs", "outputs"):
            raise BadInput(f"{path}: no array '{name}' is asked for{nearest(name, ('inputs', 'outputs'))}")
        if not isinstance(values, np.ndarray) or values.ndim < 2:
            raise BadInput(f"{path}: '{name}' is one row for each picture, got {getattr(values, 'shape', 'no array')}")
    if not table:
        raise BadInput(f"{path}: holds no arrays; 'inputs' or 'outputs' are asked for")
    return table


def _pictures(bundle: Bundle) -> tuple[Picture, ...]:
    pictures = bundle.golden().pictures
    if not pictures:
        raise BundleError(f"{bundle.path}: has no golden pictures, it is of an older version; export it again")
    return pictures


def _scene(bundle: Bundle, picture: Picture) -> Scene:
    return Scene(picture.data, bundle.manifest.preprocess, bundle.manifest.normalization)


def _finding(fault: Fault, detail: str) -> Finding:
    return Finding(fault.name, detail, fault.cure)


# The network's input


def _of_pixels(observed: Array, pictures: Sequence[Picture], scenes: Sequence[Scene]) -> Finding | None:
    right = np.stack([picture.pixels for picture in pictures]).astype(np.float32)
    height, width, channels = right.shape[1:]
    notes = []
    if observed.shape[1:] == (channels, height, width) != right.shape[1:]:
        notes.append(f"the input is {observed.shape[1:]}, planes first")
        observed = observed.transpose(0, 2, 3, 1)
    if observed.shape[1:] != right.shape[1:]:
        raise BadInput(f"the network's input is {right.shape[1:]}, the pipeline gives {observed.shape[1:]}")
    if observed.dtype != np.uint8:
        notes.append(f"the input is {observed.dtype}")
    values = observed.astype(np.float32)
    if same_pixels(values, right, pictures):
        if not notes:
            return None
        name = "NCHW for NHWC" if "planes" in notes[0] else "float where uint8"
        return _finding(_named(name), ", ".join(["the values are right", *notes]))
    simulated = [
        (fault, detail, np.stack([simulate(scene) for scene in scenes]).astype(np.float32))
        for fault, detail, simulate in faults.simulations(scenes[0].preprocess)
    ]
    simulated = [each for each in simulated if each[2].shape == right.shape]
    best = _best(values, right, simulated) or _scaled(values, right, simulated)
    best = best or _best(values, right, [_exchanged(each) for each in simulated])
    if best is None:
        return _finding(faults.UNKNOWN_INPUT, f"the pixels differ by {np.abs(values - right).mean():.1f} of 255")
    return _finding(best[0], ", ".join([best[1], *notes]))


def _exchanged(simulated: tuple[Fault, str, Array]) -> tuple[Fault, str, Array]:
    """The same with red and blue exchanged, too: the fault that most often comes with another one."""
    fault, detail, pixels = simulated
    return fault, f"{detail}; and red and blue are exchanged", pixels[..., ::-1]


def same_pixels(values: Array, right: Array, pictures: Sequence[Picture]) -> bool:
    differences = np.abs(values - right).mean(axis=(1, 2, 3))
    return all(
        difference <= (PIXELS_LOSSLESS if picture.name.endswith(LOSSLESS) else PIXELS_JPEG)
        for difference, picture in zip(differences, pictures, strict=True)
    )


def _scaled(values: Array, right: Array, simulated: list[tuple[Fault, str, Array]]) -> tuple[Fault, str] | None:
    """Pixels that were scaled and shifted channel by channel, alone or after another fault."""
    wrong_scale = _named("wrong mean or scale")
    alone = _fitted(values, right)
    found = _best(values, right, [(wrong_scale, _as_normalization(alone), alone[0])])
    if found:
        return found
    pairs = []
    for fault, detail, pixels in simulated:
        fit = _fitted(values, pixels)
        pairs.append((fault, f"{detail}; and {_as_normalization(fit)}", fit[0]))
    return _best(values, right, pairs)


Fit = tuple[Array, Array, Array]


def _fitted(values: Array, pixels: Array) -> Fit:
    """The best scale and offset of each channel (least squares): the scaled pixels, scales (C,), offsets (C,)."""
    x, y = (each.reshape(-1, each.shape[-1]).astype(np.float64) for each in (pixels, values))
    x_mean, y_mean = x.mean(0), y.mean(0)
    scale = ((x - x_mean) * (y - y_mean)).mean(0) / np.maximum(((x - x_mean) ** 2).mean(0), 1e-12)
    offset = y_mean - scale * x_mean
    return (pixels * scale + offset).astype(np.float32), scale, offset


def _as_normalization(fit: Fit) -> str:
    _, scale, offset = fit
    scale = np.where(scale == 0, 1e-12, scale)
    std = 1 / (255 * scale)
    mean = -offset * std
    rounded = (", ".join(f"{number:.3g}" for number in each) for each in (mean, std))
    return "the values are (pixel / 255 - ({})) / ({})".format(*rounded)


# Scores


def _of_scores(bundle: Bundle, seen: Array, pictures: Sequence[Picture], scenes: Sequence[Scene]) -> Finding | None:
    outputs = np.stack([picture.logits for picture in pictures])
    meaning = classifying(bundle.manifest.head, bundle.manifest.outputs).meaning(outputs)
    if meaning.scores == "percent" and seen.max() > MORE_THAN_SHARES:
        seen = seen / 100
    if meaning.thresholds:
        return _of_single_scores(meaning, outputs, seen)
    logits = _as_logits(outputs, meaning)
    classes = logits.shape[1]
    has_background = seen.shape[1] == classes + 1
    if seen.shape[1] != classes and not has_background:
        raise BadInput(f"the network has {classes} classes, the pipeline gives {seen.shape[1]} scores")
    scores = seen.astype(np.float32)
    is_share = bool((scores >= 0).all() and np.abs(scores.sum(axis=1) - 1).max() < 0.01)
    if has_background:
        rest = scores[:, 1:] / scores[:, 1:].sum(axis=1, keepdims=True) if is_share else scores[:, 1:]
        close = _error(_plain(rest, is_share), _plain(logits, False, is_share)).max() < LOW_PRECISION
        detail = f"{classes + 1} scores for {classes} classes" + (
            ": a background class stands before them" if close else ""
        )
        return _finding(_named("shifted labels"), detail)
    observed, right = _plain(scores, is_share), _plain(logits, False, is_share)
    errors = _error(observed, right)
    if errors.max() <= SCORES_LOSSLESS:
        return None
    with _Network(bundle, meaning) as network:
        own = network(np.stack([picture.pixels for picture in pictures]))
        if _error(_plain(own, False), _plain(logits, False)).max() > SCORES_LOSSLESS:
            raise ParityError(
                f"{bundle.path}: its own file gives other scores than its reference: run 'edgecv verify' first"
            )
        simulated = [
            (fault, detail, np.stack([simulate(scene) for scene in scenes]))
            for fault, detail, simulate in faults.simulations(scenes[0].preprocess)
        ]

        def explaining(rows: Iterable[tuple[Fault, str, Array]]) -> tuple[Fault, str] | None:
            answers = [(fault, detail, network(pixels)) for fault, detail, pixels in rows]
            answers += [(fault, detail, alter(logits)) for fault, detail, alter in faults.alterations(classes)]
            return _best(
                observed, right, [(fault, said, _plain(each, False, is_share)) for fault, said, each in answers]
            )

        best = explaining(simulated) or _reordered(observed, right)
        if best is None and errors.max() > LOW_PRECISION:
            best = explaining(map(_exchanged, simulated))
    if best is not None:
        return _finding(*best)
    if all(error <= _allowed(picture) for error, picture in zip(errors, pictures, strict=True)):
        return None
    worst = float(errors.max())
    fault = faults.LOWER_PRECISION if worst <= LOW_PRECISION else faults.UNKNOWN_INPUT
    return _finding(
        fault, f"the scores differ by {worst:.1%} (root mean square), and no fault of the catalogue explains it"
    )


def _as_logits(outputs: Array, meaning: Meaning) -> Array:
    """Outputs of classes that exclude each other as logits: the logarithms of their scores where they are none."""
    if meaning.scores == "logits" and not meaning.opposites:
        return outputs
    logarithms: Array = np.log(np.maximum(meaning.of(outputs), 1e-30))
    return logarithms


def _of_single_scores(meaning: Meaning, outputs: Array, seen: Array) -> Finding | None:
    """Scores of labels that stand each for itself, before or behind their sigmoid: the catalogue simulates none."""
    if seen.shape != outputs.shape:
        raise BadInput(f"the network gives {outputs.shape[1]} scores, the pipeline {seen.shape[1]}")
    off = min(float(np.abs(seen - right).max()) for right in (outputs, meaning.of(outputs)))
    if off <= SCORES_JPEG:
        return None
    return _finding(faults.UNKNOWN_INPUT, f"the scores differ by up to {off:.3g}")


def _plain(scores: Array, is_share: bool, floored: bool = False) -> Array:
    """Logits, or the logarithm of shares, less their mean: softmax leaves just this of them.

    Shares below 1e-5 are taken as 1e-5 (`floored` does it to logits): programs print few digits.
    """
    if not is_share:
        top = scores.max(axis=1, keepdims=True)
        scores = scores - top - np.log(np.exp(scores - top).sum(axis=1, keepdims=True))
    else:
        scores = np.log(np.maximum(scores, 1e-30))
    if is_share or floored:
        scores = np.maximum(scores, np.log(1e-5))
    plain: Array = scores - scores.mean(axis=1, keepdims=True)
    return plain


def _error(observed: Array, right: Array) -> Array:
    """Root mean square of each row's difference, relative to that of all right rows."""
    size = max(float(np.sqrt(np.mean(right**2))), 1e-12)
    error: Array = np.sqrt(np.mean((observed - right) ** 2, axis=1)) / size
    return error


def _allowed(picture: Picture) -> float:
    return SCORES_LOSSLESS if picture.name.endswith(LOSSLESS) else SCORES_JPEG


def _reordered(observed: Array, right: Array) -> tuple[Fault, str] | None:
    """Scores that are the right ones in another order: each class is found again by its scores on all pictures."""
    order = np.abs(observed.T[:, np.newaxis] - right.T[np.newaxis]).sum(axis=2).argmin(axis=1)  # (classes,)
    if len(set(order.tolist())) < len(order):
        return None
    moved = int((order != np.arange(len(order))).sum())
    fault = _named("labels in another order")
    return _best(observed, right, [(fault, f"{moved} of {len(order)} classes stand in other places", right[:, order])])


class _Network:
    """The bundle's float32 graph with a float32 input, on any backend: it takes pixels that no uint8 can hold, too."""

    def __init__(self, bundle: Bundle, meaning: Meaning) -> None:
        names = sorted(backends.available(), key=lambda name: name != "onnxruntime")
        if not names:
            raise BackendUnavailable("no backend is installed", extra="onnxruntime")
        self._input = bundle.manifest.input.name
        self._meaning = meaning
        self._folder = tempfile.TemporaryDirectory(prefix="edgecv-")
        file = Path(self._folder.name) / "float-input.onnx"
        file.write_bytes(onnxgraph.with_float_input(bundle.variant_file("float32").read_bytes()))
        self._backend = backends.get(names[0])(file, Options())

    def __call__(self, pixels: Array) -> Array:
        """Pixels (N, H, W, C) of any values -> logits (N, classes)."""
        feed = np.ascontiguousarray(pixels, np.float32)
        return _as_logits(next(iter(self._backend.run({self._input: feed}).values())), self._meaning)

    def __enter__(self) -> _Network:
        return self

    def __exit__(self, *_: object) -> None:
        self._backend.close()
        self._folder.cleanup()


def _best(observed: Array, right: Array, simulated: list[tuple[Fault, str, Array]]) -> tuple[Fault, str] | None:
    """The simulation that reproduces what was observed best, when it explains it."""
    spread = max(float(observed.std()), 1e-6)
    effect = max(float(np.sqrt(np.mean((observed - right) ** 2))), 1e-6)
    found, least = None, min(LEFT_OF_SIGNAL * spread, LEFT_OF_EFFECT * effect)
    for fault, detail, values in simulated:
        left = float(np.sqrt(np.mean((observed - values) ** 2)))
        if left < least * (1 - 1e-6):
            found, least = (fault, detail), left
    return found


def _named(name: str) -> Fault:
    return next(fault for fault in faults.CATALOGUE if fault.name == name)
