"""A page as data: its lines, and its tables with numbers where a cell holds one, from which it is written again.

A cell `1.148 (1.000–1.446)` is a Figure: value 1.148, low 1, high 1.446, and the form in which the page writes them.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

Number = int | float
MINUS = "−"  # some pages write it, others a hyphen
UNSIGNED = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[-+]\d+)?"
NUMBER = rf"(?<![\w.,:/-])[-+{MINUS}]?{UNSIGNED}(?=x?(?!\w))(?![.:/-]\d)"
INTERVAL = re.compile(rf"({NUMBER}) ?%? \(({NUMBER})%?(?:–| to )({NUMBER})%?\)")
RULE = re.compile(r"\|(?: ---:? \|)+")


class Figure(msgspec.Struct, frozen=True, omit_defaults=True):
    """A cell with a number.

    value: its first number, or that which has an interval. low, high: the interval. more: its other numbers.
    form: the cell's text with a field of `str.format` for each of them.
    """

    form: str
    value: Number
    low: Number | None = None
    high: Number | None = None
    more: tuple[Number, ...] = ()

    def __str__(self) -> str:
        named = {"value": self.value, "low": self.low, "high": self.high, "more": self.more}
        return _Numbers().vformat(self.form, (), named)


Cell = str | Number | Figure  # a bare number is written as Python writes it


class Column(msgspec.Struct, frozen=True):
    """A column: its heading, and whether its cells stand at the right."""

    name: str
    right: bool = False


class Table(msgspec.Struct, frozen=True):
    """A table: one cell of each row for each column."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


Block = str | Table  # a line of text, or a table


def read(lines: Iterable[str]) -> list[Block]:
    """The blocks of a page's lines; `write` gives the lines back."""
    found: list[Block] = []
    rest = [line for each in lines for line in each.split("\n")]
    while rest:
        if len(rest) > 1 and rest[0].startswith("|") and RULE.fullmatch(rest[1]):
            rows = [rest.pop(0)]
            while rest and rest[0].startswith("|"):
                rows.append(rest.pop(0))
            found.append(_table(rows))
        else:
            found.append(rest.pop(0))
    return found


def write(blocks: Iterable[Block]) -> list[str]:
    """The lines of a page."""
    return [line for block in blocks for line in ([block] if isinstance(block, str) else _lines(block))]


def number(cell: Cell, part: int = 0) -> Number | None:
    """The cell's number; part: which of them, 0 is the value; None where it has none."""
    if isinstance(cell, Figure) and part:
        return cell.more[part - 1] if part <= len(cell.more) else None
    if isinstance(cell, Figure):
        return cell.value
    return cell if isinstance(cell, int | float) and not part else None


def _table(lines: Sequence[str]) -> Table:
    names, rule, *rows = ([each.strip() for each in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines)
    columns = tuple(Column(name, mark.endswith(":")) for name, mark in zip(names, rule, strict=True))
    read_columns = [_column(cells) for cells in zip(*rows, strict=True)]
    return Table(columns, tuple(zip(*read_columns, strict=True)))


def _column(texts: Sequence[str]) -> list[Cell]:
    """A column's cells: text, unless at least half of those that are filled are figures."""
    cells = [cell(text) for text in texts]
    filled = sum(text != "" for text in texts)
    figures = sum(not isinstance(each, str) for each in cells)
    return cells if figures * 2 >= filled else list(texts)


def cell(text: str) -> Cell:
    """A cell with its numbers: those of a text that begins with one, or that has one with an interval."""
    spans = {found.span(): found.group() for found in re.finditer(NUMBER, text)}
    interval = INTERVAL.search(text)
    if not spans or not (interval or min(spans)[0] == len(text) - len(text.lstrip("*~"))):
        return text
    named = {interval.span(1): "value", interval.span(2): "low", interval.span(3): "high"} if interval else {}
    named = named or {min(spans): "value"}
    values: dict[str, Number] = {}
    more: list[Number] = []
    form, end = "", 0
    for span, digits in spans.items():
        value, spec = _number(digits)
        if span in named:
            values[named[span]] = value
            field = named[span]
        else:
            field = f"more[{len(more)}]"
            more.append(value)
        form += _escaped(text[end : span[0]]) + (f"{{{field}:{spec}}}" if spec else f"{{{field}}}")
        end = span[1]
    figure = Figure(form + _escaped(text[end:]), more=tuple(more), **values)
    if str(figure) != text:
        return text
    return figure.value if figure.form == "{value}" else figure


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _number(digits: str) -> tuple[Number, str]:
    """A number, and the format by which it is written so."""
    plain = digits.replace(",", "").replace(MINUS, "-")
    value: Number = float(plain) if re.search(r"[.e]", plain) else int(plain)
    places = len(plain.split("e")[0].partition(".")[2])
    signed = MINUS if MINUS in digits else "+" if digits.startswith("+") else ""
    for spec in ("", ",", f".{places}f", f",.{places}f", f".{places}e"):
        if _Numbers().format_field(value, signed + spec) == digits:
            return value, signed + spec
    return value, ""  # the cell stays text


class _Numbers(string.Formatter):
    """Formats as `str.format`; a format that begins with the sign of minus writes that for a hyphen."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec.startswith(MINUS):
            return str(super().format_field(value, format_spec[1:])).replace("-", MINUS, 1)
        return str(super().format_field(value, format_spec))


def _lines(table: Table) -> Iterator[str]:
    yield _row(column.name for column in table.columns)
    yield _row("---:" if column.right else "---" for column in table.columns)
    yield from (_row(map(str, row)) for row in table.rows)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
