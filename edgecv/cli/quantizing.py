"""`edgecv quantize`: search for the fastest int8 file within a budget, or convert to fp16, then judge it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecv.cli import evidence
from edgecv.cli.output import say, show_json, stdout
from edgecv_runtime import files
from edgecv_runtime.errors import BadInput, Unavailable, nearest

if TYPE_CHECKING:
    from edgecv_export.quantize import QuantizeConfig

GOALS = ("p50", "p99", "size", "divergence")


def quantize(
    bundle: evidence.BundlePath,
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Images or clips; one folder a label gives accuracy. fp16 alone can do without."),
    ] = None,
    max_megapixels: evidence.MaxMegapixels = 50.0,
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
    json: evidence.Json = False,
) -> None:
    """Find the fastest int8 file within a budget, prove and time it. A search that was stopped goes on."""
    from edgecv.data import given
    from edgecv.run.folder import beside
    from edgecv_runtime import tasks
    from edgecv_runtime.bundle import Bundle

    try:
        from edgecv.report import front
        from edgecv.run import quantizing as work
        from edgecv_export.quantize import QuantizeConfig
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
        budget = work.asked(opened.manifest.budget, max_drop, min_agreement)
        several = not tasks.create(opened.manifest.head, opened.manifest.outputs).judged
        calibration, check = None, None
        if data is not None:
            count = images if config.int8 else 0
            calibration, check, told = given.to_quantize(opened, data, count, check_images, max_megapixels)
            for line in told:
                say(line)
    if max_drop is not None and (check is None or several):
        why = f"{data} has none" if data else "without --data there are none"
        why = "several of them may hold on one image" if several else why
        raise BadInput(
            f"--max-drop counts points of accuracy on images with the bundle's labels, and {why}: leave it out; "
            f"agreement counts then, of which {budget.least_agreement:.0%} are asked for"
        )
    found = work.quantize(bundle, config, budget, calibration=calibration, check=check, say=say)
    if found.unkept is not None:
        raise found.unkept
    done = found.done
    facts: dict[str, object] = {}
    if done is not None:
        facts = {"kept": done.found.kept, "chosen": done.chosen, "float_ms": done.float_ms, "bf16_ms": done.bf16_ms}
        facts["book"] = str(beside(bundle, "trials"))
    if json:
        show_json({**facts, "explanation": found.lines, "offered": found.offered})
    else:
        for line in [*found.lines, *(f"{name}: {state}" for name, state in found.offered.items())]:
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


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _goal(name: str) -> str:
    if name not in GOALS:
        raise BadInput(f"--goal is {', '.join(GOALS)}; got '{name}'{nearest(name, list(GOALS))}")
    return name
