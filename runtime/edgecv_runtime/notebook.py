"""How results show themselves in a notebook: small tables in HTML, all text escaped, nothing fetched, no script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

_CELL = "padding:2px 12px 2px 0;vertical-align:top;text-align:"
_BAR = "display:inline-block;height:0.6em;background:#4a90d9;border-radius:2px;width:"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """A table with one line of heads; numbers are set to the right."""
    lines = ["".join(_cell(head, "th") for head in heads)] if heads else []
    lines += ["".join(_cell(value, "td", right=isinstance(value, int | float)) for value in row) for row in rows]
    top = f'<caption style="text-align:left;font-weight:600">{escape(caption)}</caption>' if caption else ""
    return f"<table>{top}{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def facts(known: Mapping[str, object], caption: str = "") -> str:
    """Names and values, one a line."""
    return table((), known.items(), caption)


def shares(ranked: Iterable[tuple[str, float]]) -> str:
    """Labels with shares of 0 to 1 and a bar each."""
    lines = [
        f"<tr>{_cell(label, 'td')}{_cell(f'{share:.1%}', 'td', right=True)}"
        f'<td style="width:12em"><span style="{_BAR}{100 * min(max(share, 0), 1):.1f}%"></span></td></tr>'
        for label, share in ranked
    ]
    return f"<table>{''.join(lines)}</table>"


def _cell(value: object, tag: str, right: bool = False) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return f'<{tag} style="{_CELL}{"right" if right else "left"}">{escape(text)}</{tag}>'


class Explanation(str):
    """Lines of text that a notebook shows as a list, the first of them as what they explain."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        first, *rest = self.splitlines() or [""]
        items = "".join(f"<li>{escape(line)}</li>" for line in rest)
        return f"<p>{escape(first)}</p>" + (f"<ul>{items}</ul>" if items else "")
