"""One deployment at a time on a device: two would remove what the other makes, or even what it has switched to.

A connection of its own holds a lock there and says every few seconds that it is alive. Where it is cut off TCP may not
notice for hours: the device frees the lock after a minute of silence, and who held it stops before the next step.
"""

from __future__ import annotations

import subprocess
import threading
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

from edgecv.deploy import device
from edgecv.deploy.ssh import Host
from edgecv_runtime.errors import Unavailable
from edgecv_runtime.lastwords import LastWords

if TYPE_CHECKING:
    from typing import Self

BEAT_S, SILENT_S = 10.0, 60
_END_S = 5.0


class Alone:
    """Keeps other deployments away while it is open; raises Unavailable where one is going on."""

    def __init__(self, host: Host, folder: str) -> None:
        self._name = host.name
        script = device.below(folder, "alone.sh", silent_s=str(SILENT_S))
        self._line = host.open(script, subprocess.PIPE, own_session=True)
        self._words = LastWords(self._line.stderr)
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="edgecv-alone", daemon=True)
        self._beats.start()
        try:
            assert self._line.stdout is not None
            said = next((line.strip() for line in self._line.stdout if line.strip() in (b"held", b"busy")), b"")
        except BaseException:  # Ctrl-C
            self._end()
            raise
        if said != b"held":
            self._end()
            host.check(self._line.returncode, self._words.whole().encode(), "keeping other deployments away")
            raise Unavailable(f"{self._name}: another deployment is going on there; try again when it has ended")

    def check(self) -> None:
        """Raise Unavailable where others are no longer kept away."""
        if self._line.poll() is not None:
            raise Unavailable(f"{self._name}: the connection broke that kept other deployments away")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._ended.set()
        self._beats.join()
        for pipe in (self._line.stdin, self._line.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._line.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._line.kill()
            self._line.wait()

    def _beat(self) -> None:
        assert self._line.stdin is not None
        with suppress(OSError):  # it has ended, as `check` says
            while not self._ended.wait(BEAT_S):
                self._line.stdin.write(b".")
