"""YAML in which a key stands once, and a number is one.

The later of two keys would win, and the first be lost without a word; what is compared with NaN refuses nothing.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeVar

import yaml

from edgecv_runtime import records
from edgecv_runtime.errors import BadInput

T = TypeVar("T")


class _Once(yaml.constructor.BaseConstructor):
    """Refuses a key which is there already."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """As PyYAML, after a look at the keys; raises ConstructorError, a YAMLError with the place."""
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key.value}' stands there twice", key.start_mark
                    )
                seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


class Loader(_Once, yaml.SafeLoader):
    """PyYAML's safe loader that refuses a key which is there already, and numbers that are not finite."""

    def number(self, node: yaml.ScalarNode) -> float:
        """As PyYAML; raises ConstructorError for `.nan` and `.inf`."""
        return finite(self.construct_yaml_float(node), node)


Loader.add_constructor("tag:yaml.org,2002:float", Loader.number)


class _Texts(_Once, yaml.BaseLoader):
    """All as it is written: `no` is no truth value, and 010 no eight."""


def finite(number: float, node: yaml.ScalarNode) -> float:
    """A number that was read; raises ConstructorError with its place where it is not finite."""
    if not math.isfinite(number):
        raise yaml.constructor.ConstructorError(None, None, f"{node.value} is no finite number", node.start_mark)
    return number


def load(text: str | bytes) -> Any:
    """Read YAML; raises yaml.YAMLError."""
    return yaml.load(text, Loader)


def read(path: Path, kind: type[T], list_name: str) -> T:
    """Read a file as a record; list_name: its main key.

    Raises BadInput in one line that names the key and the nearest known one.
    """
    try:
        data: Any = load(path.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        raise BadInput(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise BadInput(f"{path}: is not UTF-8") from exc
    except yaml.YAMLError as exc:  # its own text quotes lines, in which a password may stand
        mark = getattr(exc, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise BadInput(
            f"{path}{where}: not valid YAML: {getattr(exc, 'problem', None) or 'it cannot be read'}"
        ) from exc
    if not isinstance(data, dict):
        raise BadInput(f"{path}: expected keys with values, as '{list_name}:' with a list")
    return records.convert(data, kind, str(path))


def texts(text: str | bytes) -> Any:
    """Read YAML with every scalar as text; raises yaml.YAMLError."""
    return yaml.load(text, _Texts)
