"""The verb that looks into a network: inspect. Models of the zoo need torch, files do not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecv.cli import cost
from edgecv.cli.output import say, show_json, stdout
from edgecv_runtime.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from edgecv.xray import Graph
    from edgecv.xray.named import Named

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def inspect(
    model: Annotated[str, typer.Argument(metavar="NAME|BUNDLE|FILE.onnx", help="What to look into.")],
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="HxW",
            help="Input size, instead of the model's own; one number: a square, or a signal's length.",
        ),
    ] = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option("--input-shape", metavar="NAME=1x3x224x224", help="Shape of an input that a file leaves open."),
    ] = None,
    variant: Annotated[str, typer.Option(help="Which of a bundle's variants.")] = "float32",
    fold: Annotated[bool, typer.Option("--fold", help="Batch norms folded into convolutions, as deployed.")] = False,
    depth: Annotated[int | None, typer.Option(help="Group layers by so many parts of their names.")] = None,
    top: Annotated[int | None, typer.Option(help="Only the layers with the most MACs.")] = None,
    what_if: Annotated[bool, typer.Option("--what-if", help="What layers would cost if built otherwise.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write one page with the table, what-if rows and pictures.")
    ] = None,
    image: Annotated[Path | None, typer.Option("--image", help="Photograph for the page's feature maps.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Of a model of the zoo, for the page: a known name or a path; fresh by default.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="[FILE]", help="Predict latency: here, or on a device that was surveyed."),
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="With --device: also run it here.")] = False,
    json: Json = False,
) -> None:
    """Show what a network computes: shapes, parameters, MACs, memory and receptive field of every layer."""
    if measure and device is None:
        raise BadInput("--measure holds a prediction against a real run: give --device too")
    for option, value in (("--depth", depth), ("--top", top)):
        if value is not None and value < 1:
            raise BadInput(f"{option} must be at least 1, got {value}")
    if html is None and (image is not None or weights is not None):
        raise BadInput("--image and --weights belong to the page: give --html FILE too")
    try:
        from edgecv import xray
        from edgecv.xray.console import print_changes, print_table
        from edgecv.xray.named import parse

        shapes = dict(_named_shape(text) for text in input_shape or [])
        named = parse(model, variant)
        graph = xray.read(named, size=_numbers(size, "--size"), input_shapes=shapes)
    except ImportError as exc:
        raise Unavailable(f"this command needs {exc.name}", extra="export") from exc
    if html is not None:
        _page(named, graph, html, image=image, weights=weights)
    table = xray.table(xray.fold(graph) if fold else graph)
    changes = xray.what_if(table) if what_if else []
    forecasts = cost.forecast(graph, device, named, measure=measure) if device else []
    if json:
        facts = {"table": table, **({"what_if": changes} if what_if else {})}
        show_json(facts | ({"device": forecasts} if device else {}))
        return
    print_table(table, stdout, depth=depth, top=top)
    if what_if:
        shown = {row.name for row in sorted(table.rows, key=lambda row: -row.macs)[: top or 10]}
        pools = {each.layer for each in changes if each.macs == 0}
        print_changes([each for each in changes if each.layer in shown | pools], stdout)
    cost.print_forecasts(forecasts, top)


def _page(named: Named, graph: Graph, html: Path, *, image: Path | None, weights: str | None) -> None:
    try:
        from edgecv.xray import page, subjects
    except ImportError as exc:
        raise Unavailable(f"the page needs {exc.name}", extra="export") from exc
    with subjects.opened(named, graph, weights=weights, image=image) as subject:
        page.write(subject, html, say=say)
    say(f"page: {html.absolute()}")


def _named_shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, sign, shape = text.rpartition("=")
    numbers = _numbers(shape, "--input-shape")
    if not sign or not numbers:
        raise BadInput(f"--input-shape is NAME=1x3x224x224, got '{text}'")
    return name, numbers


def _numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    """Sizes such as 224x224."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise BadInput(f"{option} is made of whole numbers of at least 1, such as 224x224; got '{text}'")
    return tuple(int(part) for part in parts)
