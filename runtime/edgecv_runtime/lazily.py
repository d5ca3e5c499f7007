"""Packages that import a module when one of its names is first asked for: who wants one does not pay for all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for a package: of a name in `homes` from its module below it, of a module the module itself.

    It raises AttributeError for other names.
    """

    def find(name: str) -> Any:
        module = f"{package}.{homes.get(name, name)}"
        try:
            found: Any = import_module(module)
        except ModuleNotFoundError as exc:
            if exc.name != module or name in homes:
                raise
            raise AttributeError(f"module '{package}' has no attribute '{name}'") from None
        if name in homes:
            found = getattr(found, name)
        setattr(sys.modules[package], name, found)
        return found

    return find
