"""Layers by the modules that they belong to, so that a deep network fits on a screen."""

from __future__ import annotations

from edgecv.xray.extent import Shape
from edgecv.xray.grid import grid
from edgecv.xray.rows import Row, Table
from edgecv_runtime.records import Record

SCREEN = 40  # rows that are still read


class Group(Record, frozen=True):
    """Neighbouring layers below one module: sums, and shape and field of the last."""

    name: str
    rows: tuple[Row, ...]

    @property
    def last(self) -> Row:
        """The layer that ends the group."""
        return self.rows[-1]

    @property
    def kind(self) -> str:
        """What the group is: the layer's kind, or how many there are."""
        return self.last.kind if len(self.rows) == 1 else f"{len(self.rows)} layers"


def grouped(table: Table, depth: int | None = None, screen: int = SCREEN) -> tuple[list[Group], int]:
    """Group a table's rows by the first `depth` parts of their names; returns the groups and the depth.

    depth: None takes the largest that gives at most `screen` groups.
    """
    deepest = max((len(parts(row.name)) for row in table.rows), default=1)
    if depth is not None:
        return _groups(table, depth), depth
    for tried in range(deepest, 1, -1):
        groups = _groups(table, tried)
        if len(groups) <= screen:
            return groups, tried
    return _groups(table, 1), 1


def by_resolution(table: Table) -> list[Group]:
    """Group the rows of a table whose names say nothing, by the size of the maps that they give.

    Rows without maps of their own, such as those of a gate, belong to the rows before them.
    """
    found: list[tuple[str, list[Row]]] = []
    size = table.input_shape[2:]
    for row in table.rows:
        maps = _maps(row, size)
        name = f"at {maps[1]}x{maps[0]}" if maps else found[-1][0] if found else "input"
        if not found or found[-1][0] != name:
            found.append((name, []))
        found[-1][1].append(row)
    return [Group(name, tuple(rows)) for name, rows in found]


def _maps(row: Row, size: Shape) -> tuple[int, int] | None:
    """Height and width of the maps that a row gives: windows may shrink one side more than the other."""
    if row.kernel and len(row.output_shape) == 4:
        height, width = row.output_shape[2:]
        return (height, width) if max(height, width) > 1 else None
    place = grid(row.output_shape, size)
    return (place.rows, place.columns) if place else None


def parts(name: str) -> list[str]:
    """Parts of a layer's name, by "/" where it has any, else by "."."""
    return name.split("/") if "/" in name else name.split(".")


def _groups(table: Table, depth: int) -> list[Group]:
    groups: list[tuple[list[str], list[Row]]] = []
    for row in table.rows:
        key = parts(row.name)[:depth]
        if groups and groups[-1][0] == key:
            groups[-1][1].append(row)
        else:
            groups.append((key, [row]))
    return [
        Group(rows[0].name if len(rows) == 1 else ("/" if "/" in rows[0].name else ".").join(key), tuple(rows))
        for key, rows in groups
    ]
