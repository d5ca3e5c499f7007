"""Reading a file of tensors by what it holds, whatever its suffix, without running anything that lies in it."""

from __future__ import annotations

import difflib
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgecv_runtime.errors import BadInput, ModelFileError

# First bytes of what is named .pth or .bin and is none -> what it is.
OTHERS = {
    b"version https://git-lfs": "a Git LFS pointer, not the weights; fetch them with: git lfs pull",
    b"\x89HDF": "an HDF5 file, as Keras writes; weights for PyTorch are wanted",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"BZh": "a bzip2 archive; unpack it first",
    b"\xfd7zXZ": "an xz archive; unpack it first",
    b"{": "a JSON file, such as the index of a checkpoint in parts; name the file that holds the tensors",
}
_TAR = slice(257, 262)  # where a tar archive says "ustar"
_LARGEST_HEADER = 100_000_000  # bytes: safetensors' own limit
_MANY = 200  # kinds of object beside the weights


class StandIn:
    """In the place of an object that is no tensor: it takes what the pickle gives it and does nothing with it.

    kind: the object's class. plain: what is made in its place where it was a kind of dictionary or list (defaultdict, a
    configuration): PyTorch's reader puts items into plain ones alone.
    """

    kind = ""
    plain: type[OrderedDict[Any, Any]] | type[list[Any]] | None = None

    def __new__(cls, *_arguments: object) -> Any:
        """Take any arguments."""
        return super().__new__(cls) if cls.plain is None else cls.plain()

    def __init__(self, *_arguments: object) -> None: ...

    def __setstate__(self, _state: object) -> None: ...


def read(path: Path) -> dict[tuple[str, ...], Tensor]:
    """Read every tensor of a checkpoint -> (names of the dictionaries on the way, its own) -> tensor, on the CPU.

    The content decides: PyTorch's zip or pickle, or safetensors. Pickled objects are read with `weights_only=True` and
    objects that this does not know as `StandIn`: their code is neither looked up nor run. Raises BadInput when there is
    no such file, ModelFileError when it is something else, is damaged or holds no tensors.
    """
    if not path.is_file():
        beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, n=1)
        raise BadInput(f"{path}: no such file" + (f"; did you mean '{near[0]}'?" if near else ""))
    data = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    found = dict(_flat(data))
    if not found:
        raise ModelFileError(f"{path}: holds {_instead(data)}")
    return found


def _is_safetensors(path: Path) -> bool:
    """Whether it begins as a safetensors file; raises ModelFileError for what is none and no PyTorch file either."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise ModelFileError(f"{path}: the file is empty")
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _LARGEST_HEADER:
        return True
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelFileError(f"{path}: a web page, not weights; the download went to a login or error page")
    other = next((what for mark, what in OTHERS.items() if start.startswith(mark)), None)
    if start[_TAR] == b"ustar":
        other = "a tar archive; unpack it and name the checkpoint in it"
    if other is not None:
        raise ModelFileError(f"{path}: {other}")
    if start.startswith(b"PK"):
        _check_archive(path)
        return False
    if start.startswith(b"\x80"):
        return False
    if path.suffix == ".safetensors" and len(start) < 9:
        return True
    raise ModelFileError(f"{path}: not a PyTorch checkpoint (neither its zip nor its pickle format) nor safetensors")


def _check_archive(path: Path) -> None:
    """Refuse zip archives that are no checkpoint, with the cure."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as exc:
        raise ModelFileError(f"{path}: not a complete PyTorch checkpoint ({_one_line(exc)})") from exc
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise ModelFileError(
            f"{path}: a TorchScript archive, which is a program with its weights; save the weights alone: "
            f"torch.save(torch.jit.load('{path.name}').state_dict(), 'weights.pth')"
        )
    if any(name.startswith("models/") or name == "archive_format" for name in inner):
        raise ModelFileError(
            f"{path}: an archive of torch.export, which is a program with its weights; save the weights alone: "
            f"torch.save(torch.export.load('{path.name}').state_dict, 'weights.pth')"
        )
    if "data.pkl" not in inner:
        raise ModelFileError(f"{path}: a zip archive, but no PyTorch checkpoint; unpack it and name the file in it")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as exc:
        raise ModelFileError(f"{path}: not a complete safetensors file ({_one_line(exc)})") from exc


def _read_torch(path: Path) -> Any:
    known: dict[str, type[StandIn]] = {}
    while True:
        try:
            allowed = torch.serialization.safe_globals([(kind, name) for name, kind in known.items()])
            with allowed, path.open("rb") as file:  # given a path, torch would go by the suffix
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as exc:
            if not _stands_in(str(exc), known):
                raise ModelFileError(_unreadable(path, exc)) from exc
        except Exception as exc:  # a damaged zip or pickle can make the reader raise almost anything
            what = f"{type(exc).__name__}: {_one_line(exc)}"
            raise ModelFileError(f"{path}: not a complete PyTorch checkpoint ({what})") from exc


def _stands_in(refusal: str, known: dict[str, type[StandIn]]) -> bool:
    """Let something stand in for what the reader stopped at; False where that is not the cure.

    refusal: what the reader said. known: the stand-ins by the names of what they stand for; gains one, or one of them
    becomes plain.
    """
    if filled := re.search(r"Can only (SETITEM|append|extend).* got <class '\S+\.(StandIn\d+)'>", refusal):
        for each in known.values():
            if each.__name__ == filled[2] and each.plain is None:
                each.plain = OrderedDict if filled[1] == "SETITEM" else list
                return True
    found = re.search(r"GLOBAL (\S+) was not an allowed global", refusal)
    name = "" if found is None else found[1] if "." in found[1] else f"builtins.{found[1]}"
    if not name or name in known or len(known) == _MANY:
        return False
    known[name] = type(f"StandIn{len(known)}", (StandIn,), {"kind": name})
    return True


def _unreadable(path: Path, exc: Exception) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", str(exc))
    what = f"pickled Python objects ({found[1]})" if found else "something that is not plain tensors"
    return (
        f"{path}: holds {what}, which could run code when loaded, or is damaged; "
        "save plain tensors with torch.save(model.state_dict(), path) or safetensors"
    )


def _flat(data: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Every tensor in dictionaries within dictionaries, by the names on the way."""
    for key, value in data.items() if isinstance(data, Mapping) else ():
        if isinstance(value, Tensor) and isinstance(key, str):
            yield (*keys, key), value
        elif isinstance(key, str):
            yield from _flat(value, (*keys, key))


def _instead(data: Any) -> str:
    """What a file without named tensors holds, and the cure."""
    objects = sorted({each.kind for each in [data, *(data.values() if isinstance(data, Mapping) else ())]
                      if isinstance(each, StandIn)})  # fmt: skip
    if objects:
        return (
            f"pickled Python objects ({', '.join(objects[:3])}) and no plain tensors: a whole model needs its own code "
            "to load; there, save torch.save(model.state_dict(), 'weights.pth')"
        )
    keys = [str(key) for key in data] if isinstance(data, Mapping) else []
    shown = ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
    return f"no state dict (name -> tensor), {f'only {shown}' if keys else f'a {type(data).__name__}'}"


def _one_line(exc: Exception) -> str:
    lines = str(exc).strip().splitlines()
    return lines[0][:200] if lines else type(exc).__name__
