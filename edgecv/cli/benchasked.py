"""The options of `edgecv bench`: in groups, parsed once, and which of them go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand

from edgecv_runtime.errors import BadInput

SCENARIO, BESIDE, DEVICE = "A scenario instead of rounds", "Beside something else", "On a device, with --on"

Bundles = Annotated[
    list[str],
    typer.Argument(
        metavar="BUNDLE...", help="A bundle; several, or BUNDLE#PRECISION@BACKEND each, are compared side by side."
    ),
]
Seconds = Annotated[float | None, typer.Option(help="Of one round of one target, 0.5; of a scenario's run, 10.")]
Rounds = Annotated[int | None, typer.Option(help="Interleaved rounds: 5, and 8 of what is compared.")]
Batch = Annotated[int, typer.Option(help="Frames a call.")]
Threads = Annotated[int, typer.Option(help="0 leaves them to the backend.")]

Scenario = Annotated[
    str | None,
    typer.Option(
        "--scenario",
        metavar="NAME",
        help="single-stream, multi-stream, offline or server by LoadGen; paced, sustained, cold or frames.",
        rich_help_panel=SCENARIO,
    ),
]
Variant = Annotated[
    str | None, typer.Option("--variant", help="This one alone, not every one.", rich_help_panel=SCENARIO)
]
Fps = Annotated[
    float | None, typer.Option("--fps", help="Of paced: the camera's frames a second, 30.", rich_help_panel=SCENARIO)
]
Minutes = Annotated[
    float | None, typer.Option("--minutes", help="Of sustained, 5; in place of --seconds.", rich_help_panel=SCENARIO)
]
Qps = Annotated[
    float | None, typer.Option("--qps", help="Of server: requests a second to try.", rich_help_panel=SCENARIO)
]
BoundMs = Annotated[
    float | None,
    typer.Option("--bound-ms", help="Of server: what 99 of 100 requests may take, 15.", rich_help_panel=SCENARIO),
]
Starts = Annotated[int | None, typer.Option("--starts", help="Of cold: pairs of starts, 5.", rich_help_panel=SCENARIO)]
Feed = Annotated[
    str | None,
    typer.Option("--feed", help="What calls are given: tensors, or whole frames.", rich_help_panel=SCENARIO),
]
Frames = Annotated[
    Path | None,
    typer.Option(
        "--frames",
        help="Of frames: image files, in place of the bundle's golden pictures.",
        rich_help_panel=SCENARIO,
    ),
]
Rules = Annotated[
    bool,
    typer.Option("--rules", help="As long as LoadGen's own rules want: 600 s a run.", rich_help_panel=SCENARIO),
]
Isa = Annotated[
    str | None,
    typer.Option(
        "--isa",
        help="Stand for a smaller processor: avx2, avx2_vnni, avx512_vnni or native; openvino can.",
        rich_help_panel=SCENARIO,
    ),
]
Cpus = Annotated[int | None, typer.Option("--cpus", help="Use so many cores.", rich_help_panel=SCENARIO)]
Out = Annotated[
    list[Path] | None,
    typer.Option(
        "--out", help="Write the report: .json, .html, .md or .csv; may be given again.", rich_help_panel=SCENARIO
    ),
]

Regress = Annotated[
    Path | None,
    typer.Option(
        "--regress",
        metavar="FILE",
        help="What --evidence saved here before; exit code 4 where it is worse now.",
        rich_help_panel=BESIDE,
    ),
]
Python = Annotated[
    Path | None,
    typer.Option(
        "--python",
        metavar="FILE",
        help="Another environment, by its Python; exit code 4 where it is worse.",
        rich_help_panel=BESIDE,
    ),
]

On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="[USER@]HOST[:PORT]",
        help="Measure there, by ssh; the evidence comes home.",
        rich_help_panel=DEVICE,
    ),
]
Folder = Annotated[
    str | None,
    typer.Option("--folder", help="Below the home folder there, or absolute; as of deploy.", rich_help_panel=DEVICE),
]
Wheel = Annotated[
    Path | None,
    typer.Option(
        "--wheel", metavar="FILE", help="edgecv's; else one is made of this very one.", rich_help_panel=DEVICE
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Bring all wheels from here.", rich_help_panel=DEVICE)]
SshConfig = Annotated[
    Path | None,
    typer.Option("--ssh-config", metavar="FILE", help="In the place of ~/.ssh/config.", rich_help_panel=DEVICE),
]


class Grouped(TyperCommand):
    """A command whose help shows its options in the groups that they name."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, the options of no group, and each group."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                plain = "Arguments" if param.param_type_name == "argument" else "Options"
                groups.setdefault(getattr(param, "rich_help_panel", None) or plain, []).append(record)
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


@dataclass(frozen=True)
class Asked:
    """What was asked of bench, every option by its name; the defaults are those of nothing asked."""

    bundles: list[str]
    seconds: float | None = None
    rounds: int | None = None
    batch: int = 1
    threads: int = 0
    data: Path | None = None
    backend: str = "auto"
    max_megapixels: float = 50.0
    scenario: str | None = None
    variant: str | None = None
    fps: float | None = None
    minutes: float | None = None
    qps: float | None = None
    bound_ms: float | None = None
    starts: int | None = None
    feed: str | None = None
    frames: Path | None = None
    rules: bool = False
    isa: str | None = None
    cpus: int | None = None
    out: list[Path] | None = None
    regress: Path | None = None
    python: Path | None = None
    on: str | None = None
    folder: str | None = None
    wheel: Path | None = None
    offline: bool = False
    ssh_config: Path | None = None
    evidence: Path | None = None
    write: bool = True
    json: bool = False
    markdown: bool = False

    @property
    def given(self) -> list[str]:
        """The options that were given, as they are typed."""
        named = [field for field in fields(self) if field.name != "bundles"]
        return [option(field.name) for field in named if getattr(self, field.name) != field.default]

    @property
    def way(self) -> Way:
        """What is to be done; raises BadInput for options that do not go together, in one line."""
        given = self.given
        ways = [way for way in WAYS if way.name in given] + [SEVERAL] * (len(self.bundles) > 1)
        if len(ways) > 1 and ways[-1] is SEVERAL:
            raise BadInput(f"{ways[0].name} measures one bundle, and {len(self.bundles)} are given")
        if len(ways) > 1:
            raise BadInput(f"{' and '.join(way.name for way in ways)}: give one of them, each is a way of its own")
        way = ways[0] if ways else PLAIN
        for title, options, cure in (
            ("scenario", OF_SCENARIO, "for --scenario only"),
            ("on", OF_DEVICE, "of a device; name one: --on user@host"),
        ):
            stray = [each for each in given if each in options]
            if stray and way.name != option(title):
                raise BadInput(f"{', '.join(stray)}: {cure}")
        stray = [each for each in given if each not in way.takes]
        if stray:
            raise BadInput(f"{', '.join(stray)}: not with {way.name}, {way.does}")
        return way


class Way(NamedTuple):
    """One thing that bench does: the option that asks for it, what it does, and the options that it has use for."""

    name: str
    does: str
    takes: Sequence[str]


def option(field: str) -> str:
    """A field of `Asked` as it is typed; --no-write is what is given."""
    return "--no-write" if field == "write" else f"--{field.replace('_', '-')}"


OF_SCENARIO = ("--variant", "--fps", "--minutes", "--qps", "--bound-ms", "--starts", "--feed", "--frames", "--rules",
               "--isa", "--cpus", "--out")  # fmt: skip
OF_DEVICE = ("--folder", "--wheel", "--offline", "--ssh-config")
_TIMED, _SCORED = ("--seconds", "--rounds", "--threads", "--no-write", "--json"), ("--data", "--max-megapixels")
WAYS = (
    Way(
        "--scenario",
        "which measures one bundle here and keeps nothing in it",
        (
            "--scenario",
            *OF_SCENARIO,
            *_SCORED,
            "--seconds",
            "--batch",
            "--threads",
            "--backend",
            "--json",
            "--markdown",
        ),
    ),
    Way(
        "--on",
        "which measures a bundle as it is judged: every variant at batch 1",
        ("--on", *OF_DEVICE, "--seconds", "--rounds", "--evidence", "--no-write", "--json", "--markdown"),
    ),
    Way(
        "--regress",
        "which measures every variant at batch 1 beside the baseline and keeps nothing",
        ("--regress", *_SCORED, "--seconds", "--rounds", "--no-write", "--json"),
    ),
    Way(
        "--python",
        "which compares times and the answers to the golden inputs, and keeps nothing",
        ("--python", *_TIMED),
    ),
)
SEVERAL = Way("several bundles", "of which times are compared, each BUNDLE#PRECISION@BACKEND", (*_TIMED, "--batch"))
PLAIN = Way(
    "one bundle", "", (*_TIMED, *_SCORED, "--batch", "--backend", "--evidence", "--markdown")
)  # fmt: skip
