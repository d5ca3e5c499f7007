"""Recipes as text: YAML whose numbers are Python's, keys known by their whole path, and the table of all keys.

YAML 1.1, which PyYAML reads, takes 1e-3 for text, 010 for eight and 1:30 for ninety; YAML 1.2 and Python do not.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import msgspec
import yaml

from edgecv_runtime import yamltext
from edgecv_runtime.errors import BadInput

_FLOAT = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_INT = re.compile(r"[-+]?\d[\d_]*|0o[0-7]+|0x[\da-fA-F]+|0b[01]+")
_NULLS = ("", "~", "null", "Null", "NULL")


class _Loader(yamltext.Loader):
    """PyYAML's safe loader with numbers as YAML 1.2 and Python write them, and without dates."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rows if tag.rsplit(":", 1)[-1] not in ("int", "float", "timestamp")]
        for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def number(self, node: yaml.ScalarNode) -> int | float:
        """The value of a scalar that one of the two patterns matches; raises ConstructorError where it has no end."""
        text = str(node.value).replace("_", "").lower()
        if text.lstrip("+-") in (".inf", ".nan"):
            text = text.replace(".", "")
        if not _INT.fullmatch(text):
            return yamltext.finite(float(text), node)
        return int(text, 0) if text[:2] in ("0x", "0o", "0b") else int(text)


for _tag, _pattern in (("int", _INT), ("float", _FLOAT)):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern.pattern})$"), list("-+.0123456789")
    )
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.number)


def parse(text: str) -> Any:
    """Read YAML; raises yaml.YAMLError."""
    return yaml.load(text, _Loader)


def value(text: str, kind: Any) -> Any:
    """Read one value of a command line for a key of a type: what is text there stays text, `data.path=a #1` say.

    Text in quotes is YAML's, and so is null. For a list of texts a plain word is a list of one.
    Raises yaml.YAMLError.
    """
    text = text.strip()
    known = _alternatives(kind)
    items = {one for each in known if get_origin(each) is tuple for one in _alternatives(get_args(each)[0])}
    is_quoted = len(text) > 1 and text[0] in "'\"" and text[0] == text[-1]
    if text in _NULLS or not (known | items) & {str} or record_in(kind) is not None:
        return parse(text)
    if items:
        is_list = text.startswith("[") and text.endswith("]")
        return parse(text) if is_list else [parse(text) if is_quoted else text]
    if is_quoted or _is_plain(text, known & {bool, int, float}):
        return parse(text)
    return text


def _is_plain(text: str, kinds: set[Any]) -> bool:
    """Whether YAML reads a text as a number or a truth value that a key takes."""
    try:
        read = type(parse(text))
    except yaml.YAMLError:
        return False
    return read in kinds or (read is int and float in kinds)


def keys(kind: type[msgspec.Struct], path: str = "") -> Iterator[tuple[str, msgspec.structs.FieldInfo]]:
    """Every key of a record and of the records in it, by its dotted path."""
    for field in msgspec.structs.fields(kind):
        yield path + field.encode_name, field
        inner = record_in(field.type)
        if inner is not None:
            yield from keys(inner, f"{path}{field.encode_name}.")


def record_in(kind: Any) -> type[msgspec.Struct] | None:
    """The record that a key's value may be."""
    return next(
        (each for each in _alternatives(kind) if isinstance(each, type) and issubclass(each, msgspec.Struct)), None
    )


def check_keys(data: Any, kind: type[msgspec.Struct], where: str) -> None:
    """Refuse the first key that no record knows, with the nearest of all keys by their whole paths."""
    known = [path for path, _ in keys(kind)]
    for path in _paths(data, kind):
        if path not in known:
            raise BadInput(f"{where}: unknown key '{path}'{_meant(path, known)}")


def _paths(data: Any, kind: type[msgspec.Struct], path: str = "") -> Iterator[str]:
    """The keys of nested mappings, as deep as records go."""
    inner = {field.encode_name: record_in(field.type) for field in msgspec.structs.fields(kind)}
    for name, below in data.items() if isinstance(data, dict) else ():
        yield f"{path}{name}"
        record = inner.get(name)
        if record is not None:
            yield from _paths(below, record, f"{path}{name}.")


def _meant(path: str, known: list[str]) -> str:
    """Which keys may be meant: those of that name elsewhere, else the nearest of the section, else of all."""
    section, _, name = path.rpartition(".")
    same = sorted((each for each in known if each.rpartition(".")[2] == name), key=lambda each: each.count("."))
    siblings = [each for each in known if each.rpartition(".")[0] == section]
    near = [each for each in same if each.count(".") == same[0].count(".")]
    near = near or _near(name, siblings) or _near(name, known)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; known: {', '.join(siblings)}" if siblings else ""


def _near(name: str, paths: list[str]) -> list[str]:
    """The paths whose last name is nearest."""
    last = {each.rpartition(".")[2] for each in paths}
    near = difflib.get_close_matches(name, last, n=1)
    return [each for each in paths if each.rpartition(".")[2] in near][:3]


def _alternatives(kind: Any) -> set[Any]:
    """The plain types in a union, at its first level."""
    inner = get_args(kind)
    is_union = str(kind).startswith("typing.") or type(kind).__name__ == "UnionType"
    if not inner or not is_union:
        return {kind}
    return (
        {str}
        if all(isinstance(each, str) for each in inner)
        else {one for each in inner for one in _alternatives(each)}
    )
