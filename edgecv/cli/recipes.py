"""Verbs that make models: build, train, export, models. They need torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecv.cli import adopting, evidence
from edgecv.cli.output import Mode, say, show_json, stdout
from edgecv_runtime import machine
from edgecv_runtime.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from edgecv.build import Built
    from edgecv.runs import Training

PATTERN = ".py:"  # in what names a network of a Python file
ZOO_COLUMNS = 120  # what the table of models needs without breaking a line

Arguments = Annotated[list[str], typer.Argument(metavar="RECIPE [KEY=VALUE]...", help="A YAML file and overrides.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder that run folders are made in.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def build(arguments: Arguments, runs: Runs = Path("runs"), json: Json = False) -> None:
    """Run a recipe to the end: train, export, quantize, verify, bench, bundle, report."""
    built = _run(arguments, runs, "report")
    from edgecv.report.console import print_table
    from edgecv_runtime.bench.table import rows
    from edgecv_runtime.bundle import Bundle

    with Bundle(built.bundle) as opened:
        found = rows(opened)
    if json:
        show_json({**_facts(built), "report": str(built.report), "rows": found})
        return
    print_table(found, stdout)
    say(f"bundle: {built.bundle}")
    say(f"report: {built.report}")


def train(arguments: Arguments, runs: Runs = Path("runs"), json: Json = False) -> None:
    """Run a recipe up to the trained weights; with a quantize.train section, up to the trained int8 files."""
    built = _run(arguments, runs, "train")
    weights = built.folder / "train" / "weights.safetensors"
    if json:
        show_json({**_facts(built), "weights": str(weights)})
        return
    stdout.print(str(built.bundle if "quantize" in built.ran + built.skipped else weights), soft_wrap=True)


def export(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE [KEY=VALUE]...",
            help="A YAML file and overrides; or FILE.py:FUNCTION, which makes a network, with --describe and --data.",
        ),
    ],
    runs: Runs = Path("runs"),
    describe: adopting.DescribeOwn = None,
    data: adopting.OwnImages = None,
    out: adopting.Out = None,
    max_megapixels: evidence.MaxMegapixels = 50.0,
    json: Json = False,
) -> None:
    """Run a recipe up to a bundle with its proven float32 variant, or export a network of your own to one."""
    if PATTERN in arguments[0]:
        _need_torch()
        adopting.export_own(arguments, describe, data, out, max_megapixels, json)
        return
    if (describe, data, out) != (None, None, None):
        raise BadInput("--describe, --data and --out are for a network of your own, FILE.py:FUNCTION: leave them out")
    built = _run(arguments, runs, "export")
    if json:
        show_json(_facts(built))
        return
    stdout.print(str(built.bundle), soft_wrap=True)


def runs(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="A run folder, or the folder of all.")] = Path(
        "runs"
    ),
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove trainings set aside, what stopped builds left.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before removing.")] = False,
    json: Json = False,
) -> None:
    """List runs with their trainings, also those set aside when a recipe changed; --prune removes the latter."""
    from edgecv import runs as kept

    found = kept.find(folder)
    if not prune:
        rows = [row for run in found for row in kept.of(run)]
        show_json(rows) if json else _print_runs(rows)
        return
    removed: list[kept.Spare] = []

    def agree(spare: kept.Spare) -> None:
        removed.append(spare)
        if yes or not spare:
            return
        if not sys.stdin.isatty():
            raise BadInput(f"--prune removes {spare} for ever: say --yes where nobody can be asked")
        if spare.trainings:
            _print_runs(spare.trainings)
        typer.confirm(f"Remove {spare}?", abort=True, err=True)

    freed = kept.prune(*found, agree=agree)
    if json:
        (spare,) = removed
        show_json({"removed": spare.trainings, "stopped": list(map(str, spare.stopped)), "bytes": freed})
    else:
        stdout.print(f"removed {removed[0]}, {freed / 1e6:.1f} MB freed", soft_wrap=True)


def _print_runs(rows: list[Training]) -> None:
    from edgecv.grid import add_column, grid

    table = grid()
    for name in ("run", "training", "model", "score", "epochs", "date", "MB"):
        add_column(table, name, right=name in ("score", "epochs", "MB"))
    for row in rows:
        score = "–" if row.score is None else f"{row.metric} {100 * row.score:.2f} %"
        epochs = f"{row.epochs}" + ("" if row.finished else ", unfinished")
        table.add_row(row.run, row.name, row.model, score, epochs, row.date[:16], f"{row.bytes / 1e6:.1f}")
    stdout.print(table)


def models(json: Json = False) -> None:
    """List the zoo: task, parameters, MACs, input, receptive field, weights; with --json, where those come from."""
    _need_torch()
    from msgspec import to_builtins

    from edgecv import models as zoo
    from edgecv import xray
    from edgecv.grid import add_column, grid
    from edgecv.xray.console import count_text, field_text

    specs = [zoo.spec(name) for name in zoo.names()]
    costs = {name: xray.cost(name) for name in zoo.names()}
    if json:
        show_json(
            [{**to_builtins(spec), "macs": costs[spec.name].macs, "field": costs[spec.name].field} for spec in specs]
        )
        return
    table = grid()
    for name in ("model", "task", "parameters", "MACs", "input", "receptive field", "weights"):
        add_column(table, name, right=name in ("parameters", "MACs"))
    for spec in specs:
        cost = costs[spec.name]
        of = "backbone " if spec.backbone else ""
        weights = "\n".join(f"{of}{row.name} {row.score_percent:.1f} %" for row in spec.weights)
        size = "x".join(map(str, spec.size))
        cells = f"{spec.parameters:,}", count_text(cost.macs), size, field_text(cost.field), weights or "–"
        table.add_row(spec.name, spec.task, *cells)
    stdout.print(table, width=max(stdout.width, ZOO_COLUMNS), crop=False)
    say(
        "weights: published top-1 on ImageNet-1k, or mIoU on COCO val2017 (segmentation); 'backbone': what a detector "
        "starts from, as a classifier; --json has their sources"
    )


def _run(arguments: list[str], runs: Path, until: str) -> Built:
    """Split a recipe's path from its overrides, and build."""
    _need_torch()
    from edgecv import recipe
    from edgecv.build import build as run_build

    paths = [argument for argument in arguments if "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument]
    if len(paths) != 1:
        raise BadInput(f"name one recipe, then key=value overrides; got {len(paths)} recipes: {' '.join(paths)}")
    read = recipe.read(paths[0], overrides)
    if until == "train" and read.quantize is not None and read.quantize.train is not None:
        until = "quantize"  # where int8 files are trained
    return run_build(read, runs / read.name, until=until, say=say, progress=not Mode.quiet)


def _facts(built: Built) -> dict[str, object]:
    return {"bundle": str(built.bundle), "ran": built.ran, "skipped": built.skipped, "seconds": built.seconds}


def _need_torch() -> None:
    try:
        import onnx  # noqa: F401
        import torch
    except ImportError as exc:
        raise Unavailable(f"this command needs {exc.name}", extra="export") from exc
    cores = machine.this().cores
    if cores < torch.get_num_threads():  # a container's quota of CPU time, which torch does not look at
        torch.set_num_threads(cores)
