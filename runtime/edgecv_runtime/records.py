"""Records that check themselves, read from JSON, YAML or plain dicts: manifests, recipes, options.

A record is a frozen msgspec `Struct` that forbids unknown fields; this module is the one place where a decoding failure
becomes a one-line error with the path of the field and the nearest known name.
"""

from __future__ import annotations

import re
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from edgecv_runtime.errors import BadInput, nearest
from edgecv_runtime.oneline import one_line

T = TypeVar("T")

_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`")
_PATH = re.compile(r" - at `\$(?P<path>[^`]*)`")


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every record: immutable, unknown fields refused."""


def decode(raw: bytes | memoryview, kind: type[T], where: str, error: type[BadInput] = BadInput) -> T:
    """Decode JSON bytes into a record.

    raw: the JSON document; kind: the record's type; where: the name of the file, for the message.
    Raises `error` in one line that names the field, what was expected and the nearest known name.
    """
    try:
        return msgspec.json.decode(raw, type=kind, dec_hook=_from_plain)
    except msgspec.ValidationError as exc:
        raise error(f"{where}: {_explain(exc, kind)}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise error(f"{where}: not valid JSON: {exc}") from exc


def convert(data: Any, kind: type[T], where: str, error: type[BadInput] = BadInput) -> T:
    """Turn plain dicts and lists (from YAML, say) into a record; raises as `decode` does."""
    try:
        return msgspec.convert(data, type=kind, dec_hook=_from_plain)
    except msgspec.ValidationError as exc:
        raise error(f"{where}: {_explain(exc, kind)}") from exc


def _from_plain(kind: Any, data: Any) -> Any:
    """A field whose type knows itself how to be read."""
    return kind.from_plain(data)


def encode(record: Any) -> bytes:
    """Encode a record as indented JSON with a final newline; equal records give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def _explain(exc: msgspec.ValidationError, kind: Any) -> str:
    text = one_line(str(exc))  # keys may hold anything
    place = _PATH.search(text)
    path = place["path"].lstrip(".") if place else ""
    reason = _PATH.sub("", text).replace("`", "'").replace("Object ", "").strip()
    unknown = _UNKNOWN.search(text)
    if unknown:
        inner = _record_of(_type_at(kind, path))
        fields = [field.encode_name for field in msgspec.structs.fields(inner)] if inner else []
        where = f"{path}.{unknown['name']}" if path else unknown["name"]
        return f"unknown key '{where}'{nearest(unknown['name'], fields)}"
    if reason.startswith("Invalid enum value"):
        reason = f"{reason}; expected {', '.join(_choices(_type_at(kind, path)))}"
    return f"{path}: {reason}" if path else reason


def _type_at(kind: Any, path: str) -> Any:
    """Follow `a.b[0].c` through the record types and return the type of the last name."""
    for part in [part for part in re.split(r"[.\[\]]+", path) if part]:
        if part == "..." or part.isdigit():
            continue
        record = _record_of(kind)
        found = [field.type for field in msgspec.structs.fields(record) if field.encode_name == part] if record else []
        kind = found[0] if found else None
    return kind


def _choices(kind: Any) -> list[str]:
    """The values of the `Literal` in a type, however deep it lies."""
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return [choice for inner in get_args(kind) for choice in _choices(inner)]


def _record_of(kind: Any) -> Any:
    """Unwrap `Optional`, `list[...]` and `dict[str, ...]` down to the record inside."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    for inner in getattr(kind, "__args__", ()):
        found = _record_of(inner)
        if found is not None:
            return found
    return None
