"""The `edgecv` command: global options, and which module serves which verb."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

import edgecv
from edgecv.cli import (
    adopting,
    benchasked,
    benching,
    bulk,
    cost,
    deploying,
    device,
    inspect,
    output,
    quantizing,
    recipes,
    reporting,
    repositories,
    serving,
    streaming,
    verifying,
)


class Verb(NamedTuple):
    """A function that is a command, and how it is called."""

    command: Callable[..., None]
    example: str
    kind: type[TyperCommand] = TyperCommand

    @property
    def name(self) -> str:
        """What is typed."""
        return self.command.__name__.replace("_", "-")


# In the order in which they are used.
VERBS = {
    "From photographs to a proven bundle": (
        Verb(recipes.build, "edgecv build recipes/photos.yaml data.path=photos"),
        Verb(verifying.verify, "edgecv verify runs/photos/bundle"),
        Verb(benching.bench, "edgecv bench runs/photos/bundle --seconds 1 --rounds 10", benchasked.Grouped),
    ),
    "On the device": (
        Verb(device.tune, "edgecv tune runs/photos/bundle --goal 'p99 <= 20 ms'"),
        Verb(device.predict, "edgecv predict runs/photos/bundle photos --top 3"),
        Verb(streaming.stream, "edgecv stream runs/photos/bundle clip.mp4 --sink out.mp4"),
        Verb(streaming.soak, "edgecv soak runs/photos/bundle --minutes 60 --out soak.json"),
        Verb(serving.serve, "edgecv serve runs/photos/bundle --listen 127.0.0.1:8000"),
        Verb(bulk.bulk, "edgecv bulk runs/photos/bundle photos --out results.parquet"),
    ),
    "To another device": (
        Verb(deploying.check, "edgecv check runs/photos/bundle --target rpi5"),
        Verb(repositories.export_repository, "edgecv export-repository runs/photos/bundle --triton models"),
        Verb(deploying.deploy, "edgecv deploy runs/photos/bundle pi@camera-3 --merge"),
        Verb(reporting.merge, "edgecv merge runs/photos/bundle camera-3.json"),
        Verb(deploying.sbom, "edgecv sbom runs/photos/bundle --out bom.json"),
    ),
    "Single steps of a build": (
        Verb(recipes.train, "edgecv train recipes/photos.yaml data.path=photos train.epochs=5"),
        Verb(recipes.export, "edgecv export recipes/photos.yaml data.path=photos"),
        Verb(adopting.adopt, "edgecv adopt mine.onnx --describe mine.yaml --data photos"),
        Verb(quantizing.quantize, "edgecv quantize runs/photos/bundle --data photos"),
        Verb(reporting.report, "edgecv report runs/photos runs/other --out report.html"),
    ),
    "Before and beside": (
        Verb(recipes.runs, "edgecv runs --prune"),
        Verb(recipes.models, "edgecv models"),
        Verb(inspect.inspect, "edgecv inspect mobilenet_v3_small --top 10", cost.DeviceCommand),
        Verb(cost.survey, "edgecv survey --seconds 30 --out device.json"),
        Verb(device.doctor, "edgecv doctor"),
    ),
}


# Names of earlier versions, which no list shows.
FORMER = (Verb(cost.calibrate, "edgecv survey"),)


class Verbs(TyperGroup):
    """The list of verbs in groups, each with its whole first sentence: Click alone sorts none and cuts them."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the groups."""
        del ctx
        for title, verbs in VERBS.items():
            with formatter.section(title):
                formatter.write_dl([(verb.name, _summary(verb)) for verb in verbs])


def _summary(verb: Verb) -> str:
    """The first paragraph of a verb's help, as one line."""
    return " ".join((verb.command.__doc__ or "").partition("\n\n")[0].split())


app = typer.Typer(
    name="edgecv",
    cls=Verbs,
    help="Train, export, quantize, prove and run vision models on the edge.",
    epilog="'edgecv VERB -h' shows the options of a verb, and an example.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
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
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that all commands share."""
    del version
    output.Mode.debug, output.Mode.quiet = debug, quiet
    output.start_logging()


for _verb in (verb for verbs in VERBS.values() for verb in verbs):
    # \b: as it stands, not wrapped
    app.command(cls=_verb.kind, epilog=f"\b\nExample:\n  {_verb.example}")(output.guarded(_verb.command))
for _verb in FORMER:
    app.command(hidden=True)(output.guarded(_verb.command))
