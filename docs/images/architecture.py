"""Draw docs/images/architecture.svg: the three packages and their parts, from the imports of the code itself.

    python docs/images/architecture.py

An arrow points to what is imported. Inside a package an arrow is left out where a longer way shows the same; between
packages one arrow stands for all, with the number of modules at both ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

import grimp

PACKAGES = {
    "edgecv": "models, data, training, inspection, command line; with torch",
    "edgecv_export": "PyTorch to ONNX, parity, int8",
    "edgecv_runtime": "bundles, backends, tasks, streams, measuring; without torch",
}
WIDTH, MARGIN, BOX, GAP, ROW = 920, 24, (104, 36), 24, 66
COLOURS = {"edgecv": "#dbe9fb", "edgecv_export": "#e5f3df", "edgecv_runtime": "#fdebd3"}
CHARACTER = 6.6  # pixels of one at 12 pixels, about


def ranks(nodes: Iterable[str], edges: set[tuple[str, str]]) -> dict[str, int]:
    """Row of each part: below everything that imports it; circles are broken where they close."""
    rank: dict[str, int] = {}

    def depth(node: str, seen: tuple[str, ...]) -> int:
        if node not in rank:
            above = [first for first, second in edges if second == node and first not in seen]
            rank[node] = max((depth(each, (*seen, node)) + 1 for each in above), default=0)
        return rank[node]

    for node in nodes:
        depth(node, (node,))
    return rank


def reduced(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Without the arrows that a longer way shows, too."""

    def reachable(start: str, end: str, without: tuple[str, str], seen: frozenset[str] = frozenset()) -> bool:
        following = [second for first, second in edges if first == start and (first, second) != without]
        return end in following or any(
            reachable(each, end, without, seen | {each}) for each in following if each not in seen
        )

    return {edge for edge in edges if not reachable(*edge, without=edge)}


def wrapped(words: list[str], width: int) -> Iterator[str]:
    line = ""
    for word in words:
        if line and len(line) + len(word) + 2 > width / CHARACTER:
            yield line + ","
            line = word
        else:
            line = f"{line}, {word}" if line else word
    yield line


class Picture:
    """SVG text, from the top down."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.y = MARGIN

    def text(self, x: float, y: float, words: str, style: str = "") -> None:
        self.parts.append(f'<text x="{x:.0f}" y="{y:.0f}" {style}>{escape(words)}</text>')

    def package(self, name: str, graph: grimp.ImportGraph) -> None:
        """One frame: its parts by rank with arrows between them, then the names of its single modules."""
        children = sorted(graph.find_children(name))
        parts = [child for child in children if graph.find_children(child)]
        single = [child.rpartition(".")[2] for child in children if child not in parts]
        edges = {
            (first, second) for first in parts for second in parts if first != second and imports(graph, first, second)
        }
        rank = ranks(parts, edges)
        rows = [[part for part in parts if rank[part] == level] for level in range(max(rank.values(), default=-1) + 1)]
        top = self.y
        at: dict[str, tuple[float, float]] = {}
        body: list[str] = []
        y = top + 52
        for row in rows:
            left = (WIDTH - len(row) * BOX[0] - (len(row) - 1) * GAP) / 2
            for index, part in enumerate(row):
                at[part] = (left + index * (BOX[0] + GAP), y)
            y += ROW
        for first, second in sorted(reduced(edges)):
            (x1, y1), (x2, y2) = at[first], at[second]
            start, end = (x1 + BOX[0] / 2, y1 + BOX[1]), (x2 + BOX[0] / 2, y2 - 2)
            middle = (start[1] + end[1]) / 2
            body.append(
                f'<path d="M{start[0]:.0f},{start[1]:.0f} C{start[0]:.0f},{middle:.0f} {end[0]:.0f},{middle:.0f} '
                f'{end[0]:.0f},{end[1]:.0f}" class="arrow"/>'
            )
        for part, (x, top_of_box) in at.items():
            count = len(graph.find_descendants(part)) + 1
            body.append(f'<rect x="{x:.0f}" y="{top_of_box:.0f}" width="{BOX[0]}" height="{BOX[1]}" class="part"/>')
            body.append(
                f'<text x="{x + BOX[0] / 2:.0f}" y="{top_of_box + 15:.0f}" class="name">{part.split(".")[-1]}</text>'
                f'<text x="{x + BOX[0] / 2:.0f}" y="{top_of_box + 29:.0f}" class="small">{count} modules</text>'
            )
        y += 0 if rows else 8
        for line in wrapped(single, WIDTH - 4 * MARGIN):
            body.append(f'<text x="{2 * MARGIN}" y="{y:.0f}" class="modules">{escape(line)}</text>')
            y += 17
        self.parts.append(
            f'<rect x="{MARGIN}" y="{top}" width="{WIDTH - 2 * MARGIN}" height="{y - top + 2:.0f}" rx="8" '
            f'fill="{COLOURS[name]}" stroke="#8a94a0"/>'
        )
        self.text(2 * MARGIN - 8, top + 24, name, 'class="title"')
        self.text(2 * MARGIN + 10.2 * len(name), top + 24, PACKAGES[name], 'class="modules"')
        self.parts += body
        self.y = round(y + 2)

    def between(self, first: str, seconds: list[tuple[str, int, int]]) -> None:
        """The arrow from one package to those below it."""
        step = 46
        x = WIDTH / 2
        self.parts.append(f'<path d="M{x:.0f},{self.y} L{x:.0f},{self.y + step - 3}" class="arrow thick"/>')
        for line, (second, users, used) in enumerate(seconds):
            words = f"{users} modules of {first} import {used} of {second}"
            self.text(x + 14, self.y + 20 + 15 * line, words, 'class="modules"')
        self.y += step

    def svg(self) -> str:
        style = (
            "text{font:12px system-ui,sans-serif;fill:#1d2730}.title{font-weight:700;font-size:16px}"
            ".name{text-anchor:middle;font-weight:600}.small{text-anchor:middle;font-size:10.5px;fill:#52606d}"
            ".modules{fill:#3a4753}.part{fill:#fff;stroke:#8a94a0;rx:5px}"
            ".arrow{fill:none;stroke:#5b6875;stroke-width:1.2;marker-end:url(#head)}.thick{stroke-width:2}"
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.y + MARGIN}" role="img" '
            f'aria-label="The three packages of edgecv and their imports"><style>{style}</style><defs>'
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0,0 L8,4 L0,8 z" fill="#5b6875"/></marker></defs>'
            f'<rect width="{WIDTH}" height="{self.y + MARGIN}" fill="#fff"/>' + "\n".join(self.parts) + "</svg>\n"
        )


def imports(graph: grimp.ImportGraph, first: str, second: str) -> set[tuple[str, str]]:
    """Pairs of modules, the first at or below one name, that import the second at or below another."""
    users = {first} | graph.find_descendants(first)
    used = {second} | graph.find_descendants(second)
    return {(user, each) for user in users for each in graph.find_modules_directly_imported_by(user) & used}


def draw() -> str:
    """The picture of the code as it is installed now."""
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True)
    picture = Picture()
    names = list(PACKAGES)
    for index, name in enumerate(names):
        picture.package(name, graph)
        below = [
            (other, len({user for user, _ in pairs}), len({used for _, used in pairs}))
            for other in names[index + 1 :]
            if (pairs := imports(graph, name, other))
        ]
        if below:
            picture.between(name, below)
    return picture.svg()


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw(), encoding="utf-8")
