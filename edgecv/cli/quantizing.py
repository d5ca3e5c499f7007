"""`edgecv quantize`: search for the fastest int8 file within a budget, or convert to fp16, then judge it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecv.cli import results
from edgecv.cli.output import say, show_json, stdout
from edgecv_runtime import files
from edgecv_runtime.errors import BadInput, Unavailable, nearest

if TYPE_CHECKING:
    from edgecv_export.calibrate import Images
    from edgecv_export.quantize import QuantizeConfig
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.evidence import Evidence
    from edgecv_runtime.manifest import Budget, Manifest
    from edgecv_runtime.preprocess import Image, Preprocess

    Found = tuple[Images, results.Given | None]  # calibration images, check images

FLOAT = "float32"
EVERY_S = 0.1  # between frames of a clip; more in long ones
GOALS = ("p50", "p99", "size", "divergence")


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
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Images or clips; one folder a label gives accuracy. fp16 alone can do without."),
    ] = None,
    max_megapixels: results.MaxMegapixels = 50.0,
    images: Annotated[int, typer.Option(help="How many images calibrate.")] = 200,
    check_images: Annotated[int, typer.Option(help="How many more choose between the ways to quantize.")] = 500,
    max_drop: Annotated[float | None, typer.Option(help="Points of accuracy that may be lost.")] = None,
    min_agreement: Annotated[
        float | None, typer.Option(help="Share of images that must keep float32's answer, 0 to 1.")
    ] = None,
    keep_float: Annotated[
        list[str] | None, typer.Option(metavar="NODE", help="A node that stays in float; may be repeated.")
    ] = None,
    goal: Annotated[
        str, typer.Option(help="What shall be small: p50, p99, size, or divergence (the closest as fast as float32).")
    ] = "p50",
    budget_s: Annotated[float, typer.Option(help="Seconds that the search may take.")] = 600.0,
    dialect: Annotated[
        list[str] | None,
        typer.Option(
            help="int8-u8s8 (the default), int8-s8s8, int8-s8s8-fp16, fp16; may be repeated. "
            "fp16 alone is converted, proved and timed, without a search."
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="The front of all trials, as SVG.")] = None,
    json: results.Json = False,
) -> None:
    """Find the fastest int8 file within a budget, prove and time it. A search that was stopped goes on."""
    from edgecv.report import front
    from edgecv.run.folder import beside
    from edgecv_runtime import tasks
    from edgecv_runtime.bundle import Bundle

    try:
        from edgecv_export.calibrate import sample
        from edgecv_export.explain import explain, explain_evidence
        from edgecv_export.quantize import QuantizeConfig, convert
        from edgecv_export.quantize import quantize as search
    except ImportError as exc:
        raise Unavailable(f"quantizing needs {exc.name}", extra="export") from exc
    config = QuantizeConfig(
        images=images,
        check_images=check_images,
        goal=_goal(goal),  # type: ignore[arg-type]
        budget_s=budget_s,
        keep_float=tuple(keep_float or ()),
        dialects=tuple(dict.fromkeys(dialect or QuantizeConfig().dialects)),
    )
    _check_asked(context, config, data, plot)
    bundle = bundle.absolute()  # who stands in the bundle's folder stands in none when it was exchanged
    plot = plot and plot.absolute()
    with Bundle(bundle) as opened:
        budget = _budget(opened.manifest.budget, max_drop, min_agreement)
        several = not tasks.create(opened.manifest.head, opened.manifest.outputs).judged
        found = (
            None if data is None else _frames(opened, data, images if config.int8 else 0, check_images, max_megapixels)
        )
    calibration, check = found or (None, None)
    if max_drop is not None and (check is None or several):
        given = f"{data} has none" if data else "without --data there are none"
        given = "several of them may hold on one image" if several else given
        raise BadInput(
            f"--max-drop counts points of accuracy on images with the bundle's labels, and {given}: leave it out; "
            f"agreement counts then, of which {budget.least_agreement:.0%} are asked for"
        )
    book = beside(bundle, "trials")
    done = None
    try:
        files.check_replaceable(bundle)
        if calibration is not None and config.int8:
            on: dict[str, Any] = (
                {} if check is None else {"check": check.frames, "labels": check.truths, "views": check.views}
            )
            done = search(bundle, calibration, config, say, budget=budget, book=book, **on)
        else:
            convert(bundle, budget)
    except OSError as exc:
        raise Unavailable(f"{exc.filename or bundle}: {exc.strerror}; the bundle is as it was") from exc
    if done is not None:
        front.keep(done, budget, bundle)
    if check is None and calibration is not None:
        check = results.Given(sample(calibration).some(check_images), [], None)
    manifest, evidence = _measured(bundle, check)
    facts: dict[str, object] = {}
    lines: list[str] = []
    if done is not None:
        facts = {"kept": done.found.kept, "chosen": done.chosen, "float_ms": done.float_ms, "bf16_ms": done.bf16_ms}
        facts["book"] = str(book)
        lines = explain(done, budget)
    for name in (*config.dialects, *(done.others if done is not None else ())):
        lines += explain_evidence(evidence, manifest, name)
    rows = _offered(manifest, evidence)
    if json:
        show_json({**facts, "explanation": lines, "offered": rows})
    else:
        for line in [*lines, *(f"{name}: {state}" for name, state in rows.items())]:
            stdout.print(line, soft_wrap=True)
    if plot is not None and done is not None:  # the last: a folder that cannot be written costs nothing else
        front.draw(done, budget, plot)
        say(f"plot: {plot}")


def _check_asked(context: typer.Context, config: QuantizeConfig, data: Path | None, plot: Path | None) -> None:
    """A search needs images, and a place for its picture; its options mean nothing without one."""
    if config.int8:
        if data is None:
            raise BadInput(
                "int8 is calibrated on images: give --data, a folder of images or clips; fp16 alone needs none"
            )
        if plot is not None:
            if plot.suffix.lower() != ".svg":
                raise BadInput(f"--plot {plot}: the picture is an SVG; name it {plot.stem}.svg")
            files.check_place(plot)
        return
    for name in ("images", "goal", "budget_s", "plot", "keep_float"):
        if _is_given(context, name):
            raise BadInput(
                f"--{name.replace('_', '-')} is for the search of int8, and {', '.join(config.dialects)} alone is only "
                "converted: leave it out, or add an int8 dialect"
            )
    if data is None and _is_given(context, "check_images"):
        raise BadInput("--check-images are taken from --data: give both, or neither for the bundle's golden inputs")


def _budget(known: Budget, max_drop: float | None, min_agreement: float | None) -> Budget:
    """The bundle's budget with what was asked for here."""
    import msgspec

    if max_drop is not None and max_drop < 0:
        raise BadInput(
            f"--max-drop {max_drop:g}: no file can promise to gain accuracy; ask for one closer to float32 by "
            "--min-agreement 0.99, or for the closest that is as fast as float32 by --goal divergence"
        )
    asked = {"max_drop_points": max_drop, "min_agreement": min_agreement}
    return msgspec.structs.replace(known, **{name: value for name, value in asked.items() if value is not None})


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _goal(name: str) -> str:
    if name not in GOALS:
        raise BadInput(f"--goal is {', '.join(GOALS)}; got '{name}'{nearest(name, list(GOALS))}")
    return name


def _frames(opened: Bundle, data: Path, calibrating: int, checking: int, max_megapixels: float = 50.0) -> Found:
    """Calibration images; and check images with their labels, where the folder's folders are named as labels."""
    from edgecv.data import DataConfig, clips
    from edgecv.data.judging import divided

    manifest = opened.manifest
    labelled = divided(data, tuple(manifest.labels), max_megapixels, opened.path, manifest.task)
    if labelled is None:
        count = calibrating + checking
        source = DataConfig(source="clips", path=str(data), every_s=EVERY_S, max_megapixels=max_megapixels)
        found, notes = clips.spread(source, count, opened.manifest.preprocess)
        for note in notes:
            say(f"warning: {note}")
        return found.take(count), None
    for line in labelled.told:
        say(f"{data}: {line}")
    calibration = labelled.calibration.take(calibrating)
    check = labelled.judged.take(checking)
    read = Preprocessed(opened.manifest.preprocess, calibration.__getitem__, len(calibration))
    return read, results.preprocessed(opened, check)


def _measured(path: Path, given: results.Given | None) -> tuple[Manifest, Evidence]:
    """Verify, on given frames or the golden inputs, and time what is now in the bundle: its manifest and evidence."""
    from edgecv_runtime import verify
    from edgecv_runtime.bench.latency import bench
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.evidence import Evidence

    if given is not None and given.truths is not None:  # before: agreement is of what is shown
        with Bundle(path) as opened:
            verify.fit_thresholds(opened, given.frames, given.truths, given.views or None, say)
    with Bundle(path) as opened:
        # float32 is no proof of itself: against the golden outputs
        done = verify.verify(opened, only=lambda each: given is None or (each.variant, each.hint) == (FLOAT, FLOAT))
        if given is not None:
            with verify.float_reference(opened) as expected:
                done += verify.verify(
                    opened,
                    given.frames,
                    expected,
                    reference_name="float32 here",
                    labels=given.truths,
                    views=given.views or None,
                    frames_name="check images",
                    logits=verify.float_logits(opened),
                    only=lambda each: (each.variant, each.hint) != (FLOAT, FLOAT),
                )
        timed = bench(opened, seconds=0.3, rounds=3, progress=say)
        entries = list(Evidence(entries=tuple(each.entry for each in done)).merged(timed).entries)
        evidence = opened.evidence().merged(entries)
        if not results.keep(opened, evidence, write=True):
            raise typer.Exit(Unavailable.exit_code)
    return opened.manifest, evidence


def _offered(manifest: Manifest, evidence: Evidence) -> dict[str, str]:
    """Per variant and backend, whether it is offered here and why not."""
    from edgecv_runtime import machine
    from edgecv_runtime.offers import offered

    offers = offered(manifest, evidence, machine.this())
    rows: dict[str, str] = {}
    for variant in manifest.variants:
        rows |= {f"{variant.name} on {name}": "offered" for name in offers.backends(variant.name)}
        hints = offers.hints(variant.name)
        rows |= {f"{variant.name} on {name} ({each})": "offered" for name in hints for each in hints[name]}
        rows |= {f"{variant.name} on {name}": f"withheld, {why}" for name, why in offers.withheld(variant.name).items()}
    return rows
