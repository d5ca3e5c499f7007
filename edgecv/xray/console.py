"""The X-ray on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from edgecv.grid import add_column, grid
from edgecv.xray.fields import Field
from edgecv.xray.groups import Group, grouped
from edgecv.xray.relations import arithmetic_intensity
from edgecv.xray.rows import Row, Table, moved_bytes
from edgecv.xray.whatif import Change

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid


def print_table(table: Table, console: Console, *, depth: int | None = None, top: int | None = None) -> None:
    """Print layers and totals.

    depth: parts of the layers' names by which they are grouped; None takes the largest that fits a screen. top: only
    the layers with the most MACs, ungrouped.
    """
    from rich.text import Text

    groups, used = grouped(table, depth)
    if top is not None:
        costly = sorted(table.rows, key=lambda row: -row.macs)[:top]
        groups = [Group(row.name, (row,)) for row in table.rows if any(row is each for each in costly)]
    fitting, left_out = _fitting(table, groups, console)
    console.print(fitting)
    for line in totals(table):
        console.print(line, soft_wrap=True)
    notes = []
    if top is not None:
        notes.append(f"the {len(groups)} of {len(table.rows)} layers with the most MACs")
    elif len(groups) < len(table.rows):
        notes.append(f"{len(table.rows)} layers in groups of depth {used}; --depth {used + 1} shows more")
    if left_out:
        notes.append(f"no room here for: {', '.join(left_out)}")
    if notes:
        console.print(Text("; ".join(notes), "dim"), soft_wrap=True)


def print_changes(changes: Sequence[Change], console: Console) -> None:
    """Print what-if rows: before, after, and how many times as much."""
    if not changes:
        console.print("what if: no convolution or strided pooling here that could be built otherwise")
        return
    found = grid("what if", gap=1)
    for name in ("layer", "instead", "parameters", "then", "", "MACs", "then", ""):
        add_column(found, name, right=name not in ("layer", "instead"))
    for each in changes:
        found.add_row(
            each.layer, each.change, count_text(each.parameters), count_text(each.parameters_after),
            times(each.parameters, each.parameters_after), count_text(each.macs), count_text(each.macs_after),
            times(each.macs, each.macs_after),
        )  # fmt: skip
    console.print(found)


class _Column(NamedTuple):
    name: str
    right: bool
    needed: int  # the smaller, the earlier it goes where there is no room


_COLUMNS = (
    _Column("layer", False, 9),
    _Column("kind", False, 8),
    _Column("window", False, 6),
    _Column("input", False, 1),
    _Column("output", False, 7),
    _Column("parameters", True, 9),
    _Column("MACs", True, 9),
    _Column("share", True, 4),
    _Column("weights", True, 2),
    _Column("activations", True, 5),
    _Column("op/byte", True, 3),
    _Column("field", False, 7),
    _Column("jump", False, 0),
    _Column("centre", False, 0),
)


def _fitting(table: Table, groups: Sequence[Group], console: Console) -> tuple[Grid, list[str]]:
    """The widest layout that the console has room for, and the columns that it leaves out."""
    from rich.measure import Measurement

    columns = list(_COLUMNS)
    while True:
        found = _grid(table, groups, columns)
        wide = Measurement.get(console, console.options.update(max_width=1000), found).maximum
        fits = wide <= console.width
        if fits or all(column.needed > 6 for column in columns):
            found.padding = (0, 2 if fits else 1, 0, 0)
            return found, [column.name for column in _COLUMNS if column not in columns]
        columns.remove(min(columns, key=lambda column: column.needed))


def _grid(table: Table, groups: Sequence[Group], columns: Sequence[_Column]) -> Grid:
    filled = grid(f"{table.name} · {_shape(table.input_shape)}")
    for column in columns:
        add_column(filled, column.name, right=column.right)
    for group in groups:
        found = cells(table, group)
        filled.add_row(*(found[column.name] for column in columns))
    return filled


def cells(table: Table, group: Group) -> dict[str, str]:
    first, last = group.rows[0], group.last
    macs = sum(row.macs for row in group.rows)
    return {
        "layer": group.name,
        "kind": group.kind,
        "window": _window(last) if len(group.rows) == 1 else "",
        "input": _shape(first.input_shape[1:]),
        "output": _shape(last.output_shape[1:]),
        "parameters": count_text(sum(row.parameters for row in group.rows)),
        "MACs": count_text(macs),
        "share": f"{macs / table.total.macs:.1%}" if macs else "",
        "weights": size_in_bytes(sum(row.weight_bytes for row in group.rows)),
        "activations": size_in_bytes(sum(row.activation_bytes for row in group.rows)),
        "op/byte": f"{arithmetic_intensity(macs, moved_bytes(group.rows)):.1f}" if macs else "",
        "field": field_text(last.field),
        "jump": _sizes(last.field.jump) if last.field and max(last.field.jump) > 0 else "",
        "centre": _sizes(last.field.centre) if last.field and max(last.field.jump) > 0 else "",
    }


def totals(table: Table) -> list[str]:
    total = table.total
    lines = [
        f"total: {total.parameters:,} parameters, {total.macs:,} MACs, {total.layers} layers; "
        f"weights {size_in_bytes(total.weight_bytes) or 'none'}, "
        f"all activations {size_in_bytes(total.activation_bytes)}, {total.intensity:.1f} operations per byte",
        f"peak activation memory: {size_in_bytes(total.peak_bytes)}, "
        f"{size_in_bytes(total.peak_inplace_bytes)} where layers work in place; "
        f"receptive field: {field_text(total.field)}",
    ]
    if total.idle_parameters:
        lines.append(f"never used in inference: {total.idle_parameters:,} parameters")
    if total.uncounted:
        known = ", ".join(f"{count} {op}" for op, count in sorted(total.uncounted.items()))
        lines.append(f"counted with 0 MACs, because their cost is not known: {known}")
    return lines


def field_text(field: Field | None) -> str:
    """A receptive field in words: "11x11", "whole", or both where windows see less than some other path."""
    if field is None:
        return ""
    size = _sizes(field.size)
    if not field.whole:
        return size
    return f"{size}, whole" if max(field.jump) > 0 else "whole"


def _window(row: Row) -> str:
    """Kernel, and what is not the usual: "3x3 /2 pad 1 dil 2 g 32"."""
    if not row.kernel:
        return ""
    text = _sizes(row.kernel)
    if set(row.stride) != {1}:
        text += f" /{_one(row.stride)}"
    if any(pair != (0, 0) for pair in row.padding):
        sides = {side for pair in row.padding for side in pair}
        text += f" pad {sides.pop()}" if len(sides) == 1 else " pad " + ",".join(f"{a}+{b}" for a, b in row.padding)
    if set(row.dilation) != {1}:
        text += f" dil {_one(row.dilation)}"
    return text if row.groups == 1 else f"{text} g {row.groups}"


def _one(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(set(numbers)) == 1 else "x".join(map(str, numbers))


def _sizes(numbers: Sequence[float]) -> str:
    return "x".join(f"{number:g}" for number in numbers)


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def count_text(number: float) -> str:
    """A count in three digits: 138 M."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number / size < 999.5 else f"{number / size:.0f} {unit}"
    return f"{number:.0f}" if number else ""


def size_in_bytes(number: float) -> str:
    return f"{count_text(number)}B" if number >= 1000 else f"{number:.0f} B" if number else ""


def times(before: float, after: float) -> str:
    if not before:
        return ""
    return f"{after / before:.2g}x" if after < 100 * before else f"{after / before:,.0f}x"
