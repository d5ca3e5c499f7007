"""What a process of ours says beside its answers: kept for the case that it ends, never in its way."""

from __future__ import annotations

import os
import threading
from typing import IO

LONGEST = 400  # characters of a line that people are shown, cut when its passwords are hidden
_MOST = 100_000  # bytes; some libraries report with every call


class LastWords:
    """The end of what a process writes to a pipe, read by a thread of its own: a full pipe would stop the process.

    text: so far, bytes.
    """

    def __init__(self, pipe: IO[bytes] | None) -> None:
        """pipe: of `subprocess.Popen`, closed here when all is read."""
        assert pipe is not None
        self.text = b""
        self._pipe = pipe
        self._thread = threading.Thread(target=self._read, name="edgecv-last-words", daemon=True)
        self._thread.start()

    def whole(self) -> str:
        """All of it, once the process has ended; programs that it has left with its pipe are not waited for.

        Of more than is kept it is the last whole lines: a part of an address may hold a part of its password.
        """
        self._thread.join(1.0)
        kept = self.text
        return (kept.partition(b"\n")[2] if len(kept) == _MOST else kept).decode(errors="replace")

    def last(self) -> str:
        """The last line with something in it, once the process has ended; "" without one."""
        return next((line.strip() for line in reversed(self.whole().splitlines()) if line.strip()), "")

    def _read(self) -> None:
        with self._pipe:
            while news := os.read(self._pipe.fileno(), _MOST):
                self.text = (self.text + news)[-_MOST:]
