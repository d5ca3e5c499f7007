"""Hashes of files, remembered until the machine starts again.

A process that starts again, as a watchdog makes it, need not read a large model only to find it unchanged: on a CPU
without SHA instructions that is the longest part of a start. A file counts as unchanged when nothing of device, inode,
size and times is another; the change time cannot be set by hand. The memory ends with the start of the machine, for
after a loss of power the times may be right and the content not.

What is remembered confirms the hash that is asked for and never refuses it: images that are mounted one after the
other (squashfs, FAT) number their files alike and have no change time of their own.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from edgecv_runtime import files

BOOT = Path("/proc/sys/kernel/random/boot_id")
# What was written this short a time ago could be written again without its times telling.
FRESH_NS = 2 * 10**9
KEPT = 256


class Hashes:
    """SHA-256 of files by what the file system says of them: `recall`, any number of `holds`, `remember`."""

    def __init__(self, place: Path | None = None, known: dict[str, str] | None = None) -> None:
        """place: the file that they are kept in, None for none."""
        self._place = place
        self._known = known or {}
        self._new: dict[str, str] = {}

    @classmethod
    def recall(cls) -> Hashes:
        """What is known since the machine started; nothing, where the system does not name its starts (Linux does)."""
        place = None
        try:
            start = BOOT.read_text().strip()
            place = files.cache_folder("hashes") / f"{start}.json"
            return cls(place, msgspec.json.decode(place.read_bytes(), type=dict[str, str]))
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return cls(place)

    def holds(self, file: Path, sha256: str) -> bool:
        """Whether a file's content has this hash; it is read unless that is known."""
        found = file.stat()
        stamp = f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"
        if self._known.get(stamp) == sha256:
            return True
        settled = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > FRESH_NS
        if files.sha256(file) != sha256:
            return False
        if settled:
            self._new[stamp] = sha256
        return True

    def remember(self) -> None:
        """Keep what is new; a folder that is full or cannot be written costs the next start the reading, no more."""
        if not self._new or self._place is None:
            return
        newest = list((self._known | self._new).items())[-KEPT:]
        try:
            files.write(self._place, msgspec.json.encode(dict(newest)))
            for old in self._place.parent.glob("*.json"):
                if old != self._place:
                    old.unlink(missing_ok=True)
        except OSError:
            return
