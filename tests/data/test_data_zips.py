"""Names in zips: what their makers meant, by the bytes that the tools of the world write."""

import struct
import zipfile
import zlib

import pytest

from edgecv.data import DataConfig, load
from edgecv.data.listing import list_tree
from edgecv.data.zips import list_zip
from edgecv_runtime.errors import DatasetError


def write(path, names, *, flag=0, extra=None):
    """A .zip whose names are exactly these bytes, each entry holding its number; zipfile writes no such file itself."""
    body, directory = b"", b""
    for number, name in enumerate(names):
        data = str(number).encode()
        more = b"" if extra is None else extra(name)
        facts = struct.pack("<HHHHIIIHH", flag, 0, 0, 33, zlib.crc32(data), len(data), len(data), len(name), len(more))
        directory += struct.pack("<4sHH", b"PK\1\2", 20, 20) + facts
        directory += struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name + more
        body += struct.pack("<4sH", b"PK\3\4", 20) + facts + name + more + data
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, len(names), len(names), len(directory), len(body), 0)
    path.write_bytes(body + directory + end)
    return path


def names(tree):
    return {file.name: file.read().decode() for file in tree.files}


UMLAUT = "L\u00f6wenzahn/\u00e9t\u00e9.png"
KANJI = "\u732b/\u8868.png"  # Shift-JIS writes the second one's last byte as a backslash


@pytest.mark.parametrize(("flag", "count"), [(0x800, 0), (0, 0)], ids=["flag", "no flag"])
def test_utf8_is_utf8_with_the_flag_and_without(tmp_path, flag, count):
    tree = list_zip(write(tmp_path / "a.zip", [UMLAUT.encode(), b"cat/1.png"], flag=flag))
    assert names(tree) == {UMLAUT: "0", "cat/1.png": "1"}
    assert len(tree.notes) == count


def test_what_is_no_utf8_is_cp437_and_counted_unless_it_is_said(tmp_path):
    path = write(tmp_path / "a.zip", [UMLAUT.encode("cp437"), "\u00fcber/1.png".encode(), b"cat/1.png"])
    with zipfile.ZipFile(path) as own:
        assert UMLAUT in own.namelist()  # zipfile takes all names for cp437
    tree = list_zip(path)
    assert names(tree) == {UMLAUT: "0", "\u00fcber/1.png": "1", "cat/1.png": "2"}
    assert tree.notes[0].startswith(f"1 names in the .zip are not UTF-8 and were read as cp437: {UMLAUT}; ")
    assert "data.encoding" in tree.notes[0]


@pytest.mark.parametrize("encoding", ["cp932", "gbk", "cp1252", "cp866"])
def test_an_encoding_that_is_said_is_used(tmp_path, encoding):
    text = {"cp932": KANJI, "gbk": KANJI, "cp1252": UMLAUT, "cp866": "\u043a\u043e\u0442/1.png"}[encoding]
    tree = list_tree(write(tmp_path / "a.zip", [text.encode(encoding), b"dog/1.png"]), encoding=encoding)
    assert (set(names(tree)), tree.notes) == ({text, "dog/1.png"}, ())
    with pytest.raises(DatasetError, match=r"is no name in utf-8; data\.encoding says another"):
        list_tree(write(tmp_path / "b.zip", [text.encode(encoding)]), encoding="utf-8")


def test_info_zips_unicode_field_is_used_where_it_belongs_to_the_name(tmp_path):
    def field(name, change=0):
        body = b"\1" + struct.pack("<I", zlib.crc32(name) ^ change) + UMLAUT.encode()
        return struct.pack("<HH", 0x7075, len(body)) + body

    garbled = b"L\x94wenzahn/?.png"
    assert names(list_zip(write(tmp_path / "a.zip", [garbled], extra=field))) == {UMLAUT: "0"}
    stale = list_zip(write(tmp_path / "b.zip", [garbled], extra=lambda name: field(name, change=1)))
    assert set(names(stale)) == {"L\u00f6wenzahn/?.png"}


@pytest.mark.parametrize(
    "made",
    [
        [b"./cat/0.png", b"./dog/0.png"],
        [b"cat\\0.png", b"dog\\0.png"],
        [b"photos\\cat\\0.png", b"photos\\dog\\0.png", b"photos\\", b"photos\\dog\\"],
        [b"/cat//0.png", b"/dog/./0.png"],
        [b".\\cat\\0.png", b"./dog\\0.png"],
    ],
)
def test_folders_are_folders_however_they_are_written(tmp_path, made):
    tree = list_zip(write(tmp_path / "a.zip", made))
    assert names(tree) == {"cat/0.png": "0", "dog/0.png": "1"}
    assert (tree.folders, tree.notes) == (("cat", "dog"), ())


def test_hidden_and_system_entries_and_ways_out_are_counted(tmp_path):
    made = [
        b"cat/0.png",
        b"dog/0.png",
        b"__MACOSX/cat/._0.png",
        b"__MACOSX/dog/._0.png",
        b"cat/.DS_Store",
        b"../up.png",
    ]
    tree = list_zip(write(tmp_path / "a.zip", made))
    assert set(names(tree)) == {"cat/0.png", "dog/0.png"}
    assert tree.notes == ("3 hidden or system files and folders were left out: __MACOSX, cat/.DS_Store, ..",)


def test_files_beside_the_folder_that_was_zipped_are_counted(tmp_path):
    tree = list_zip(write(tmp_path / "a.zip", [b"set/cat/0.png", b"set/dog/0.png", b"stray.jpg", b"README.txt"]))
    assert set(names(tree)) == {"cat/0.png", "dog/0.png"}
    assert tree.notes == ("2 files beside the folder 'set' in the .zip were left out: README.txt, stray.jpg",)


def test_of_two_entries_with_one_name_the_later_counts(tmp_path):
    assert names(list_zip(write(tmp_path / "a.zip", [b"a/0.png", b"b/0.png", b"a\\0.png"])))["a/0.png"] == "2"


def test_a_name_that_is_flagged_and_no_utf8_is_one_line(tmp_path):
    with pytest.raises(DatasetError, match="not a complete zip file"):
        list_zip(write(tmp_path / "a.zip", [b"\xff\xfe"], flag=0x800))


def test_classes_have_the_names_that_were_meant(photos, tmp_path):
    root = photos({"L\u00f6wenzahn": 3, "G\u00e4nsebl\u00fcmchen": 3})
    path = tmp_path / "flowers.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, "flowers/" + file.relative_to(root).as_posix())
    whole = bytearray(path.read_bytes())
    for start in (b"PK\3\4", b"PK\1\2"):  # take the UTF-8 flag from every header, as Debian's zip leaves it out
        at = whole.find(start)
        while at >= 0:
            flags = at + (6 if start == b"PK\3\4" else 8)
            whole[flags : flags + 2] = b"\0\0"
            at = whole.find(start, at + 4)
    path.write_bytes(whole)
    found = load(DataConfig(source="folder", path=str(path)))
    assert (found.classes, found.notes) == (("G\u00e4nsebl\u00fcmchen", "L\u00f6wenzahn"), ())
