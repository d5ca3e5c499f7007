"""Files of any name that a file system takes are replaced atomically."""

import subprocess
import sys

import pytest

from edgecv_runtime import files

LONG = ["a" * size for size in (228, 229, 254, 255)]
NAMES = [*LONG, "\u00e4" * 127, "x" + "\u65e5" * 84, "photo[1].jpg", "what?*.png", "a\udce9b" + "c" * 240]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_name_is_replaced_whole_or_not_at_all(tmp_path, name):
    path = tmp_path / name
    files.write(path, b"first")
    files.write(path, b"second")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as file:
        file.write(b"half")
        1 / 0  # noqa: B018
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]
    files.check_place(path)


@pytest.mark.parametrize("name", ["run", "a" * 255, "run [2]"], ids=["short", "long", "brackets"])
def test_any_folder_is_replaced_and_what_killed_writers_left_is_removed(tmp_path, name):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".{files.short_name(name, 160)}.1.{dead.pid}.tmp"
    left.mkdir()
    for content in ("first", "second"):
        with files.replacing_folder(tmp_path / name) as folder:
            (folder / "file").write_text(content)
    assert (tmp_path / name / "file").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_names_that_are_shortened_stay_different():
    names = {files.short_name("\u00e4" * 120 + str(number), 160) for number in range(50)}
    assert len(names) == 50
    assert max(len(name.encode()) for name in names) <= 160
