"""How a source ends: one kind out of a table, which says whether trying again can mend it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from edgecv_runtime.errors import BadInput, EdgecvError, SourceUnavailable, Unavailable

Retry = Literal["fast", "slow", "never"]


class Kind(NamedTuple):
    """retry: whether a new connection can mend it; exit_code: of the command line, where nobody tries again."""

    retry: Retry
    exit_code: int


_FAST, _SLOW = Kind("fast", SourceUnavailable.exit_code), Kind("slow", SourceUnavailable.exit_code)
# "slow" is what only a human mends: a wrong password that is tried often gets an account locked.
KINDS: dict[str, Kind] = {
    "end of file": Kind("never", 0),
    "truncated": Kind("never", 0),  # a loss, which the report names
    "hung up": Kind("fast", 0),  # the same, of a camera
    "stopped": Kind("never", 0),
    "lost": _FAST,  # the connection broke
    "stalled": _FAST,
    "crashed": _FAST,  # the process that decodes
    "refused": _FAST,  # nothing listens
    "unreachable": _FAST,
    "no answer": _FAST,
    "unknown host": _FAST,  # at boot, name servers come later than we do
    "no stream": _FAST,  # it answers, but not with a stream: it may still be starting
    "missing": _FAST,  # no such device, or unplugged
    "busy": _FAST,  # another program has it
    "failed": _FAST,  # anything that a library raised
    "wrong password": _SLOW,
    "forbidden": _SLOW,
    "wrong path": _SLOW,
    "no video": _SLOW,  # a stream of sound, or of a codec that nobody here knows
    "no permission": _SLOW,
    "not installed": Kind("never", Unavailable.exit_code),
    "bad input": Kind("never", BadInput.exit_code),
}


@dataclass(frozen=True)
class End:
    """The one ending of a connection.

    kind: one of KINDS; detail: what a human wants to know, in one line, free of passwords.
    damaged: frames or packets that the decoder reported as broken; first_damaged: what was wrong with the first.
    skipped: frames that came after the last shot and were left out, by reason.
    """

    kind: str
    detail: str = ""
    damaged: int = 0
    first_damaged: str | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no kind of ending is called '{self.kind}'; known: {', '.join(KINDS)}")

    @property
    def retry(self) -> Retry:
        """Whether a new connection can mend it."""
        return KINDS[self.kind].retry

    @property
    def exit_code(self) -> int:
        """What the command line returns for it; 0 for what is no error."""
        return KINDS[self.kind].exit_code

    @property
    def early(self) -> bool:
        """It came before all was there that was promised."""
        return self.kind in ("truncated", "hung up")

    def error(self) -> EdgecvError | None:
        """What it is as an exception, None for what is no error."""
        if not self.exit_code:
            return None
        if self.exit_code == BadInput.exit_code:
            return BadInput(self.detail)
        return SourceUnavailable(self.detail, kind=self.kind)


def kind_of(error: Exception) -> str:
    """The kind of ending that an exception means.

    >>> kind_of(SourceUnavailable("no one there", kind="refused"))
    'refused'
    """
    if isinstance(error, SourceUnavailable):
        return error.kind
    if isinstance(error, Unavailable):
        return "not installed"
    return "bad input" if isinstance(error, BadInput) else "failed"
