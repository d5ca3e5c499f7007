"""The `edgecv` command: global options, and which module serves which verb."""

from __future__ import annotations

from typing import Annotated

import typer

import edgecv
from edgecv.cli import cost, device, inspect, output, quantizing, recipes, results

app = typer.Typer(
    name="edgecv",
    help="Train, export, quantize, prove and run vision models on the edge.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"edgecv {edgecv.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Take the options that all commands share."""
    del version
    output.Mode.debug, output.Mode.quiet = debug, quiet
    output.start_logging()


for command in (
    recipes.build,
    recipes.train,
    recipes.export,
    quantizing.quantize,
    results.verify,
    results.bench,
    results.report,
    device.predict,
    device.stream,
    device.tune,
    recipes.models,
    cost.calibrate,
    device.doctor,
):
    app.command()(output.guarded(command))
app.command(cls=cost.DeviceCommand)(output.guarded(inspect.inspect))
