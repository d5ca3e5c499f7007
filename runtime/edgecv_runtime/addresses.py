"""Where a server listens, and who is meant by a host: text to host and port."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from edgecv_runtime.errors import BadInput

_PLACE = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:@]+)(?::(?P<port>\d{1,5}))?")


def host_and_port(place: str) -> tuple[str, int | None] | None:
    """("h", 554) of `h:554`, ("fe80::1", None) of `[fe80::1]`; None of what is neither, or of a port beyond 65535."""
    found = _PLACE.fullmatch(place)
    port = int(found["port"]) if found and found["port"] else None
    return None if found is None or (port or 0) > 65535 else (found["host"].strip("[]"), port)


def peer(place: str, default: int, url: str, form: str) -> tuple[str, int]:
    """Whom to call at `host`, `host:port` or `[IPv6]:port`; raises BadInput with `url` and the expected form."""
    host, port = host_and_port(place) or ("", None)
    if not host or port == 0:
        raise BadInput(f"{url}: expected {form}")
    return host, default if port is None else port


def parse_address(text: str) -> tuple[str, int]:
    """`127.0.0.1:8080`, `8080` (of this machine), `[::1]:8080` -> (host, port); port 0 is any free one.

    Raises BadInput.
    """
    host, port = host_and_port(f"127.0.0.1:{text}" if text.isdecimal() else text) or ("", None)
    if port is None:
        raise BadInput(f"'{text}' is no address to listen at; expected HOST:PORT, as 127.0.0.1:8080")
    return host, port


@lru_cache(64)  # servers ask for each request
def is_local(host: str) -> bool:
    """Whether a host is this machine by its name or address alone; nothing is looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
