"""Every format that is read when it is named is found in a folder, and is read as Pillow reads it."""

import io
import os
import socket
import struct

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from edgecv_runtime import boxes, formats, images
from edgecv_runtime.errors import ImageError


@pytest.fixture(scope="module")
def picture():
    """(48, 64, 3) RGB without any symmetry."""
    rows, columns = np.mgrid[0:48, 0:64]
    return np.stack([rows * 5, columns * 3, (rows + columns) * 2], axis=2).astype(np.uint8)


def saved(picture, kind, **settings):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **settings)
    return file.getvalue()


def pillow(data):
    """What Pillow shows, as BGR."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))[..., ::-1]


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


KINDS = {"JPEG": 1, "PNG": 0, "WEBP": 1, "TIFF": 0, "AVIF": 1}  # Pillow's name -> levels by which decoders differ


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_that_of_pillow(picture, kind, orientation):
    data = saved(picture, kind, exif=exif(orientation))
    decoded, wanted = images.decode(data), pillow(data)
    assert decoded.shape == wanted.shape
    assert np.abs(decoded.astype(int) - wanted).max() <= KINDS[kind]


@pytest.mark.parametrize("orientation", [2, 6])
def test_avif_says_its_size_before_it_is_decoded(picture, orientation):
    data = saved(picture, "AVIF", exif=exif(orientation))
    assert formats.header_size(data) == (48, 64)
    with pytest.raises(ImageError, match="64x48 is more than 0.001 megapixels"):
        images.decode(data, max_pixels=1000)
    for length in range(0, 300, 7):  # cut off anywhere: an answer or none, never another error
        formats.header_size(data[:length])


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("JPEG2000", {}),
        ("JPEG2000", {"no_jp2": True}),
        ("PPM", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("WEBP", {}),
    ],
)
def test_sizes_are_known_before_decoding(picture, kind, settings):
    data = saved(picture, kind, **settings)
    assert formats.header_size(data) == (48, 64)
    assert np.abs(images.decode(data).astype(int) - pillow(data)).max() <= 1


def test_sizes_of_text_headers_and_big_tiff():
    assert formats.header_size(b"P5 # made by hand\n# 7 8\n64\n48 255\n" + bytes(64 * 48)) == (48, 64)
    assert formats.header_size(b"P7\nWIDTH 64\nHEIGHT 48\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n") == (48, 64)
    assert formats.header_size(cv2.imencode(".ras", np.zeros((48, 64, 3), np.uint8))[1].tobytes()) == (48, 64)
    entries = struct.pack("<HHQQ", 256, 3, 1, 64) + struct.pack("<HHQQ", 257, 4, 1, 48)
    assert formats.header_size(b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2) + entries) == (48, 64)


@pytest.mark.parametrize("bits", [8, 24])
def test_os2_bitmaps_are_read_as_pillow_reads_them(picture, bits):
    """Their header has 12 bytes, and 16 bits a side (Windows' has 40, and 32)."""
    rows = [picture[row, :, ::-1] if bits == 24 else picture[row, :, :1] for row in range(47, -1, -1)]
    palette = b"" if bits == 24 else bytes(value for grey in range(256) for value in (grey, grey, 255 - grey))
    body = b"".join(row.tobytes() for row in rows)  # 64 pixels: rows need no padding
    start = 26 + len(palette)
    data = struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start) + struct.pack("<IHHHH", 12, 64, 48, 1, bits)
    data += palette + body
    assert formats.header_size(data) == (48, 64)
    assert np.array_equal(images.decode(data), pillow(data))


@pytest.mark.parametrize("name", formats.suffixes())
def test_every_suffix_in_either_case_is_found_in_a_folder_and_read(picture, tmp_path, name):
    row = next(row for row in formats.FORMATS if name in row.suffixes)
    whole = picture[..., 0] if name in (".pgm", ".pbm") else picture
    for number, file in enumerate((f"a{name}", f"b{name.upper()}")):
        data = cv2.imencode(row.writer if name not in (".pgm", ".pbm", ".pam") else name, whole)[1]
        (tmp_path / file).write_bytes(data.tobytes())
        assert images.find(tmp_path)[number].name == file
        assert images.read(tmp_path / file).shape == (48, 64, 3)
    assert images.look(tmp_path).left_out() == ""


def test_what_has_another_name_is_known_by_its_content(picture, tmp_path):
    png, tiff = saved(picture, "PNG"), saved(picture, "TIFF")
    for name, data in (("IMG_0001", png), ("scan", tiff), ("photo.jpg~", png), ("photo.jpg_large", png)):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "camera.nef").write_bytes(tiff)  # a raw file: what OpenCV would show is its thumbnail
    (tmp_path / "notes").write_bytes(b"BM is short for bitmap, P5 for a grey one")
    (tmp_path / "P1").write_bytes(b"P1 is the first pole")
    found = images.look(tmp_path)
    assert [path.name for path in found.images] == ["IMG_0001", "photo.jpg_large", "photo.jpg~", "scan"]
    assert [path.name for path in found.others] == ["P1", "camera.nef", "notes"]


def test_what_is_left_out_of_a_folder_is_counted(picture, tmp_path):
    for name in ("a.png", "@eaDir/a.png", ".thumbnails/a.png", "b.heic", "c.txt", ".DS_Store", "x/Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(saved(picture, "PNG") if name.endswith("png") else b"x")
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket.png"))
    (tmp_path / "again").symlink_to(tmp_path)
    found = images.look(tmp_path)
    assert [path.name for path in found.images] == ["a.png"]
    assert found.left_out() == (
        "2 files that are no images (1 .heic, 1 .txt), 4 hidden or system files and folders, "
        "3 pipes, sockets, devices or links to folders"
    )


def test_a_pipe_that_is_named_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match=r"pipe.png: a pipe, socket or device, not an image file"):
        images.read(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="a folder, not an image file"):
        images.read(tmp_path)
    with pytest.raises(ImageError, match="File name too long"):
        images.look(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC is not decoded here: save it as JPEG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL is not decoded"),
        (b"PF\n1 1\n-1\n" + bytes(12), "floating-point pictures have no 8 bits"),
        (b"#?RADIANCE\n", "floating-point"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b"<svg xmlns=''>", "a drawing"),
    ],
)
def test_what_no_decoder_reads_is_named(data, said):
    with pytest.raises(ImageError, match=f"x: {said}"):
        images.decode(data, "x")


def test_boxes_end_where_a_size_cannot_be():
    assert list(boxes.boxes(struct.pack(">I4s", 3, b"free") + b"xx")) == []
    assert list(boxes.boxes(struct.pack(">I4s", 0, b"mdat") + b"rest")) == [(b"mdat", b"rest")]
    assert list(boxes.boxes(struct.pack(">I4sQ", 1, b"free", 18) + b"xx")) == [(b"free", b"xx")]


def test_all_associations_of_an_avif_count(picture):
    """Properties may be told in several boxes, one for each version and width of their numbers."""
    data = saved(picture, "AVIF", exif=exif(6))
    wanted = boxes.avif(data)
    assert wanted.steps
    other = struct.pack(">I4sIIHB", 19, b"ipma", 0, 1, 99, 0)  # of an item 99, without properties
    at = data.index(b"ipma") - 4
    (length,) = struct.unpack(">I", data[at : at + 4])
    more = bytearray(data[: at + length] + other + data[at + length :])
    for kind in (b"iprp", b"meta"):  # the boxes around it grow
        place = data.index(kind) - 4
        struct.pack_into(">I", more, place, struct.unpack(">I", data[place : place + 4])[0] + len(other))
    assert boxes.avif(bytes(more)) == wanted


def test_an_avif_whose_boxes_cannot_be_read_is_refused(picture):
    """A sequence needs none of the boxes of a picture: OpenCV decodes it by its tracks."""
    file = io.BytesIO()
    first, second = Image.fromarray(picture), Image.fromarray(picture[::-1].copy())
    first.save(file, "AVIF", save_all=True, append_images=[second])
    data = file.getvalue().replace(b"meta", b"free", 1).replace(b"avif", b"avis")
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None
    with pytest.raises(ImageError, match="x: how this AVIF is turned cannot be read"):
        images.decode(data, "x")


def test_a_large_picture_is_read_where_that_is_allowed(tmp_path):
    path = tmp_path / "pano.png"
    path.write_bytes(cv2.imencode(".png", np.full((60, 2000), 9, np.uint8))[1].tobytes())
    with pytest.raises(ImageError, match=r"2000x60 is more than 0.1 megapixels; .*--max-megapixels"):
        images.read(path, max_pixels=100_000)
    assert images.read(path, max_pixels=120_000).shape == (60, 2000, 3)
