"""One look for all tables on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def grid(title: str = "", gap: int = 2) -> Table:
    """An empty table; gap: blanks between two columns. Needs rich."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    heading = Text(title, "bold") if title else None
    table = Table(box=box.SIMPLE_HEAD, title=heading, title_justify="left", pad_edge=False, show_edge=False)
    table.padding = (0, gap, 0, 0)
    return table


def add_column(table: Table, name: str, *, right: bool = False) -> None:
    """A column of figures keeps to one line; where there is no room, words take more lines: nothing is cut off."""
    table.add_column(name, justify="right" if right else "left", no_wrap=right, overflow="fold")
