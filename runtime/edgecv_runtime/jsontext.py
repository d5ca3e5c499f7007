"""JSON for names as the disk has them: one that is no UTF-8 comes back by Python's surrogate escapes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

_LONE = re.compile("[\ud800-\udfff]")


def encode(value: Any, hook: Callable[[Any], Any] | None = None, *, indent: int | None = None) -> bytes:
    r"""One JSON document in UTF-8; a byte of a name that is none, 0xE9 say, is "\udce9" in it (PEP 383).

    `os.fsencode` of what Python's `json` reads is the name again. hook: as msgspec's enc_hook. indent: spaces a level,
    None for one line.
    """
    try:
        document = msgspec.json.encode(value, enc_hook=hook)
        return document if indent is None else msgspec.json.format(document, indent=indent)
    except UnicodeEncodeError:  # msgspec writes no lone surrogates
        import json

        plain = msgspec.to_builtins(value, enc_hook=hook)
        text = json.dumps(plain, ensure_ascii=False, indent=indent, separators=(",", ":") if indent is None else None)
        return _LONE.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()
