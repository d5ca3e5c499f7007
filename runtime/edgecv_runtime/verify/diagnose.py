"""Name what is wrong with a preprocessing or a reading of the outputs, by simulating every fault of the catalogue.

The bundle's golden pictures are files whose right pixels and right outputs are known. What a pipeline made of them is
compared with what each fault would have made of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import backends, golden, onnxgraph, tasks
from edgecv_runtime.backends import Backend, Options
from edgecv_runtime.backends.fixed import FixedBatch
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import BackendUnavailable, BadInput, BundleError, InvalidOutput, ParityError, nearest
from edgecv_runtime.evidence import Finding
from edgecv_runtime.geometry import View
from edgecv_runtime.golden import Picture
from edgecv_runtime.tasks.base import Task
from edgecv_runtime.tasks.reading import OUT_OF_STEP, Fault, Given, Reading
from edgecv_runtime.verify import faults, pixelfaults
from edgecv_runtime.verify.pictures import LOSSLESS
from edgecv_runtime.verify.pixelfaults import Scene

Array = NDArray[Any]
A = TypeVar("A")

# What sound pipelines may differ by: decoders of JPEG round differently, so do builds of one resize.
PIXELS_LOSSLESS, PIXELS_JPEG = 0.6, 2.0  # mean difference in levels of 255
ANSWERS_LOSSLESS, ANSWERS_JPEG = 0.003, 0.05  # of scores: root mean square of the difference, relative to theirs
LOW_PRECISION = 0.1  # a difference that half precision may make and no fault explains
# A simulation explains what was seen when what it leaves over is small against both the signal and the fault's effect.
LEFT_OF_SIGNAL, LEFT_OF_EFFECT = 0.25, 0.3


def diagnose(bundle: Bundle, pipeline: Callable[[Path], Given]) -> Finding | None:
    """Name the fault of a deployment's own code, or None when it does what the bundle's training did.

    pipeline: takes the path of an image file and gives what this code makes of it: the network's input, (H, W, C) or
    (C, H, W); or what it answers: of a classifier the scores (classes,), as logits or probabilities; of a segmenter the
    mask (H, W) of class positions, of the picture's size or the network's; of a detector the boxes, (n, 6): x1, y1, x2,
    y2 in pixels of the picture, score, class position; or the network's outputs by name. A leading 1 is taken off.
    Raises BadInput for arrays of another shape, ParityError when the bundle itself fails.
    """
    with tempfile.TemporaryDirectory(prefix="edgecv-") as folder:
        paths = write_pictures(bundle, Path(folder))
        seen = [_plain(pipeline(path)) for path in paths]
    return against(bundle, seen)


def write_pictures(bundle: Bundle, folder: Path) -> list[Path]:
    """Write the golden pictures as files, in their order; raises BundleError when the bundle has none."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for picture in _pictures(bundle):
        paths.append(folder / picture.name)
        paths[-1].write_bytes(picture.data)
    return paths


def against(bundle: Bundle, seen: Sequence[Given]) -> Finding | None:
    """The same for what was computed elsewhere, one for each golden picture in order."""
    pictures = _pictures(bundle)
    if len(seen) != len(pictures):
        names = ", ".join(picture.name for picture in pictures)
        raise BadInput(f"{len(seen)} arrays were given, the bundle has {len(pictures)} pictures: {names}")
    arrays = [np.asarray(part) for each in seen for part in (each.values() if isinstance(each, Mapping) else [each])]
    if not {each.dtype.kind for each in arrays} <= {*"buif"}:
        raise BadInput(f"the pictures gave arrays of {', '.join(f'{each.shape} {each.dtype}' for each in arrays)}")
    broken = sum(not np.isfinite(each).all() for each in arrays)
    if broken:
        return _finding(faults.NOT_FINITE, f"in {broken} of {len(arrays)} arrays")
    scenes = [_scene(bundle, picture) for picture in pictures]
    if all(_is_input(each, bundle.manifest.preprocess.channels) for each in seen):
        flat = [each[0] if each.ndim == 4 else each for each in arrays]
        if len({each.shape for each in flat}) != 1:
            raise BadInput(f"the pictures gave inputs of {', '.join(f'{each.shape}' for each in flat)}")
        return _of_pixels(np.stack(flat), pictures, scenes)
    return _of_answers(bundle, seen, pictures, scenes)


def _is_input(given: Given, channels: int) -> bool:
    """Whether it is an input (H, W, C) or (C, H, W), maybe in a batch of one, by its rank."""
    shape = () if isinstance(given, Mapping) else np.shape(given)
    return (len(shape) == 4 and shape[0] == 1) or (len(shape) == 3 and (shape[0] != 1 or channels == 1))


def against_file(bundle: Bundle, path: Path) -> Finding | None:
    """The same for a .npy of one array a picture, or a .npz.

    A .npz holds such arrays, named "inputs", "outputs" or both, or as the network's outputs; or one array for each
    picture, named as it, where these differ in shape.
    Raises BadInput when it is none.
    """
    found = [against(bundle, each) for each in _given(bundle, path)]
    return next((each for each in found if each), None)


def _given(bundle: Bundle, path: Path) -> Iterator[Sequence[Given]]:
    """What the file holds of each picture, once for inputs and once for answers."""
    table = _arrays(path)
    pictures = [picture.name for picture in _pictures(bundle)]
    outputs = [spec.name for spec in bundle.manifest.outputs]
    if set(table) == set(pictures):
        yield [table[name] for name in pictures]
        return
    wrong = [name for name, values in table.items() if values.ndim < 2]
    if wrong:
        raise BadInput(f"{path}: '{wrong[0]}' is one row for each picture, got {table[wrong[0]].shape}")
    if set(table) == set(outputs):
        yield [dict(zip(table, rows, strict=True)) for rows in zip(*table.values(), strict=False)]
        return
    known = ("inputs", "outputs")
    for name in table:
        if name not in known:
            near = nearest(name, (*known, *outputs, *pictures))
            raise BadInput(f"{path}: no array '{name}' is asked for{near}; inputs, outputs, or one for each picture")
    yield from (list(table[name]) for name in sorted(table))


def _arrays(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise BadInput(f"{path}: no such file; numpy.save or numpy.savez writes it")
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            table = {"outputs": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded}
    except golden.BROKEN as exc:
        raise BadInput(f"{path}: no .npy or .npz file of numbers; numpy.save or numpy.savez writes one") from exc
    if not table:
        raise BadInput(f"{path}: holds no arrays; 'inputs' or 'outputs' are asked for")
    strange = [name for name, values in table.items() if not isinstance(values, np.ndarray)]
    if strange:
        raise BadInput(f"{path}: '{strange[0]}' is no array")
    return table


def _plain(given: Any) -> Given:
    return given if isinstance(given, Mapping) else np.asarray(given)


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
        return _finding(pixelfaults.named(name), ", ".join(["the values are right", *notes]))
    simulated = [each for each in _simulated(scenes) if each.pixels.shape == right.shape]
    best = _best(values, right, simulated) or _scaled(values, right, simulated)
    best = best or _best(values, right, [_exchanged(each) for each in simulated])
    if best is None:
        return _finding(faults.UNKNOWN_INPUT, f"the pixels differ by {np.abs(values - right).mean():.1f} of 255")
    return _finding(best[0], ", ".join([best[1], *notes]))


@dataclass(frozen=True)
class Simulated:
    """What a fault makes of the pictures: pixels (N, H, W, C) float32, and how the network sees each."""

    fault: Fault
    detail: str
    pixels: Array
    views: Sequence[View] = ()


def _simulated(scenes: Sequence[Scene]) -> list[Simulated]:
    found = []
    for fault, detail, simulate in pixelfaults.simulations(scenes[0].preprocess):
        pixels, views = zip(*map(simulate, scenes), strict=True)
        found.append(Simulated(fault, detail, np.stack(pixels).astype(np.float32), list(views)))
    return found


def _exchanged(each: Simulated) -> Simulated:
    """The same with red and blue exchanged, too: the fault that most often comes with another one."""
    return Simulated(each.fault, f"{each.detail}; and red and blue are exchanged", each.pixels[..., ::-1], each.views)


def same_pixels(values: Array, right: Array, pictures: Sequence[Picture]) -> bool:
    differences = np.abs(values - right).mean(axis=(1, 2, 3))
    return all(
        difference <= (PIXELS_LOSSLESS if picture.name.endswith(LOSSLESS) else PIXELS_JPEG)
        for difference, picture in zip(differences, pictures, strict=True)
    )


def _scaled(values: Array, right: Array, simulated: Sequence[Simulated]) -> tuple[Fault, str] | None:
    """Pixels that were scaled and shifted channel by channel, alone or after another fault."""
    alone = _fitted(values, right)
    wrong_scale = Simulated(pixelfaults.named("wrong mean or scale"), _as_normalization(alone), alone[0])
    found = _best(values, right, [wrong_scale])
    if found:
        return found
    fits = [(each, _fitted(values, each.pixels)) for each in simulated]
    return _best(
        values,
        right,
        [Simulated(each.fault, f"{each.detail}; and {_as_normalization(fit)}", fit[0]) for each, fit in fits],
    )


def _best(observed: Array, right: Array, simulated: Sequence[Simulated]) -> tuple[Fault, str] | None:
    """The simulation that reproduces the pixels best, when it explains them."""
    spread = max(float(observed.std()), 1e-6)
    effect = max(float(np.sqrt(np.mean((observed - right) ** 2))), 1e-6)
    found, least = None, min(LEFT_OF_SIGNAL * spread, LEFT_OF_EFFECT * effect)
    for each in simulated:
        left = float(np.sqrt(np.mean((observed - each.pixels) ** 2)))
        if left < least * (1 - 1e-6):
            found, least = (each.fault, each.detail), left
    return found


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


# Answers


def _of_answers(
    bundle: Bundle, given: Sequence[Given], pictures: Sequence[Picture], scenes: Sequence[Scene]
) -> Finding | None:
    manifest = bundle.manifest
    task: Task[Any] = tasks.create(manifest.head, manifest.outputs)
    outputs = {spec.name: np.stack([picture.outputs[spec.name] for picture in pictures]) for spec in manifest.outputs}
    views = [scene.view for scene in scenes]
    reading = task.reading(given, outputs, views)
    if reading.shape is not None:
        return _finding(*reading.shape)
    right = reading.of(outputs, views)
    errors = reading.away(right, reading.seen)
    if errors.max() <= ANSWERS_LOSSLESS:
        return None
    with _Network(bundle) as network:
        own = reading.of(network(np.stack([picture.pixels for picture in pictures])), views)
        if reading.away(own, right).max() > ANSWERS_LOSSLESS:
            raise ParityError(
                f"{bundle.path}: its own file gives other outputs than its reference: run 'edgecv verify' first"
            )
        best = _Best(reading, right)
        best.consider(reading.misread(outputs, views))
        best.consider(_out_of_step(reading, outputs, views))
        simulated = _simulated(scenes)
        best.consider(_answered(network, reading, simulated, views))
        if best.found is None:
            best.consider(reading.fitted(right))
        if best.found is None:
            best.consider(_answered(network, reading, map(_exchanged, simulated), views))
    found = best.finding()
    if found is not None:
        return found
    if all(error <= _allowed(picture) for error, picture in zip(errors, pictures, strict=True)):
        return None
    worst = float(errors.max())
    fault = faults.LOWER_PRECISION if worst <= LOW_PRECISION else faults.UNKNOWN_INPUT
    return _finding(fault, f"the answers differ by {worst:.1%}, and no fault of the catalogue explains it")


class _Best(Generic[A]):
    """The answers that reproduce best what was seen, where they explain it."""

    def __init__(self, reading: Reading[A], right: A) -> None:
        self.found: tuple[Fault, str] | None = None
        self._others: dict[str, str] = {}  # faults that explain it just as well
        self._reading = reading
        self._least = min(LEFT_OF_SIGNAL * reading.signal, LEFT_OF_EFFECT * self._left(right))

    def consider(self, answers: Iterable[tuple[Fault, str, A]]) -> None:
        """Take the best of these, too; what comes first wins where two are equally good."""
        for fault, detail, each in answers:
            left = self._left(each)
            if left < self._least * (1 - 1e-6):
                self.found, self._least, self._others = (fault, detail), left, {}
            elif self.found is not None and left <= self._least * (1 + 1e-6) and fault != self.found[0]:
                self._others.setdefault(fault.name, detail)

    def finding(self) -> Finding | None:
        """What explains it, with what explains it just as well; None where nothing does."""
        if self.found is None:
            return None
        fault, detail = self.found
        others = "".join(f"; or {name}: {told}" for name, told in self._others.items())
        return _finding(fault, detail + others)

    def _left(self, answers: A) -> float:
        return float(np.sqrt(np.mean(np.square(self._reading.away(answers, self._reading.seen)))))


def _out_of_step(
    reading: Reading[A], outputs: Mapping[str, Array], views: Sequence[View]
) -> Iterator[tuple[Fault, str, A]]:
    """Right outputs, each taken for another picture's."""
    count = len(views)
    orders = {
        "each answer is that of the picture before": np.roll(np.arange(count), 1),
        "every answer is that of the first picture": np.zeros(count, int),
        "every answer is that of the last picture": np.full(count, count - 1),
    }
    for detail, order in orders.items():
        yield OUT_OF_STEP, detail, reading.of({name: each[order] for name, each in outputs.items()}, views)


def _answered(
    network: _Network, reading: Reading[A], simulated: Iterable[Simulated], right: Sequence[View]
) -> Iterator[tuple[Fault, str, A]]:
    """What the network answers to wrong pixels, brought back to the picture in their own way or in the right one."""
    for each in simulated:
        try:
            outputs = network(each.pixels)
            yield each.fault, each.detail, reading.of(outputs, each.views)
            if each.views != right and [view.source for view in each.views] == [view.source for view in right]:
                yield each.fault, each.detail, reading.of(outputs, right)
        except InvalidOutput:  # of pixels that no camera gives
            continue


def _allowed(picture: Picture) -> float:
    return ANSWERS_LOSSLESS if picture.name.endswith(LOSSLESS) else ANSWERS_JPEG


class _Network:
    """The bundle's float32 graph with a float32 input, on any backend: it takes pixels that no uint8 can hold, too."""

    def __init__(self, bundle: Bundle) -> None:
        names = sorted(backends.available(), key=lambda name: name != "onnxruntime")
        if not names:
            raise BackendUnavailable("no backend is installed", extra="onnxruntime")
        self._input = bundle.manifest.input.name
        self._folder = tempfile.TemporaryDirectory(prefix="edgecv-")
        file = Path(self._folder.name) / "float-input.onnx"
        file.write_bytes(onnxgraph.with_float_input(bundle.variant_file("float32").read_bytes()))
        backend: Backend = backends.get(names[0])(file, Options())
        rows = bundle.manifest.input.shape[0]
        self._backend = FixedBatch(backend, rows, str(file)) if isinstance(rows, int) else backend

    def __call__(self, pixels: Array) -> dict[str, Array]:
        """Pixels (N, H, W, C) of any values -> outputs."""
        return dict(self._backend.run({self._input: np.ascontiguousarray(pixels, np.float32)}))

    def __enter__(self) -> _Network:
        return self

    def __exit__(self, *_: object) -> None:
        self._backend.close()
        self._folder.cleanup()
