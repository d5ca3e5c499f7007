"""The files inside a .zip: names as their makers meant them.

The format knows two encodings of names, cp437 and, by a flag, UTF-8 (PKWARE APPNOTE 4.4.4, appendix D); many tools
write others. Debian's `zip` writes UTF-8 without the flag, Windows the machine's own code page, some a backslash
between folders or a `./` before them.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from functools import partial
from pathlib import Path

from edgecv.data.split import listed
from edgecv.data.tree import File, Tree, by_name, skipped_note
from edgecv_runtime.errors import DatasetError, ImageError
from edgecv_runtime.formats import HEAD
from edgecv_runtime.listing import is_left_out

_DAMAGED = (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile)  # or encrypted, or an odd method
MAX_BYTES = 500_000_000  # of one file, unpacked: what a zip bomb claims to be
_UTF8_FLAG = 0x800
_UNICODE_PATH = 0x7075  # Info-ZIP's extra field with the name in UTF-8 (APPNOTE 4.6.9)


def list_zip(path: Path, encoding: str | None = None) -> Tree:
    """List a .zip; a lone folder is taken off, what lies beside it counted. encoding: of names that do not say theirs.

    Raises DatasetError when it is no complete zip, or when names are not in the encoding that was given.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as exc:
        raise DatasetError(f"{path}: not a complete zip file: {exc}") from exc
    files: dict[str, File] = {}  # of two entries with one name the later one counts, as when they are unpacked
    folders: set[str] = set()
    guessed: list[str] = []
    skipped: dict[str, None] = {}
    for info in archive.infolist():
        text, is_guess = _name(info, encoding, path)
        parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
        name = "/".join(parts)
        left_out = next((depth for depth, part in enumerate(parts) if is_left_out(part)), None)
        if left_out is not None:
            skipped["/".join(parts[: left_out + 1])] = None
            continue
        is_folder = text.endswith(("/", "\\"))
        parents = parts if is_folder else parts[:-1]
        folders.update("/".join(parents[: depth + 1]) for depth in range(len(parents)))
        if is_guess:
            guessed.append(name)
        if parts and not is_folder:
            files[name] = File(
                name,
                f"{info.file_size}:{info.CRC:08x}",
                partial(_unzip, archive, info, name),
                partial(_head, archive, info),
            )
    notes = skipped_note(list(skipped))
    if guessed:
        notes += (
            f"{len(guessed)} names in the .zip are not UTF-8 and were read as cp437: {listed(guessed, 3)}; "
            "where they look wrong, data.encoding says what they are (cp932, gbk, latin-1, ...)",
        )
    return _unwrapped(Tree(path, by_name(list(files.values())), tuple(sorted(folders)), notes))


def _name(info: zipfile.ZipInfo, encoding: str | None, path: Path) -> tuple[str, bool]:
    """An entry's name, and whether its encoding is a guess."""
    given = info.orig_filename.partition("\0")[0]
    if info.flag_bits & _UTF8_FLAG:
        return given, False
    raw = given.encode("cp437")  # as zipfile decoded it: every byte has a character there
    if raw.isascii():
        return raw.decode("ascii"), False
    own = _unicode_path(info.extra, raw)
    if own is not None:
        return own, False
    try:
        return raw.decode(encoding or "utf-8"), False
    except UnicodeDecodeError as exc:
        if encoding is not None:
            raise DatasetError(f"{path}: {raw!r} is no name in {encoding}; data.encoding says another one") from exc
        return raw.decode("cp437"), True


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    """The UTF-8 name in an entry's extra fields, when it belongs to its name by the checksum."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        body = extra[at + 4 : at + 4 + size]
        if kind == _UNICODE_PATH and body[:1] == b"\x01" and body[1:5] == struct.pack("<I", zlib.crc32(raw)):
            return body[5:].decode("utf-8", "replace")
        at += 4 + size
    return None


def _unwrapped(tree: Tree) -> Tree:
    """The tree without the folder that was zipped, one alone; files beside it are left out with a note."""
    while len(tree.tops) == 1 and any("/" in name for name in tree.folders):
        start = tree.tops[0] + "/"
        beside = [file.name for file in tree.files if not file.name.startswith(start)]
        note = f"{len(beside)} files beside the folder '{tree.tops[0]}' in the .zip were left out: {listed(beside)}"
        inner = [
            File(file.name[len(start) :], file.version, file.read, file.head)
            for file in tree.files
            if file.name.startswith(start)
        ]
        names = tuple(name[len(start) :] for name in tree.folders if name.startswith(start))
        tree = Tree(tree.root / tree.tops[0], tuple(inner), names, (*tree.notes, *([note] if beside else [])))
    return tree


def _head(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The first bytes of an entry; none where it cannot be unpacked, which reading it says."""
    try:
        with archive.open(info) as file:
            return file.read(HEAD)
    except _DAMAGED:
        return b""


def _unzip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> bytes:
    if info.file_size > MAX_BYTES:
        raise ImageError(f"{name}: {info.file_size} bytes is more than {MAX_BYTES}")
    try:
        return archive.read(info)
    except _DAMAGED as exc:
        raise ImageError(f"{name}: cannot be unpacked: {exc}") from exc
