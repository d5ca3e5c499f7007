"""`edgecv quantize`: search for the fastest int8 file within a budget, then judge it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecv.cli import results
from edgecv.cli.output import say, show_json, stdout
from edgecv_runtime.errors import BadInput, Unavailable, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgecv_export.calibrate import Images
    from edgecv_export.quantize import QuantizeConfig
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.preprocess import Image, Preprocess

FLOAT = "float32"
EVERY_S = 0.1  # between frames of a clip; more in long ones
GOALS = ("p50", "p99", "size")


@dataclass(frozen=True)
class Preprocessed:
    """Images that are read and preprocessed when they are asked for; `read` gives (H, W, 3) uint8 BGR."""

    preprocess: Preprocess
    read: Callable[[int], Image]
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> Image:
        return self.preprocess(self.read(index))


def quantize(
    bundle: results.BundlePath,
    data: Annotated[Path, typer.Option("--data", help="Images or clips; one folder a label gives accuracy.")],
    images: Annotated[int, typer.Option(help="How many images calibrate.")] = 200,
    check_images: Annotated[int, typer.Option(help="How many more choose between the ways to quantize.")] = 500,
    max_drop: Annotated[float | None, typer.Option(help="Points of accuracy that may be lost.")] = None,
    goal: Annotated[str, typer.Option(help="What shall be small: p50, p99 or size.")] = "p50",
    budget_s: Annotated[float, typer.Option(help="Seconds that the search may take.")] = 600.0,
    dialect: Annotated[
        list[str] | None, typer.Option(help="int8-u8s8 (the default), int8-s8s8, fp16; may be repeated.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="The front of all trials, as SVG.")] = None,
    json: results.Json = False,
) -> None:
    """Find the fastest int8 file within a budget, prove and time it. A search that was stopped goes on."""
    import msgspec

    from edgecv_runtime.bundle import Bundle

    try:
        from edgecv_export.calibrate import sample
        from edgecv_export.explain import explain
        from edgecv_export.quantize import QuantizeConfig, quantize
    except ImportError as exc:
        raise Unavailable(f"quantizing needs {exc.name}: pip install 'edgecv[export]'") from exc
    config = QuantizeConfig(
        images=images,
        check_images=check_images,
        goal=_goal(goal),  # type: ignore[arg-type]
        budget_s=budget_s,
        dialects=tuple(dialect or QuantizeConfig().dialects),
    )
    if plot is not None and plot.suffix.lower() != ".svg":
        raise BadInput(f"--plot {plot}: the picture is an SVG; name it {plot.stem}.svg")
    with Bundle(bundle) as opened:
        budget = opened.manifest.budget
        if max_drop is not None:
            budget = msgspec.structs.replace(budget, max_drop_points=max_drop)
        calibration, check, labels = _frames(opened, data, config)
    book = bundle.absolute().with_name(f"{bundle.name}.trials.json")
    try:
        done = quantize(bundle, calibration, config, say, check=check, labels=labels, budget=budget, book=book)
    except OSError as exc:
        raise Unavailable(f"{exc.filename or bundle}: {exc.strerror}; the bundle is as it was") from exc
    if plot is not None:
        from edgecv.report import front

        front.draw(done, budget, plot)
        say(f"plot: {plot.absolute()}")
    lines = explain(done, budget)
    rows = _judged(bundle, sample(calibration).some(check_images) if check is None else check, labels)
    if json:
        facts = {"kept": done.found.kept, "chosen": done.chosen, "float_ms": done.float_ms, "bf16_ms": done.bf16_ms}
        show_json({**facts, "explanation": lines, "offered": rows, "book": str(book)})
        return
    for line in [*lines, *(f"{name}: {state}" for name, state in rows.items())]:
        stdout.print(line, soft_wrap=True)


def _goal(name: str) -> str:
    if name not in GOALS:
        raise BadInput(f"--goal is {', '.join(GOALS)}; got '{name}'{nearest(name, list(GOALS))}")
    return name


def _frames(
    opened: Bundle, data: Path, config: QuantizeConfig
) -> tuple[Images, Image | None, NDArray[np.int64] | None]:
    """Calibration images; and check images with their labels, where the folder's folders are named as labels."""
    import numpy as np

    from edgecv.data import DataConfig, clips
    from edgecv_runtime import images

    names = {folder.name for folder in data.iterdir() if folder.is_dir()} if data.is_dir() else set()
    if not names or not names <= set(opened.manifest.labels):
        count = config.images + config.check_images
        source = DataConfig(source="clips", path=str(data), every_s=EVERY_S)
        found, notes = clips.spread(source, count, opened.manifest.preprocess)
        for note in notes:
            say(f"warning: {note}")
        return found.take(count), None, None
    paths, labels = results.labelled_paths(opened, data)
    order = np.random.default_rng(0).permutation(len(paths))
    count = min(config.images, len(order) // 3)
    rest = order[count : count + config.check_images]
    read = Preprocessed(opened.manifest.preprocess, lambda index: images.read(paths[order[index]]), count)
    return read, results.preprocessed(opened, (images.read(paths[index]) for index in rest)), labels[rest]


def _judged(path: Path, frames: Image, labels: NDArray[np.int64] | None) -> dict[str, str]:
    """Verify and time what is now in the bundle; per variant and backend, whether it is offered and why not."""
    from edgecv_runtime import verify
    from edgecv_runtime.bench.latency import bench
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.manifest import Evidence

    with Bundle(path) as opened:
        expected = verify.float_outputs(opened, frames)
        done = verify.verify(
            opened,
            frames,
            expected,
            reference_name="float32 here",
            labels=labels,
            only=lambda each: (each.variant, each.hint) != (FLOAT, FLOAT),
        )
        # float32 is no proof of itself: against the golden outputs
        done += verify.verify(opened, only=lambda each: (each.variant, each.hint) == (FLOAT, FLOAT))
        timed = bench(opened, seconds=0.3, rounds=3, progress=say)
        entries = list(Evidence(entries=tuple(each.entry for each in done)).merged(timed).entries)
        judged, evidence = results.merged(opened, entries)
        if not results.keep(opened, judged, evidence, write=True):
            raise typer.Exit(Unavailable.exit_code)
    rows: dict[str, str] = {}
    for variant in judged.variants:
        rows |= {f"{variant.name} on {name}": "offered" for name in variant.backends}
        rows |= {
            f"{variant.name} on {name} ({each})": "offered" for name in variant.hints for each in variant.hints[name]
        }
        rows |= {f"{variant.name} on {name}": f"withheld, {why}" for name, why in variant.withheld.items()}
    return rows
