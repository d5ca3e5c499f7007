"""Checkpoints that are whole or not there, carry their checksum, and know which run they belong to.

A file is one line of magic, one line with the SHA-256 of the rest, and what `torch.save` wrote: torch's own zip reader
does not notice altered bytes.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from edgecv_runtime import files
from edgecv_runtime.errors import BadInput, Unavailable

_MAGIC = b"edgecv checkpoint 1\n"
_CURE = "use another folder, or start over with resume=False"


class CheckpointError(BadInput):
    """A checkpoint is damaged, or belongs to another run."""


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically; raises Unavailable, and leaves the one from before, when it cannot be written."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    data = buffer.getbuffer()
    with storing(path), files.replacing(path) as file:
        file.write(_MAGIC + hashlib.sha256(data).hexdigest().encode() + b"\n")
        file.write(data)


def load(
    path: Path, run: Mapping[str, str], earlier: Mapping[str, Collection[str | None]] | None = None
) -> dict[str, Any]:
    """Read a checkpoint that was saved with the same `run` (what identifies config, data and model).

    earlier: what else stood for the same under a name, or None where the name was not there yet.

    Raises CheckpointError when it is damaged or belongs to another run; the message says what differs.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise CheckpointError(f"{path}: cannot be read: {exc.strerror}") from exc
    head, data = content[: len(_MAGIC) + 65], content[len(_MAGIC) + 65 :]
    if head != _MAGIC + hashlib.sha256(data).hexdigest().encode() + b"\n":
        raise CheckpointError(f"{path}: damaged or no checkpoint of edgecv: its checksum is wrong; {_CURE}")
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as exc:
        raise CheckpointError(f"{path}: cannot be loaded safely by this version of torch; {_CURE}") from exc
    saved: dict[str, str] = state["run"]
    same = {name: {run.get(name), *(earlier or {}).get(name, ())} for name in {*saved, *run}}
    differing = [name for name in sorted(same) if saved.get(name) not in same[name]]
    if differing:
        told = "; ".join(f"{name} was {_short(saved.get(name))}, is {_short(run.get(name))}" for name in differing)
        raise CheckpointError(f"{path}: belongs to another run: {told}; {_CURE}")
    return state


def _short(value: str | None) -> str:
    return "absent" if value is None else value if len(value) <= 80 else value[:77] + "..."


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn a failure to write a file into one line that names it, the reason and the cure."""
    try:
        yield
    except OSError as exc:
        kept = "the one from before is kept" if path.exists() else "nothing was left there"
        raise Unavailable(
            f"{path}: cannot be written: {exc.strerror}; {kept}; free some space and run again to go on"
        ) from exc
