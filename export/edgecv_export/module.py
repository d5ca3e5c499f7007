"""Networks of a user's own Python file, "module.py:make_model"."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from torch import nn

from edgecv_runtime.errors import BadInput, nearest


def load(text: str) -> nn.Module:
    """The network that a function of a file makes, or that stands there under that name; the file is run.

    text: "FILE.py:NAME". What lies beside the file can be imported by it. Raises BadInput in one line.
    """
    path, _, name = text.rpartition(":")
    file = Path(path)
    if not file.is_file():
        raise BadInput(f"{file}: no such file; name a Python file and what makes the network in it: FILE.py:make_model")
    here = str(file.resolve().parent)
    sys.path.insert(0, here)
    try:
        made = _made(file, name)
    except BadInput:
        raise
    except Exception as exc:  # whatever somebody else's code raises
        line = (str(exc).strip().splitlines() or [""])[0]
        raise BadInput(f"{file}: {name} raises {type(exc).__name__}: {line}") from exc
    finally:
        sys.path.remove(here)
    if not isinstance(made, nn.Module):
        raise BadInput(f"{file}: '{name}' gives {type(made).__name__}, where a torch.nn.Module is wanted")
    return made


def _made(file: Path, name: str) -> object:
    """What a name of a file is, called if it is a function."""
    known_as = file.stem if file.stem not in sys.modules else f"_edgecv_{file.stem}"  # torch.py hides nobody's torch
    spec = importlib.util.spec_from_file_location(known_as, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[known_as] = module  # dataclasses and pickles look there for what a class belongs to
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[known_as]
        raise
    found = getattr(module, name, None)
    if found is None:
        known = [each for each in vars(module) if not each.startswith("_")]
        raise BadInput(f"{file}: there is no '{name}' in it{nearest(name, known)}")
    return found if isinstance(found, nn.Module) or not callable(found) else found()
