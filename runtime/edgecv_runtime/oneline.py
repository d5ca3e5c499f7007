"""Texts of others as one line: a name, or what a camera says of itself, moves no cursor and forges no second line."""

from __future__ import annotations


def one_line(text: str) -> str:
    r"""With what cannot be printed escaped, as Python does.

    >>> one_line("yard\nall is well\x1b[2J")
    'yard\\nall is well\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
