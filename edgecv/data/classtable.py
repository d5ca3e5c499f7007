"""Which class a mask's values or colours are of: from a file that names them, or from what the masks hold."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv.data.split import listed
from edgecv_runtime.errors import DatasetError, nearest

IGNORE = 255  # in a class map: a pixel that does not count
MOST = 255  # classes that a class map of 8 bits holds beside that

# A line of a text file, the narrower forms first: CVAT's "road:128,64,128:parts:actions"; "128 64 128 Road" (CamVid);
# "road,128,64,128"; "3: road".
_CVAT = re.compile(r"(?P<name>[^:]+):(?P<r>\d+),(?P<g>\d+),(?P<b>\d+):[^:]*:[^:]*")
_FIRST = re.compile(r"(?P<r>\d+)[\s,;]+(?P<g>\d+)[\s,;]+(?P<b>\d+)[\s,;]+(?P<name>\S.*)")
_LAST = re.compile(r"(?P<name>.*?[^\s,;])[\s,;]+(?P<r>\d+)[\s,;]+(?P<g>\d+)[\s,;]+(?P<b>\d+)")
_VALUE = re.compile(r"(?P<value>\d+)\s*[:=,;]\s*(?P<name>\S.*)")
_HEX = re.compile(r"#?([0-9a-fA-F]{6})")


@dataclass(frozen=True)
class Table:
    """names: the classes by position; of: what a pixel holds -> its class's position, or IGNORE.

    by_colour: whether pixels hold colours (0xRRGGBB), else values.
    """

    names: tuple[str, ...]
    of: Mapping[int, int]
    by_colour: bool

    def told(self, number: int) -> str:
        """A value or colour as a message writes it."""
        return f"#{number:06x}" if self.by_colour else str(number)

    def strange(self, numbers: Iterable[int]) -> list[int]:
        """Those that no class has."""
        return sorted(number for number in numbers if number not in self.of)

    def class_map(self, numbers: NDArray[Any]) -> NDArray[np.uint8]:
        """Numbers (H, W), all of them known, as class positions (H, W) uint8."""
        keys = np.array(sorted(self.of), np.int64)
        positions = np.array([self.of[int(key)] for key in keys], np.uint8)
        if numbers.dtype == np.uint8:
            table = np.full(256, IGNORE, np.uint8)
            table[keys[keys < 256]] = positions[keys < 256]
            found: NDArray[np.uint8] = table[numbers]
            return found
        return positions[np.searchsorted(keys, numbers)]


def make(entries: Sequence[tuple[str | None, int]], ignore: Sequence[int | str], by_colour: bool, where: str) -> Table:
    """A table of (name, value or colour); without a name a pixel does not count, nor does one that `ignore` names.

    Raises DatasetError when a name or a number stands twice, and for no class at all or more than a mask can hold.
    """
    plain = Table((), {}, by_colour)
    columns = {"name": [name for name, _ in entries if name], "value": [plain.told(number) for _, number in entries]}
    for kind, told in columns.items():
        twice = sorted(name for name, count in Counter(told).items() if count > 1)
        if twice:
            raise DatasetError(f"{where}: the {kind} {listed(twice, 3)} stands there twice")
    names = {name for name, _ in entries}
    unknown = [each for each in ignore if isinstance(each, str) and each not in names]
    if unknown:
        near = nearest(unknown[0], [name for name in names if name])
        raise DatasetError(f"data.ignore: no class '{unknown[0]}' in {where}{near}")
    kept = [(name, number) for name, number in entries if name and name not in ignore and number not in ignore]
    if not 1 <= len(kept) <= MOST:
        raise DatasetError(f"{where}: names {len(kept)} classes that count; a mask holds 1 to {MOST}")
    of = {number: position for position, (_, number) in enumerate(kept)}
    left_out = {number for _, number in entries if number not in of} | {
        each for each in ignore if isinstance(each, int)
    }
    of |= dict.fromkeys(left_out - of.keys(), IGNORE)
    return Table(tuple(name for name, _ in kept), of, by_colour)


def parse(text: str, where: str) -> tuple[list[tuple[str | None, int]], bool]:
    """The classes that a file names: (name, value or colour) in their order, and whether these are colours.

    Text: a name a line, in the order of the values; or "value: name", "r g b name", "name r g b" or "name,r,g,b" on
    each; lines that begin with "#" are remarks. JSON or YAML: a list of names, or a mapping of values to names, of
    names to values or of names to colours ([r, g, b] or "#rrggbb"); a name null says that the value does not count.
    Raises DatasetError in one line.
    """
    if where.lower().endswith((".json", ".yaml", ".yml")):
        return _structured(_loaded(text, where), where)
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    for pattern in (_CVAT, _FIRST, _LAST, _VALUE):
        found = [pattern.fullmatch(line) for line in lines]
        if len(found) > 1 and found[0] is None and all(found[1:]):  # a line of heads, as in a table
            found = found[1:]
        matches = [match for match in found if match is not None]
        if found and len(matches) == len(found):
            return [(match["name"].strip(), _number(match.groupdict(), where)) for match in matches], pattern != _VALUE
    return [(line, value) for value, line in enumerate(lines)], False


def _number(found: Mapping[str, str], where: str) -> int:
    if "value" in found:
        return int(found["value"])
    return _colour([int(found[channel]) for channel in "rgb"], where)


def _loaded(text: str, where: str) -> Any:
    import yaml

    from edgecv_runtime import yamltext

    try:
        is_json = where.lower().endswith(".json")
        loaded = json.loads(text, object_pairs_hook=_once) if is_json else yamltext.load(text)
    except (ValueError, yaml.YAMLError) as exc:
        raise DatasetError(f"{where}: cannot be read: {' '.join(str(exc).split())}") from exc
    if isinstance(loaded, dict) and len(inner := [key for key in ("names", "classes", "labels") if key in loaded]) == 1:
        return loaded[inner[0]]
    return loaded


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of JSON; raises ValueError for a key that stands there twice: the later would win without a word."""
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"the key '{twice[0]}' stands there twice")
    return dict(pairs)


def _structured(loaded: Any, where: str) -> tuple[list[tuple[str | None, int]], bool]:
    if isinstance(loaded, list) and all(isinstance(name, str) for name in loaded):
        return [(name, value) for value, name in enumerate(loaded)], False
    strange = [key for key in loaded if type(key) not in (int, str)] if isinstance(loaded, dict) else []
    if strange:
        kind = type(strange[0]).__name__
        raise DatasetError(f"{where}: {strange[0]!r} is read as {kind}, not text; put each name in double quotes")
    if isinstance(loaded, dict) and loaded:
        if all(isinstance(key, int) or str(key).isdigit() for key in loaded):
            if all(name is None or isinstance(name, str) for name in loaded.values()):
                return [(name, int(value)) for value, name in loaded.items()], False
        elif all(type(value) is int for value in loaded.values()):
            return [(str(name), value) for name, value in loaded.items()], False
        elif all(isinstance(value, list | str) for value in loaded.values()):
            return [(str(name), _colour(value, where)) for name, value in loaded.items()], True
    raise DatasetError(
        f"{where}: expected a list of names, or a mapping of values to names, of names to values or of names to colours"
    )


def _colour(told: Any, where: str) -> int:
    """[r, g, b] or "#rrggbb" as 0xRRGGBB."""
    if isinstance(told, str) and (match := _HEX.fullmatch(told)):
        return int(match[1], 16)
    if isinstance(told, list) and len(told) == 3 and all(type(each) is int and 0 <= each <= 255 for each in told):
        red, green, blue = told
        return int(red << 16 | green << 8 | blue)
    raise DatasetError(f"{where}: {told!r} is no colour; expected [r, g, b] of 0 to 255 each, or '#rrggbb'")
