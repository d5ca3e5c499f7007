"""Cameras of this machine under names that stay: an index changes when a camera is plugged in again.

A name is a link of udev (`/dev/v4l/by-id` has the serial number of a USB camera, `by-path` its socket), or, where there
is no udev as in most containers, the driver's own `bus`.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from edgecv_runtime.errors import SourceUnavailable

_QUERY = 0x80685600  # VIDIOC_QUERYCAP: _IOR('V', 0, struct v4l2_capability)
_CAPABILITY = struct.Struct("16s 32s 32s I I I 3I")
_CAPTURES, _HAS_OWN = 0x00000001 | 0x00001000, 0x80000000  # V4L2_CAP_VIDEO_CAPTURE(_MPLANE), V4L2_CAP_DEVICE_CAPS


@dataclass(frozen=True)
class Device:
    """path: `/dev/video0`; bus: as `usb-0000:00:14.0-1`, one for each socket; card: its model; ids: udev's links."""

    path: str
    bus: str
    card: str
    ids: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All that it may be called, the file last."""
        return (*self.ids, *(Path(link).name for link in self.ids), self.bus, self.path)

    def __str__(self) -> str:
        return f"{self.path} ({', '.join([*(Path(link).name for link in self.ids), self.bus, self.card])})"


def cameras(root: Path = Path("/dev")) -> list[Device]:
    """The devices that capture video, by index; one camera may have several files, of which some give no pictures."""
    found = []
    for path in sorted(root.glob("video*"), key=lambda path: (len(path.name), path.name)):
        about = _asked(path)
        if about is not None:
            links = (link for folder in ("by-id", "by-path") for link in sorted((root / "v4l" / folder).glob("*")))
            ids = tuple(str(link) for link in links if link.resolve() == path.resolve())
            found.append(Device(str(path), *about, ids))
    return found


def find(name: str, root: Path = Path("/dev")) -> str:
    """The device file of a camera by any of its names; raises SourceUnavailable, which lists those that are there."""
    there = cameras(root)
    for device in there:
        if name in device.names:
            return device.path
    same = [device for device in there if device.card == name]
    if len(same) == 1:
        return same[0].path
    listed = "; ".join(map(str, there)) or "none at all"
    many = f"{len(same)} cameras are called so" if same else f"there is no {name}; is the camera plugged in?"
    raise SourceUnavailable(f"camera:{name}: {many} Cameras here: {listed}", kind="missing")


def _asked(path: Path) -> tuple[str, str] | None:
    """(bus, card) by the driver itself; None where it is no camera, or may not be asked."""
    import fcntl  # Linux and macOS have it

    try:
        handle = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        answer = fcntl.ioctl(handle, _QUERY, bytes(_CAPABILITY.size))
    except OSError:
        return None
    finally:
        os.close(handle)
    _, card, bus, _, can, can_here, *_ = _CAPABILITY.unpack(answer)
    if not (can_here if can & _HAS_OWN else can) & _CAPTURES:
        return None
    return bus.rstrip(b"\0").decode(errors="replace"), card.rstrip(b"\0").decode(errors="replace")
