"""Where a server listens, and who is meant by a host: text to host and port."""

from __future__ import annotations

import ipaddress
import re

from edgecv_runtime.errors import BadInput

_PLACE = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:@]+)(?::(?P<port>\d{1,5}))?")


def host_and_port(place: str) -> tuple[str, int | None] | None:
    """("h", 554) of `h:554`, ("fe80::1", None) of `[fe80::1]`; None of what is neither."""
    found = _PLACE.fullmatch(place)
    return None if found is None else (found["host"].strip("[]"), int(found["port"]) if found["port"] else None)


def parse_address(text: str) -> tuple[str, int]:
    """`127.0.0.1:8080`, `8080` (of this machine), `[::1]:8080` -> (host, port); port 0 is any free one.

    Raises BadInput.
    """
    host, port = host_and_port(f"127.0.0.1:{text}" if text.isdecimal() else text) or ("", None)
    if port is None or port > 65535:
        raise BadInput(f"'{text}' is no address to listen at; expected HOST:PORT, as 127.0.0.1:8080")
    return host, port


def is_local(host: str) -> bool:
    """Whether a host is this machine by its name or address alone; nothing is looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
