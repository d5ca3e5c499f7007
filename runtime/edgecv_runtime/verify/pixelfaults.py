"""The catalogue of faults of a preprocessing: what each is called, how to simulate it, what to do about it.

A fault is named by simulation: its rows say what the network would be given if the fault were there, and how it would
then see the frame; the row that reproduces what was seen is the diagnosis. They are the same for every task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import geometry, images
from edgecv_runtime.geometry import View, Window
from edgecv_runtime.preprocess import Image, Interpolation, Mode, Normalization, Preprocess, import_cv2
from edgecv_runtime.tasks.reading import Fault
from edgecv_runtime.verify import resizing
from edgecv_runtime.verify.pictures import decode_unturned

Pixels = NDArray[Any]
Shown = tuple[Pixels, View]  # what the network is given, it may hold values that no uint8 can; how it sees the frame


class Scene:
    """An image file, and the preprocessing that it should go through."""

    def __init__(self, data: bytes, preprocess: Preprocess, normalization: Normalization) -> None:
        self.data = data
        self.preprocess = preprocess
        self.normalization = normalization

    @cached_property
    def image(self) -> Image:
        """The decoded file, (H, W, 3) uint8 BGR."""
        return images.decode(self.data)

    @cached_property
    def pixels(self) -> Image:
        """What the network should be given, (height, width, C) uint8."""
        return self.preprocess(self.image)

    @cached_property
    def view(self) -> View:
        """How the network should see the picture."""
        return self.preprocess.view(self.image.shape[:2])


Simulation = Callable[[Scene], Shown]
Rows = Callable[[Preprocess], dict[str, Simulation]]


class PixelFault(Fault, frozen=True):
    """A row of the catalogue; rows: its simulations for a preprocessing, by detail."""

    rows: Rows


def changed(**fields: Any) -> Simulation:
    """The picture through another preprocessing record."""
    return lambda scene: _through(msgspec.structs.replace(scene.preprocess, **fields), scene.image)


def on_image(change: Callable[[Any], Any]) -> Simulation:
    """The decoded image changed before it is preprocessed."""
    return lambda scene: _through(scene.preprocess, np.ascontiguousarray(change(scene.image)))


def on_pixels(change: Callable[[Pixels], Pixels]) -> Simulation:
    """The network's input changed."""
    return lambda scene: (change(scene.pixels.astype(np.float32)), scene.view)


def _through(preprocess: Preprocess, image: Image) -> Shown:
    return preprocess(image), preprocess.view(image.shape[:2])


def _other(field: str, kind: Any) -> Callable[[Preprocess], dict[str, Simulation]]:
    def rows(own: Preprocess) -> dict[str, Simulation]:
        mine = getattr(own, field)
        return {
            f"'{each}' where '{mine}' is right": changed(**{field: each}) for each in get_args(kind) if each != mine
        }

    return rows


def _modes(own: Preprocess) -> dict[str, Simulation]:
    """Another way to the network's size; `resize` belongs to one of them only."""
    return {
        f"'{mode}' where '{own.mode}' is right": changed(mode=mode, resize=None)
        for mode in get_args(Mode)
        if mode != own.mode
    }


def _sides(own: Preprocess) -> dict[str, Simulation]:
    if own.mode != "crop":
        return {}
    least, mine = min(own.size), own.shorter_side
    sides = [side for side in range(least, round(1.5 * least) + 2) if side != mine]
    return {f"the shorter side to {side} pixels where {mine} is right": changed(resize=side) for side in sides}


def _unturned(scene: Scene) -> Shown:
    return _through(scene.preprocess, decode_unturned(scene.data))


def _fills(own: Preprocess) -> dict[str, Simulation]:
    if own.mode != "letterbox":
        return {}
    return {
        f"{fill} where {own.fill} is right": changed(fill=fill) for fill in (0, 114, 127, 128, 255) if fill != own.fill
    }


def _corner(scene: Scene) -> Shown:
    """The crop taken from the upper left corner: as if the rest of the picture, mirrored around it, were not there."""
    own = scene.preprocess
    height, width = scene.image.shape[:2]
    scale = min(height / own.size[0], width / own.size[1]) * min(own.size) / own.shorter_side
    rows, columns = (min(round(side * scale), most) for side, most in zip(own.size, (height, width), strict=True))
    seen, whole = Window(0, 0, rows, columns), geometry.whole(own.size).place
    view = View((height, width), own.size, seen, whole)
    return msgspec.structs.replace(own, mode="stretch", resize=None)(scene.image[:rows, :columns]), view


def _at_size(change: resizing.Change) -> Simulation:
    """A change that gives a picture of the network's size; only its colours are left to do."""

    def simulate(scene: Scene) -> Shown:
        return msgspec.structs.replace(scene.preprocess, mode="stretch", resize=None)(change(scene.image)), scene.view

    return simulate


def _others_filters(own: Preprocess) -> dict[str, Simulation]:
    """Filters of Pillow, and those of OpenCV on the whole picture."""
    if own.mode == "letterbox":
        return {}
    ways = resizing.stretched(own) if own.mode == "stretch" else resizing.cropped_late(own, same=False)
    return {detail: _at_size(change) for detail, change in ways.items()}


def _late_crops(own: Preprocess) -> dict[str, Simulation]:
    ways = resizing.cropped_late(own, same=True) if own.mode == "crop" else {}
    return {detail: _at_size(change) for detail, change in ways.items()}


def _planar(pixels: Pixels) -> Pixels:
    """(H, W, C) stored as (C, H, W), and read as (H, W, C)."""
    return pixels.transpose(2, 0, 1).reshape(pixels.shape)


def _swap_chroma(image: Image) -> Any:
    cv2 = import_cv2()
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2YCrCb)[:, :, [0, 2, 1]], cv2.COLOR_YCrCb2BGR)


def _grey(image: Image) -> Any:
    cv2 = import_cv2()
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def _curve(function: Callable[[Any], Any]) -> Simulation:
    """A tone curve on values 0..1."""
    table = np.clip(np.round(255 * function(np.arange(256) / 255)), 0, 255).astype(np.uint8)
    return on_image(lambda image: table[image])


def _figures(of: Normalization) -> tuple[Pixels, Pixels]:
    return np.array(of.mean, np.float32), np.array(of.std, np.float32)


def _as_if(values: Callable[[Pixels, Normalization], Pixels]) -> Simulation:
    """The pixels that the graph would turn into these values, of pixels in 0..1 and the right normalization."""

    def change(scene: Scene) -> Shown:
        right = scene.normalization
        mean, std = _figures(right)
        return 255 * (values(scene.pixels.astype(np.float32) / 255, right) * std + mean), scene.view

    return change


def _normalized(scene: Scene) -> Pixels:
    return scene.normalization.of(scene.pixels)


def _as_bytes(values: NDArray[Any]) -> NDArray[Any]:
    """Floats cast to uint8 as C and OpenVINO do: towards zero, modulo 256."""
    whole: NDArray[Any] = np.trunc(values).astype(np.int64).astype(np.uint8)
    return whole


# Normalizations in common use, as (mean, std) on the scale 0..1.
COMMON_NORMALIZATIONS = {
    "ImageNet's": Normalization(),
    "0.5 and 0.5 (-1 to 1)": Normalization((0.5,) * 3, (0.5,) * 3),
    "0 and 1 (0 to 1)": Normalization((0.0,) * 3, (1.0,) * 3),
    "0 and 1/255 (0 to 255)": Normalization((0.0,) * 3, (1 / 255,) * 3),
    "ImageNet's mean, std 1/255": Normalization(Normalization().mean, (1 / 255,) * 3),
    "CLIP's": Normalization((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)),
    "CIFAR-10's": Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "127/255 and 128/255": Normalization((127 / 255,) * 3, (128 / 255,) * 3),
}


def _normalizations(own: Preprocess) -> dict[str, Simulation]:
    """Another normalization, seen through the right one."""

    def row(other: Normalization) -> Simulation:
        mean, std = (each[: own.channels] for each in _figures(other))
        return _as_if(lambda values, _: (values - mean) / std)

    return {f"{name} mean and std": row(other) for name, other in COMMON_NORMALIZATIONS.items()}


def _own_normalizations(_: Preprocess) -> dict[str, Simulation]:
    """The right figures, used wrongly."""

    def row(change: Callable[[Pixels, Pixels, Pixels], Pixels]) -> Simulation:
        return _as_if(lambda values, right: change(values, *_figures(right)))

    return {
        "the mean and std of red and blue are exchanged": row(lambda x, mean, std: (x - mean[::-1]) / std[::-1]),
        "the pixels are not divided by 255": row(lambda x, mean, std: (255 * x - mean) / std),
        "the pixels are not divided by std": row(lambda x, mean, _: x - mean),
        "mean is not taken off": row(lambda x, _, std: x / std),
    }


def _constant(**rows: Simulation) -> Callable[[Preprocess], dict[str, Simulation]]:
    named = {name.replace("_", " ").strip(): row for name, row in rows.items()}
    return lambda _: named


CATALOGUE = (
    PixelFault(
        "BGR for RGB",
        "exchange the first and the last channel before the network; OpenCV decodes to BGR",
        _constant(red_and_blue_are_exchanged=on_image(lambda image: image[:, :, ::-1])),
    ),
    PixelFault(
        "EXIF orientation ignored",
        "turn the image as its EXIF tag says; edgecv's images.read does",
        _constant(the_image_is_used_as_it_is_stored=_unturned),
    ),
    PixelFault(
        "another interpolation",
        "resize with the bundle's interpolation",
        lambda own: {**_other("interpolation", Interpolation)(own), **_others_filters(own)},
    ),
    PixelFault(
        "cropped after the resize", "cut the centre out first, then resize it: docs/verify.md says how", _late_crops
    ),
    PixelFault("another way to resize", "crop, stretch or letterbox as the bundle says", _modes),
    PixelFault("another size before the crop", "scale the shorter side as the bundle says, then crop", _sides),
    PixelFault("crop from the corner", "crop the centre", _constant(the_upper_left_corner_is_cropped=_corner)),
    PixelFault("another letterbox fill", "fill the border with the bundle's grey", _fills),
    PixelFault(
        "NCHW for NHWC",
        "give the pixels as (N, H, W, C), or transpose; do not reshape",
        _constant(the_planes_are_read_as_interleaved_pixels=on_pixels(_planar)),
    ),
    PixelFault(
        "float where uint8",
        "give the pixels as uint8, 0 to 255; the graph scales",
        _constant(
            the_pixels_are_divided_by_255=on_pixels(lambda pixels: pixels / 255),
            the_pixels_are_divided_by_255_and_cast_to_uint8=on_pixels(lambda pixels: _as_bytes(pixels / 255)),
        ),
    ),
    PixelFault(
        "normalized twice",
        "leave the normalization to the graph",
        _constant(
            the_pixels_are_normalized_before_the_graph_does_it=lambda scene: (_normalized(scene), scene.view),
            the_pixels_are_normalized_and_cast_to_uint8=lambda scene: (_as_bytes(_normalized(scene)), scene.view),
        ),
    ),
    PixelFault(
        "wrong mean or scale",
        "normalize with the bundle's mean and std, or leave it to the graph",
        lambda own: {**_own_normalizations(own), **_normalizations(own)},
    ),
    PixelFault(
        "int8 where uint8",
        "read the pixels as unsigned bytes",
        _constant(
            bytes_above_127_are_taken_as_negative=on_pixels(
                lambda pixels: np.where(pixels > 127, pixels - 256, pixels)
            ),
            _128_is_taken_off=on_pixels(lambda pixels: pixels - 128),
        ),
    ),
    PixelFault(
        "grey for colour",
        "keep the camera's colours",
        _constant(all_channels_hold_the_grey_image=on_image(_grey)),
    ),
    PixelFault(
        "limited-range video levels",
        "convert YUV with the range that the stream declares",
        _constant(
            _16_to_235_is_taken_for_0_to_255=_curve(lambda tone: (16 + 219 * tone) / 255),
            _0_to_255_is_taken_for_16_to_235=_curve(lambda tone: (255 * tone - 16) / 219),
        ),
    ),
    PixelFault(
        "another tone curve",
        "give the network sRGB as decoders give it; no gamma, no linear light",
        _constant(
            the_pixels_are_linear_light=_curve(lambda tone: tone**2.2),
            a_gamma_was_applied=_curve(lambda tone: tone ** (1 / 2.2)),
            **{
                "the pixels are darkened by a gamma of 1.8": _curve(lambda tone: tone**1.8),
                "a gamma of 1.8 was applied": _curve(lambda tone: tone ** (1 / 1.8)),
            },
        ),
    ),
    PixelFault(
        "U and V exchanged",
        "take the frame as the format that it is, NV12 or NV21, I420 or YV12",
        _constant(the_colour_planes_are_exchanged=on_image(_swap_chroma)),
    ),
    PixelFault(
        "turned or mirrored image",
        "mount the camera upright, or turn its frames",
        _constant(
            it_is_mirrored=on_image(lambda image: image[:, ::-1]),
            it_is_upside_down=on_image(lambda image: image[::-1]),
            it_is_turned_by_180_degrees=on_image(lambda image: image[::-1, ::-1]),
            it_is_turned_left=on_image(np.rot90),
            it_is_turned_right=on_image(lambda image: np.rot90(image, 3)),
            rows_and_columns_are_exchanged=on_image(lambda image: image.transpose(1, 0, 2)),
        ),
    ),
    PixelFault(
        "empty input",
        "write the frame into the input before it runs",
        _constant(
            every_pixel_is_0=on_pixels(np.zeros_like),
            every_pixel_is_255=on_pixels(lambda pixels: np.full_like(pixels, 255)),
        ),
    ),
)


def simulations(own: Preprocess) -> Iterator[tuple[Fault, str, Simulation]]:
    """Every way in which the catalogue says that pixels can be wrong."""
    for fault in CATALOGUE:
        for detail, simulate in fault.rows(own).items():
            yield fault, detail, simulate


def named(name: str) -> Fault:
    """The fault of that name."""
    return next(fault for fault in CATALOGUE if fault.name == name)
