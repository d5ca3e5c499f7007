"""The results table on a terminal: two lines a row, laid out for the width there is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgecv.grid import grid
from edgecv_runtime.bench import table
from edgecv_runtime.bench.table import Row

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

# Columns as (upper, lower) name; the lower is empty where the detail of the upper stands below it.
Layout = list[tuple[str, str]]
_STACKED = {"variant": "backend", "p90 ms": "p99 ms", "per s": "frame ms", "file MB": "memory MB"}
_DISPENSABLE = (
    "agreement",
    "load ms",
    "file MB",
    "of float32",
    "p90 ms",
    "per s",
)  # in this order, where the terminal is too narrow


def print_table(rows: Sequence[Row], console: Console) -> None:
    """Print one table per bundle and machine: every column of its own where there is room, else stacked in pairs.

    The fastest row that is offered stands out; under the table stand the reasons why rows are not offered, how it was
    measured, and the columns for which there was no room.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.bundle, row.machine or "not measured"), []).append(row)
    for number, ((bundle, machine), group) in enumerate(groups.items()):
        if number:
            console.print()
        _print_group(f"{bundle} · {machine}", group, console)


def _print_group(title: str, rows: list[Row], console: Console) -> None:
    from rich.text import Text

    grid, left_out = _fitting(title, rows, console)
    console.print(grid)
    for row in rows:
        if not row.offered:
            console.print(Text.assemble((f"{row.target}: ", "yellow"), row.why_not))
    for note in table.notes(rows):
        console.print(Text(note, "dim"))
    if left_out:
        console.print(Text(f"No room here for: {', '.join(left_out)}.", "dim"))


def _fitting(title: str, rows: list[Row], console: Console) -> tuple[Table, list[str]]:
    """The first layout that is not wider than the console, and the names of the columns that it leaves out."""
    from rich.measure import Measurement

    names = [name for name in table.columns(rows) if name != "bundle"]
    for layout in _layouts(names):
        grid = _grid(title, rows, layout)
        if Measurement.get(console, console.options.update(max_width=1000), grid).maximum <= console.width:
            break
    shown = {name for stack in layout for name in stack}
    return grid, [name for name in names if name not in shown]


def _layouts(names: list[str]) -> Iterator[Layout]:
    """Layouts from the widest to the narrowest."""
    yield [(name, "") for name in names]
    below = {upper: lower for upper, lower in _STACKED.items() if upper in names and lower in names}
    stacked = [(name, below.get(name, "")) for name in names if name not in below.values()]
    yield stacked
    for name in _DISPENSABLE:
        if name == "agreement" and "drop, points" not in names:
            continue  # nothing was scored: agreement tells the most
        stacked = [stack for stack in stacked if stack[0] != name]
        yield stacked


def _grid(title: str, rows: list[Row], layout: Layout) -> Table:
    from rich.text import Text

    filled = grid(title, gap=1)
    for upper, lower in layout:
        head = f"{upper}\n{lower}" if lower else upper.replace(" ", "\n")
        filled.add_column(Text(head), justify="left" if upper in table.WORDS else "right", no_wrap=True)
    best = table.fastest(rows)
    for row in rows:
        style = "bold green" if row is best else "" if row.offered else "dim"
        filled.add_row(*(_cell(row, upper, lower) for upper, lower in layout), style=style)
    return filled


def _cell(row: Row, upper: str, lower: str) -> Text:
    """Two lines of a cell; a detail is dim. The reasons of "offered" are long and stand below the table."""
    from rich.text import Text

    main, detail = table.COLUMNS[upper](row)
    if lower:
        return Text(f"{main}\n{table.COLUMNS[lower](row)[0]}")
    return Text(main) if upper == "offered" or not detail else Text.assemble(main, "\n", (detail, "dim"))
