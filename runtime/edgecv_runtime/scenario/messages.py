"""What a player and who started it tell each other: a JSON document a line."""

from __future__ import annotations

from typing import Any

import msgspec

from edgecv_runtime.backends import Executed
from edgecv_runtime.scenario.plan import Act, Plan


class Job(msgspec.Struct, frozen=True, tag="job"):
    """What to load, and what will be asked; pictures: paths of image files for "frames", empty for the bundle's own."""

    bundle: str
    variant: str
    backend: str
    hint: str
    plan: Plan
    pictures: tuple[str, ...] = ()


class Play(msgspec.Struct, frozen=True, tag="play"):
    """Play one act for so long."""

    act: Act
    seconds: float


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The target is loaded and warm; what executes, and what it is fed with, in words."""

    executed: Executed
    device: str
    threads: int
    streams: int
    warm_up: int
    fed: str


class Block(msgspec.Struct, frozen=True, tag="block"):
    """Some calls: when each began, in seconds since the act began, its milliseconds, and those of its stages.

    dropped: frames that came meanwhile in vain. so_far: calls' own times of a run that LoadGen has not ended; what it
    tells in the end takes their place.
    """

    at_s: list[float]
    ms: list[float]
    parts: dict[str, list[float]] = {}
    dropped: int = 0
    so_far: bool = False


class Done(msgspec.Struct, frozen=True, tag="done"):
    """An act has ended. begin, end: moments of the wall clock, between which energy counts.

    frames: that were computed; dropped: that came while the one before was computed. loadgen: its own results.
    """

    begin: float
    end: float
    frames: int
    rss_mb: float
    peak_rss_mb: float
    dropped: int = 0
    loadgen: dict[str, Any] = {}


Said = Ready | Block | Done
