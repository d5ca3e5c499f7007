"""Read the code blocks of a Markdown page, and what the page's source says of running them, which no reader sees.

`<!-- not run: REASON -->` before a block: it cannot run in CI, for a reason of the table in test_snippets.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w-]*)[^\n]*$")
MARK = re.compile(r"^ *<!-- not run: (?P<reason>.+) -->$")
LANGUAGES = {"python": "python", "py": "python", "sh": "shell", "bash": "shell", "console": "shell"}


@dataclass(frozen=True)
class Snippet:
    """A code block: page, line of its first line, "python", "shell" or "", its text, why it is not run."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str = ""

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def read(page: Path) -> list[Snippet]:
    """All fenced blocks of a page, in order."""
    found: list[Snippet] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    reason = ""
    number = 0
    while number < len(lines):
        opened = FENCE.match(lines[number])
        if opened is None:
            marked = MARK.match(lines[number])
            reason = marked["reason"] if marked else reason if not lines[number].strip() else ""
            number += 1
            continue
        first = number + 1
        number = first
        while number < len(lines) and lines[number].strip() != opened["fence"]:
            number += 1
        if number == len(lines):
            raise ValueError(f"{page}:{first}: the block is not closed")
        text = "\n".join(line.removeprefix(opened["indent"]) for line in lines[first:number])
        found.append(Snippet(page, first + 1, LANGUAGES.get(opened["language"], ""), text, reason))
        reason = ""
        number += 1
    return found
