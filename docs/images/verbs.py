"""Draw docs/images/verbs.svg: the verbs of the command line in the order of their use, each with its own help line.

python docs/images/verbs.py
"""

from __future__ import annotations

import textwrap
from html import escape
from pathlib import Path

import typer.main

from edgecv.cli.app import app

# Where a verb runs, and what it hands on to the next.
ORDER = (
    ("build", "workstation", "a bundle and a report"),
    ("verify", "device", "PyTorch's outputs, or a fault"),
    ("bench", "device", "what may be offered here"),
    ("tune", "device", "threads, streams, batch"),
    ("predict", "device", "labels of files"),
    ("stream", "device", "labels of cameras and clips"),
)
COLOURS = {"workstation": "#dbe9fb", "device": "#fdebd3"}
WIDTH, BOX, GAP, MARGIN = 620, (272, 112), 36, 20
COLUMNS = 2


def help_line(verb: str) -> str:
    """The first sentence of a verb's help, as `edgecv VERB --help` says it."""
    command = typer.main.get_command(app)
    text = command.commands[verb].help or ""  # type: ignore[attr-defined]
    return text.strip().split("\n\n")[0].replace("\n", " ").split(": ")[0].rstrip(".")


def draw() -> str:
    """Rows of two, an arrow from each verb to the next."""
    parts = []
    for index, (verb, where, gives) in enumerate(ORDER):
        row, column = divmod(index, COLUMNS)
        x = MARGIN + column * (BOX[0] + GAP)
        y = MARGIN + row * (BOX[1] + 44)
        parts.append(
            f'<rect x="{x}" y="{y}" width="{BOX[0]}" height="{BOX[1]}" rx="8" '
            f'fill="{COLOURS[where]}" stroke="#8a94a0"/>'
            f'<text x="{x + 14}" y="{y + 26}" class="verb">edgecv {verb}</text>'
            f'<text x="{x + BOX[0] - 12}" y="{y + 24}" class="where">{where}</text>'
        )
        lines = textwrap.wrap(help_line(verb), 37)[:3]
        parts += [
            f'<text x="{x + 14}" y="{y + 48 + 16 * number}">{escape(line)}</text>' for number, line in enumerate(lines)
        ]
        parts.append(f'<text x="{x + 14}" y="{y + BOX[1] - 10}" class="gives">gives {escape(gives)}</text>')
        if index + 1 == len(ORDER):
            continue
        middle = y + BOX[1] / 2
        if column + 1 < COLUMNS:
            path = f"M{x + BOX[0]},{middle} H{x + BOX[0] + GAP - 3}"
        else:
            low = y + BOX[1] + 22
            path = f"M{x + BOX[0] / 2},{y + BOX[1]} V{low} H{MARGIN + BOX[0] / 2} V{y + BOX[1] + 41}"
        parts.append(f'<path d="{path}" class="arrow"/>')
    rows = -(-len(ORDER) // COLUMNS)
    height = 2 * MARGIN + rows * BOX[1] + (rows - 1) * 44
    style = (
        "text{font:12px system-ui,sans-serif;fill:#1d2730}.verb{font:700 15px ui-monospace,monospace}"
        ".where{text-anchor:end;font-size:11px;fill:#52606d}.gives{font-style:italic;fill:#3a4753}"
        ".arrow{fill:none;stroke:#5b6875;stroke-width:1.6;marker-end:url(#head)}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="The order of the verbs: {", ".join(verb for verb, _, _ in ORDER)}"><style>{style}</style><defs>'
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#5b6875"/></marker></defs>'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>' + "\n".join(parts) + "</svg>\n"
    )


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw(), encoding="utf-8")
