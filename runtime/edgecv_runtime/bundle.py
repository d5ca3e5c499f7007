"""The bundle: a folder (or the same folder zipped, NAME.edgecv) that a device needs and nothing else.

Reading refuses a file that is missing, extra, linked or altered; writing is atomic: a reader sees the old bundle
or the new one, never a mix.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from edgecv_runtime import files, records
from edgecv_runtime.errors import BundleError, Unavailable
from edgecv_runtime.evidence import Evidence
from edgecv_runtime.hashes import Hashes
from edgecv_runtime.manifest import SCHEMA, FileRecord, Manifest

if TYPE_CHECKING:
    from edgecv_runtime.golden import Golden

MANIFEST, EVIDENCE, GOLDEN = "bundle.json", "evidence.json", "golden.npz"
ARCHIVE_SUFFIX = ".edgecv"
MAX_BYTES = 4 << 30


class Bundle:
    """A bundle that has been read and found whole; `close` (or `with`) removes what a zipped one was unpacked to."""

    def __init__(self, path: str | Path, *, remembered: bool = False) -> None:
        """Open a bundle folder or a .edgecv archive and check every file; raises BundleError in one line.

        remembered: a file that was read since the machine started and not written since is not read again; those of an
        archive are always new.
        """
        self.path = Path(path)
        self._unpacked: weakref.finalize[..., Bundle] | None = None
        self._golden: Golden | None = None
        self.root = self.path
        self._is_old = False
        try:
            if self.path.is_file():
                self.root = _place_for(self.path)
                self._unpacked = weakref.finalize(self, _remove, self.root, os.getpid())
                _unpack(self.path, self.root)
            hashes = Hashes.recall() if remembered and self._unpacked is None else Hashes()
            self.manifest, schema, self._seen = _read_whole(self.root, str(self.path), hashes)
            self._is_old = schema != SCHEMA
            hashes.remember()
        except BaseException:
            self.close()
            raise

    def file(self, name: str) -> Path:
        """Path of a file of the bundle, for the time that the bundle is open."""
        return self.root / name

    def variant_file(self, name: str) -> Path:
        """Path of a variant's ONNX file; raises BundleError when there is no such variant."""
        variant = self.manifest.variant(name)
        if variant is None:
            known = ", ".join(each.name for each in self.manifest.variants)
            raise BundleError(f"{self.path}: no variant '{name}'; it has: {known}")
        return self.file(variant.file)

    def sha256(self, variant: str) -> str:
        """Hash of a variant's file."""
        return self.manifest.files[self.variant_file(variant).name].sha256

    def evidence(self) -> Evidence:
        """What was measured; empty before the first verification."""
        if EVIDENCE not in self.manifest.files:
            return Evidence()
        raw, where = self.file(EVIDENCE).read_bytes(), f"{self.path}/{EVIDENCE}"
        if self._is_old:
            from edgecv_runtime import schema1

            return schema1.evidence(raw, where)
        return records.decode(raw, Evidence, where, BundleError)

    def golden(self) -> Golden:
        """The golden inputs with the reference's outputs, read once; raises BundleError when the bundle has none."""
        from edgecv_runtime import golden  # reading zip archives costs a start some 8 ms

        if GOLDEN not in self.manifest.files:
            raise BundleError(f"{self.path}: has no golden inputs; write it with 'edgecv export'")
        if self._golden is None:
            self._golden = golden.read(self.file(GOLDEN), self.manifest, f"{self.path}/{GOLDEN}", self._is_old)
        return self._golden

    def content(self) -> dict[str, bytes | Path]:
        """The files beside the manifest, for `write`: paths, and the bytes of what an older schema wrote otherwise."""
        own: dict[str, bytes | Path] = {name: self.file(name) for name in self.manifest.files}
        if self._is_old and GOLDEN in own:
            own[GOLDEN] = self.golden().to_bytes()
        if self._is_old and EVIDENCE in own:
            own[EVIDENCE] = records.encode(self.evidence())
        return own

    def check_unchanged(self, name: str) -> None:
        """Raise BundleError when a file was exchanged since the bundle was opened.

        To be called after a backend has read the file by its path: what it read is then what was checked.
        """
        if files.identity(self.file(name)) == self._seen[name]:
            return
        problem = _problem(self.root, name, self.manifest.files[name], Hashes())
        if problem:
            raise BundleError(f"{self.path}/{name}: was exchanged while the bundle was open ({problem}); load it again")

    def close(self) -> None:
        """Remove the files that an archive was unpacked to."""
        if self._unpacked is not None:
            self._unpacked()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_place(path: Path) -> None:
    """Refuse a place for a bundle where something else lies; raises BundleError."""
    if path.suffix == ARCHIVE_SUFFIX:
        return
    if path.exists() and not path.is_dir():
        raise BundleError(f"{path}: is a file; a bundle is a folder, or a name that ends in {ARCHIVE_SUFFIX}")
    if path.is_dir() and any(path.iterdir()) and not (path / MANIFEST).is_file():
        raise BundleError(f"{path}: is a folder with other things in it; name a new one")


def write(path: str | Path, manifest: Manifest, content: Mapping[str, bytes | Path]) -> None:
    """Write a bundle atomically: a folder, or one file when `path` ends in .edgecv.

    manifest: without `files`, which are hashed here. content: each file's name with its bytes or the path to copy.
    """
    path = Path(path)
    if path.suffix == ARCHIVE_SUFFIX:
        import tempfile

        with tempfile.TemporaryDirectory(prefix="edgecv-") as folder:
            _fill(Path(folder), manifest, content)
            _pack(Path(folder), path)
        return
    check_place(path)
    with files.replacing_folder(path) as folder:
        _fill(folder, manifest, content)


def update(
    bundle: Bundle,
    *,
    manifest: Manifest | None = None,
    content: Mapping[str, bytes | Path] | None = None,
    evidence: Evidence | None = None,
) -> None:
    """Replace parts of a bundle atomically, keep the rest; evidence of files that are gone goes with them."""
    for name in bundle.manifest.files:
        bundle.check_unchanged(name)
    manifest = manifest or bundle.manifest
    wanted = {variant.file for variant in manifest.variants} | {GOLDEN}
    whole = {name: each for name, each in bundle.content().items() if name in wanted} | dict(content or {})
    hashes = {_record(each).sha256 for name, each in whole.items() if name in wanted}
    evidence = (evidence or bundle.evidence()).of_files(hashes)
    if evidence.entries:
        whole[EVIDENCE] = records.encode(evidence)
    write(bundle.path, manifest, whole)


def _fill(folder: Path, manifest: Manifest, content: Mapping[str, bytes | Path]) -> None:
    import shutil

    for name, source in content.items():
        if isinstance(source, bytes):
            (folder / name).write_bytes(source)
        else:
            shutil.copyfile(source, folder / name)
    table = {name: _record(folder / name) for name in sorted(content)}
    (folder / MANIFEST).write_bytes(records.encode(msgspec.structs.replace(manifest, files=table)))


def _record(source: bytes | Path) -> FileRecord:
    import hashlib

    if isinstance(source, bytes):
        return FileRecord(sha256=hashlib.sha256(source).hexdigest(), bytes=len(source))
    return FileRecord(sha256=files.sha256(source), bytes=source.stat().st_size)


class _Version(msgspec.Struct):
    """What of a manifest is read first: the other fields are those of its schema."""

    schema: int = SCHEMA


def _manifest(raw: bytes, where: str) -> tuple[Manifest, int]:
    """A manifest and the schema it is written in; one that is not known is refused before any field is looked at."""
    schema = records.decode(raw, _Version, where, BundleError).schema
    if schema == 1:
        from edgecv_runtime import schema1

        return schema1.manifest(raw, where), schema
    if schema != SCHEMA:
        raise BundleError(f"{where}: schema {schema} is not {SCHEMA}: use the edgecv version that wrote it")
    return records.decode(raw, Manifest, where, BundleError), schema


def _read_whole(root: Path, where: str, hashes: Hashes) -> tuple[Manifest, int, dict[str, files.Identity]]:
    """Read the manifest, give its schema, and check every file against it; with what tells each from another one."""
    path = root / MANIFEST
    if not root.is_dir():
        raise BundleError(f"{where}: no such bundle")
    if not path.is_file():
        meant = f"; a run keeps its bundle inside: {where}/bundle" if (root / "bundle" / MANIFEST).is_file() else ""
        raise BundleError(f"{where}: not a bundle: it has no {MANIFEST}{meant}")
    raw = path.read_bytes()
    manifest, schema = _manifest(raw, f"{where}/{MANIFEST}")
    unlisted = [variant.file for variant in manifest.variants if variant.file not in manifest.files]
    if unlisted:
        raise BundleError(f"{where}/{MANIFEST}: variants name files that it does not list: {', '.join(unlisted)}")
    found = {file.name for file in root.iterdir()}
    extra = sorted(found - set(manifest.files) - {MANIFEST})
    if extra and path.read_bytes() != raw:  # a writer exchanged the folder while it was read
        return _read_whole(root, where, hashes)
    if extra:
        raise BundleError(f"{where}: files that the manifest does not list: {', '.join(extra)}; remove them")
    seen = {}
    for name, record in manifest.files.items():
        seen[name] = files.identity(root / name)
        problem = _problem(root, name, record, hashes)
        if problem and path.is_file() and path.read_bytes() != raw:
            return _read_whole(root, where, hashes)
        if problem:
            raise BundleError(f"{where}/{name}: {problem}; copy the bundle again")
    return manifest, schema, seen


def _problem(root: Path, name: str, record: FileRecord, hashes: Hashes) -> str:
    """What is wrong with one file of a bundle, or ""."""
    file = root / name
    if Path(name).name != name or name == MANIFEST:
        return "not a plain file name"
    if file.is_symlink() or (file.exists() and not file.is_file()):
        return "a link or folder, not a file"
    if not file.exists():
        return "missing"
    size = file.stat().st_size
    if size != record.bytes:
        return f"has {size} bytes, the manifest says {record.bytes}: truncated or altered"
    if not hashes.holds(file, record.sha256):
        return "altered: its SHA-256 is not the manifest's"
    return ""


def _pack(folder: Path, path: Path) -> None:
    """Zip a folder with fixed dates and order, so that equal bundles give equal archives."""
    import zipfile

    with files.replacing(path) as target, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.writestr(zipfile.ZipInfo(file.name), file.read_bytes(), zipfile.ZIP_DEFLATED)


def _place_for(archive: Path) -> Path:
    """A new folder among the temporary ones."""
    import tempfile  # a bundle folder, the usual case, does without

    try:
        return Path(tempfile.mkdtemp(prefix="edgecv-"))
    except OSError as exc:
        raise Unavailable(
            f"{archive}: there is no folder to unpack it to ({exc.strerror}); unpack it where the device can read it, "
            "or set TMPDIR to a folder that can be written"
        ) from exc


def _remove(folder: Path, owner: int) -> None:
    """Remove what an archive was unpacked to; a forked process leaves that to the one that made it."""
    if owner == os.getpid():
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


def _unpack(path: Path, folder: Path) -> None:
    """Unpack an archive of plain file names into an empty folder; refuses everything else a zip file can hold."""
    import shutil
    import zipfile
    import zlib

    if path.suffix.lower() == ".onnx":
        raise BundleError(f"{path}: an ONNX file, not a bundle, which is a folder or {ARCHIVE_SUFFIX} file; export it")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [entry.filename for entry in archive.infolist()]
            if len(set(names)) != len(names):
                raise BundleError(f"{path}: the archive holds the same name twice")
            total = 0
            for entry in archive.infolist():
                is_link = (entry.external_attr >> 16) & 0o170000 == 0o120000
                if Path(entry.filename).name != entry.filename or "\\" in entry.filename or is_link:
                    raise BundleError(f"{path}: the archive holds '{entry.filename}', which is not a plain file")
                total += entry.file_size
                if total > MAX_BYTES or entry.file_size > 1000 * max(1, entry.compress_size):
                    raise BundleError(f"{path}: the archive unpacks to too much ({total >> 20} MiB)")
                with archive.open(entry) as source, (folder / entry.filename).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as exc:  # RuntimeError: encrypted
        raise BundleError(f"{path}: not a whole {ARCHIVE_SUFFIX} archive: {exc}; copy it again") from exc
