"""Files that are open on backends: compiling one takes longer than running some images."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgecv_runtime import backends
from edgecv_runtime.backends import Backend, Options
from edgecv_runtime.manifest import Precision

# Files that stay open for the next who asks, and how large they may be together: a search goes on comparing with what
# it timed last, and a session holds its file's weights in a form of its own.
KEPT, KEPT_BYTES = 12, 128 << 20

_Key = tuple[str, str, Precision]


@dataclass
class _Open:
    """A file that is open, and how many use it now."""

    backend: Backend
    bytes: int
    stack: ExitStack
    users: int = 0


class Sessions:
    """Opens files, given by their content, and keeps those that were used last for a while."""

    def __init__(self) -> None:
        self._open: dict[_Key, _Open] = {}  # those that were used last stand last

    @contextmanager
    def opened(self, content: bytes, name: str, precision: Precision = "float32") -> Iterator[Backend]:
        """A file on a backend, with floats in a precision, which nobody else may close; raises what opening raises."""
        key = hashlib.sha256(content).hexdigest(), name, precision
        found = self._open.pop(key, None) or _opened(content, name, precision)
        self._open[key] = found
        found.users += 1
        try:
            yield found.backend
        finally:
            found.users -= 1
            self._forget()

    def close(self) -> None:
        """Close all."""
        while self._open:
            self._open.popitem()[1].stack.close()

    def _forget(self) -> None:
        """Close what was used longest ago and nobody uses, until the others are few and small enough."""
        for key, each in list(self._open.items()):
            if len(self._open) <= KEPT and sum(other.bytes for other in self._open.values()) <= KEPT_BYTES:
                return
            if not each.users:
                del self._open[key]
                each.stack.close()


@contextmanager
def once(content: bytes, name: str, precision: Precision = "float32") -> Iterator[Backend]:
    """The same of a file that nobody will ask for again."""
    opened = _opened(content, name, precision)
    with opened.stack:
        yield opened.backend


def _opened(content: bytes, name: str, precision: Precision) -> _Open:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgecv-"))
        path = Path(folder) / "candidate.onnx"
        path.write_bytes(content)
        backend = backends.get(name)(path, Options(precision=precision))
        stack.callback(backend.close)
        return _Open(backend, len(content), stack.pop_all())
