"""Every error that edgecv raises: one line that says what, where, what was expected and how to mend it.

`exit_code` is what the command line returns for it; the table stands in docs/cli.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_LISTED = 24  # names that are read in one line


class EdgecvError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 5
    # Whether it came up in what outputs are compared with, the reference or the truths, and not in the outputs.
    of_reference = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process whole: with all attributes, whatever arguments the class takes."""
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[EdgecvError], args: tuple[object, ...], attributes: Mapping[str, object]) -> EdgecvError:
    error = Exception.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class BadInput(EdgecvError, ValueError):
    """What the user gave cannot be used; nothing was changed."""

    exit_code = 2


class BundleError(BadInput):
    """A bundle is altered, incomplete or of another schema."""


class ModelFileError(BadInput):
    """A model file is not what it claims to be."""


class ShapeError(BadInput):
    """A tensor or frame has another dtype, rank or size than the model wants."""


class ImageError(BadInput):
    """An image cannot be decoded completely."""


class DatasetError(BadInput):
    """A data set cannot be trained on as it is."""


class Unavailable(EdgecvError):
    """Something outside edgecv is not there: a source, a package, a device.

    extra: the extra of edgecv that brings it; the message then ends in the command that installs it. The command is
    made when the message is read: a backend that is left out for another costs a start nothing.
    """

    exit_code = 3

    def __init__(self, message: str = "", *, extra: str = "") -> None:
        super().__init__(message)
        self.extra = extra

    def __str__(self) -> str:
        message = super().__str__()
        if not self.extra:
            return message
        from edgecv_runtime import install

        return f"{message}: {install.command(self.extra)}"


class BackendUnavailable(Unavailable):
    """A backend is not installed or cannot serve this device; the message names the cure."""


class SourceUnavailable(Unavailable):
    """A camera, file or stream cannot be opened, or stops.

    kind: what it is in one of the words of `stream.ending.KINDS`, as "refused", "stalled" or "wrong password".
    """

    def __init__(self, message: str = "", *, kind: str = "failed", extra: str = "") -> None:
        super().__init__(message, extra=extra)
        self.kind = kind


class NoMemory(Unavailable, MemoryError):
    """There is not enough memory for what was asked."""


class ComputationError(EdgecvError):
    """The computation itself failed."""


class ParityError(ComputationError):
    """Two computations that must agree do not."""


class InvalidOutput(ComputationError):
    """A model gave NaN or infinite values; they are never turned into a label.

    frames: which of those that were compared, by index, where that is known.
    """

    frames: tuple[int, ...] = ()


class Closed(EdgecvError, RuntimeError):
    """A model or stream was used after it was closed."""


def nearest(word: str, known: Iterable[str], most: int = 3) -> str:
    """Say which known names are near `word`, at most so many: "; did you mean 'x'?" or what there is.

    >>> nearest("epohcs", ["epochs", "batch"])
    "; did you mean 'epochs'?"
    """
    import difflib

    known = list(known)
    near = difflib.get_close_matches(word, known, n=most, cutoff=0.6)
    if near:
        return f"; did you mean {' or '.join(repr(name) for name in near)}?"
    if len(known) > _LISTED:
        near = difflib.get_close_matches(word, known, n=most, cutoff=0.0)
        return f"; the nearest of {len(known)} names: {', '.join(near)}"
    return f"; known: {', '.join(known)}" if known else ""
