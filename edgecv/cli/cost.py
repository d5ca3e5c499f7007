"""What a network costs on a device: survey, and what `inspect --device` adds. Neither needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from edgecv.cli.output import say, show_json, stdout
from edgecv_runtime.errors import BadInput, nearest

if TYPE_CHECKING:
    from edgecv.cost.predict import Forecast
    from edgecv.xray import Graph
    from edgecv.xray.named import Named

HERE = "here"


class DeviceCommand(TyperCommand):
    """A command whose option --device may stand without a value, for this machine."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the value in."""
        filled = []
        for arg, following in zip(args, [*args[1:], "-"], strict=True):
            filled += [arg, HERE] if arg == "--device" and following.startswith("-") else [arg]
        return super().parse_args(ctx, filled)


def survey(
    backend: Annotated[str, typer.Option("--backend", help="auto (every one that works), onnxruntime, ...")] = "auto",
    precision: Annotated[str, typer.Option("--precision", help="auto (every one), float32, bf16.")] = "auto",
    seconds: Annotated[float, typer.Option(help="At most, for each backend and precision.")] = 60.0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write a file, for inspect on another machine.")
    ] = None,
    json: bool = typer.Option(False, "--json", help="One JSON document on stdout."),
) -> None:
    """Measure what this machine does with each kind of layer, for `edgecv inspect --device`."""
    from edgecv.cost import record as records
    from edgecv.cost.console import describe
    from edgecv.cost.survey import survey as run
    from edgecv_runtime import files

    records.check_kept()  # minutes of measuring shall not end without a place for them
    if out is not None:
        files.check_place(out)
    found = []
    for name, each in _asked(backend, precision):
        done = run(name, each, seconds=seconds, progress=say)
        records.remember(done)
        found.append(done)
        if not json:
            stdout.print(describe(done), soft_wrap=True)
    if out is not None:
        records.write(out, found)
    if json:
        show_json(found)


def calibrate(
    backend: str = typer.Option("auto", "--backend"),
    precision: str = typer.Option("auto", "--precision"),
    seconds: float = 60.0,
    out: Annotated[Path | None, typer.Option("--out")] = None,
    json: bool = typer.Option(False, "--json"),
) -> None:
    """The name that `edgecv survey` had."""
    say("'edgecv calibrate' is called 'edgecv survey' now: calibration is what int8 does with images")
    survey(backend, precision, seconds, out, json)


def _asked(backend: str, precision: str) -> list[tuple[str, Any]]:
    """Which backends and precisions to survey."""
    from edgecv_runtime import backends

    if backend.partition(":")[0] in backends.ADDRESSED:
        raise BadInput(f"'{backend}': a server runs what it was given, and a survey times files of its own")
    if backend != "auto":
        backends.get(backend).probe()
    names = list(backends.available()) if backend == "auto" else [backend]
    pairs = [(name, each) for name in names for each in backends.get(name).precisions()]
    found = [(name, each) for name, each in pairs if precision in ("auto", each)]
    if not found:
        known = dict.fromkeys(["auto", *(each for _, each in pairs)])
        raise BadInput(f"no precision '{precision}' on backend '{backend}' here{nearest(precision, known)}")
    return found


def forecast(graph: Graph, device: str, named: Named, *, measure: bool) -> list[Forecast]:
    """Predictions on a device, the fastest first; device: "here", or a file that `edgecv survey --out` wrote.

    named: what the graph was read from, for a real run.
    """
    from edgecv.cost import real
    from edgecv.cost import record as records
    from edgecv.cost.predict import Forecast, predict

    found = records.of_this_machine() if device == HERE else records.read(Path(device))
    forecasts = []
    for survey in found:
        prediction = predict(graph, survey)
        ms, slower = real.evidence_ms(named, prediction), None
        if measure:
            ms, reference_ms = real.measure_ms(graph, named, prediction)
            slower = reference_ms / survey.reference_ms
        forecasts.append(Forecast(prediction, ms, prediction.reached(ms) if ms else None, slower))
    return sorted(forecasts, key=lambda each: each.prediction.ms)


def print_forecasts(forecasts: list[Forecast], top: int | None) -> None:
    """The layers of the fastest, and a line for each."""
    from edgecv.cost.console import print_prediction, sentences

    for number, each in enumerate(forecasts):
        if number == 0:
            print_prediction(each.prediction, stdout, top=top)
        for line in sentences(each):
            stdout.print(line, soft_wrap=True)
