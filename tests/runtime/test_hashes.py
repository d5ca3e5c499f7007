"""Hashes that are remembered until the machine starts again, and when they must not be."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecv_runtime import files, hashes


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The files that are read to be hashed; files are old enough at once, memory lies in a folder of its own."""
    found: list[Path] = []
    plain = files.sha256

    def counted(path: Path) -> str:
        found.append(path)
        return plain(path)

    monkeypatch.setattr(files, "sha256", counted)
    monkeypatch.setattr(hashes, "FRESH_NS", 0)
    monkeypatch.setenv("EDGECV_CACHE", str(tmp_path / "cache"))
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"first")
    return path


def holds(path: Path, content: bytes) -> bool:
    """What a new process finds."""
    known = hashes.Hashes.recall()
    found = known.holds(path, digest(content))
    known.remember()
    return found


def test_a_file_is_read_once(model: Path, reads: list[Path]) -> None:
    assert all(holds(model, b"first") for _ in range(3))
    assert reads == [model]


def test_what_is_remembered_does_not_refuse(model: Path, reads: list[Path], tmp_path: Path) -> None:
    """Another image, mounted in the place of the first: device, inode, size and times may be the same."""
    holds(model, b"first")
    (kept,) = (tmp_path / "cache" / "hashes").iterdir()
    kept.write_text(kept.read_text().replace(digest(b"first"), digest(b"other")))
    assert holds(model, b"first")
    assert holds(model, b"first")
    assert reads == [model, model]


def keeps_its_times(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def exchanged(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"other")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"other"), keeps_its_times, exchanged])
def test_a_changed_file_is_read_again(change: Callable[[Path], object], model: Path, reads: list[Path]) -> None:
    holds(model, b"first")
    time.sleep(0.02)  # file systems tell times in steps of up to 10 ms; FRESH_NS stands for this in real use
    change(model)
    assert not holds(model, b"first")
    assert holds(model, b"other")


def test_what_was_just_written_is_not_remembered(
    model: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes, "FRESH_NS", 60 * 10**9)
    holds(model, b"first")
    holds(model, b"first")
    assert reads == [model, model]


def test_a_new_start_of_the_machine_reads_again(
    model: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    holds(model, b"first")
    boot = tmp_path / "boot_id"
    boot.write_text("another-start\n")
    monkeypatch.setattr(hashes, "BOOT", boot)
    assert holds(model, b"first")
    holds(model, b"first")
    assert reads == [model, model]
    assert len(list((tmp_path / "cache" / "hashes").iterdir())) == 1  # the old start's went away


def test_without_a_name_of_the_start_nothing_is_remembered(
    model: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hashes, "BOOT", tmp_path / "missing")
    holds(model, b"first")
    holds(model, b"first")
    assert reads == [model, model]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": 1}', b"\xff"])
def test_a_damaged_memory_is_forgotten(content: bytes, model: Path, reads: list[Path], tmp_path: Path) -> None:
    holds(model, b"first")
    (kept,) = (tmp_path / "cache" / "hashes").iterdir()
    kept.write_bytes(content)
    assert holds(model, b"first")
    assert reads == [model, model]
    holds(model, b"first")
    assert len(reads) == 2


def test_a_folder_that_cannot_be_written_costs_only_the_reading(
    model: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("EDGECV_CACHE", str(tmp_path / "file"))
    assert holds(model, b"first")
    assert holds(model, b"first")


def test_a_user_without_a_home_folder_reads(model: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("EDGECV_CACHE")
    monkeypatch.setattr(Path, "home", nobody)
    assert holds(model, b"first")
    assert holds(model, b"first")
    assert reads == [model, model]


def test_the_memory_stays_small(tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "KEPT", 4)
    for number in range(8):
        path = tmp_path / f"{number}"
        path.write_bytes(bytes([number]))
        holds(path, bytes([number]))
    reads.clear()
    for number in (7, 6, 5, 4):
        holds(tmp_path / f"{number}", bytes([number]))
    assert not reads
    holds(tmp_path / "0", bytes([0]))
    assert len(reads) == 1
