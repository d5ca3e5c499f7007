"""What tasks share when they draw results on frames."""

from __future__ import annotations


def printable(text: str) -> str:
    """Text in the characters that OpenCV's fonts have; others become '?'."""
    return text.encode("ascii", "replace").decode()
