"""Fork: a child has its parent's memory and none of its threads (gunicorn's preload, multiprocessing on Linux).

What waits for such a thread waits for ever: a queue of work, a lock that it held, and the end of a session or plugin
of ONNX Runtime or OpenVINO, which joins its pool. So those are let go in the child, and made anew when wanted.
"""

from __future__ import annotations

import os
from collections.abc import Callable


def in_child(call: Callable[[], None]) -> None:
    """Have a function called in every process that this one forks, before anything else runs there."""
    if hasattr(os, "register_at_fork"):  # Windows does not fork
        os.register_at_fork(after_in_child=call)


def keep_for_ever(thing: object) -> None:
    """Never free an object, not even when the interpreter ends."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
