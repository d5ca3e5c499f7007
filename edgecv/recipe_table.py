"""The page of all recipe keys, made from the records that read them.

`python -m edgecv.recipe_table > docs/recipe-keys.md` writes it anew; a test holds that it is in step.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any

import msgspec

from edgecv.recipe import Recipe
from edgecv.recipe_text import record_in
from edgecv_runtime.records import Record

_WORDS = {int: "whole number", float: "number", str: "text", bool: "true, false", types.NoneType: "null"}


def page() -> str:
    """The page as Markdown."""
    lines = [
        "# All recipe keys",
        "",
        "Made by `python -m edgecv.recipe_table` from the records that read a recipe; `key=value` on the command line",
        "sets each of them ([recipes](cli.md#recipes)). A section that is left out has its defaults; one that says",
        "`null` is not done.",
    ]
    for section, record in _sections(Recipe, ""):
        title = f"## `{section}`" if section else "## The recipe itself"
        lines += ["", title, "", *_text(record), "", "| key | takes | default |", "| --- | --- | --- |"]
        for field in msgspec.structs.fields(record):
            path = f"{section}.{field.encode_name}".lstrip(".")
            lines.append(f"| `{path}` | {_takes(field.type)} | {_default(field)} |")
    return "\n".join(lines) + "\n"


def _sections(record: type[msgspec.Struct], path: str) -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """Each record and the records in it, with the path of its section."""
    yield path, record
    for field in msgspec.structs.fields(record):
        inner = record_in(field.type)
        if inner is not None:
            yield from _sections(inner, f"{path}.{field.encode_name}".lstrip("."))


def _text(record: type[msgspec.Struct]) -> list[str]:
    """What the docstrings of a record, and of the record that it extends, say of its keys, as a list."""
    kinds = [each for each in reversed(record.__mro__) if issubclass(each, Record) and each is not Record]
    lines = "\n\n".join(inspect.cleandoc(each.__doc__ or "") for each in kinds).replace("<", "&lt;").split("\n")
    return [re.sub(r"^(?=[a-z0-9_]+(, [a-z0-9_]+)*: )", "- ", line) for line in lines]


def _takes(kind: Any) -> str:
    """A type in words."""
    inner, origin = typing.get_args(kind), typing.get_origin(kind)
    if origin is typing.Literal:
        return ", ".join(f"`{each}`" for each in inner)
    if origin in (tuple, list):
        several = [each for each in inner if each is not Ellipsis]
        each = " and ".join(_takes(one) for one in several)
        return f"list of {each}" if Ellipsis in inner else f"[{each}]"
    if inner:
        return " or ".join(_takes(each) for each in inner)
    return "a section, below" if issubclass(kind, msgspec.Struct) else _WORDS[kind]


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "must be given"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, msgspec.Struct):
        return "its defaults"
    plain = msgspec.to_builtins(value)
    return f"`{plain if isinstance(plain, str) else msgspec.json.encode(plain).decode()}`"


if __name__ == "__main__":
    sys.stdout.write(page())
