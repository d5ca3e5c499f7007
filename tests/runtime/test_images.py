import struct
import zlib

import cv2
import numpy as np
import pytest

from edgecv_runtime import formats, images
from edgecv_runtime.errors import ImageError


def encoded(suffix, picture, *parameters):
    done, data = cv2.imencode(suffix, picture, list(parameters))
    assert done
    return data.tobytes()


@pytest.fixture
def picture():
    rows, columns = np.mgrid[0:48, 0:64]
    return np.stack([rows * 5, columns * 3, (rows + columns) * 2], axis=2).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".webp", ".jpg"])
def test_formats_decode(suffix, picture):
    decoded = images.decode(encoded(suffix, picture))
    assert decoded.shape == picture.shape
    assert np.abs(decoded.astype(int) - picture).mean() < (6 if suffix in (".jpg", ".webp") else 1e-9)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    grey = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    decoded = images.decode(encoded(".png", grey))
    assert decoded.shape == (48, 64, 3)
    assert np.abs(decoded[..., 0].astype(int) - grey / 257).max() <= 1


def test_exif_orientation_is_applied(picture):
    jpeg = encoded(".jpg", picture)
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + struct.pack("<HHII", 0x0112, 3, 1, 6) + b"\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    turned = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    assert (images.decode(turned) == np.rot90(images.decode(jpeg), -1)).all()


def test_alpha_is_dropped_and_palette_expanded(picture):
    with_alpha = np.dstack([picture, np.full(picture.shape[:2], 10, np.uint8)])
    assert (images.decode(encoded(".png", with_alpha)) == picture).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_half_a_file_is_refused(suffix, share, picture):
    whole = encoded(suffix, np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8))
    with pytest.raises(ImageError, match=r"holiday: .*(truncated|decoded)"):
        images.decode(whole[: int(len(whole) * share)], "holiday")


@pytest.mark.parametrize(
    ("data", "said"), [(b"", "empty"), (b"not a picture", "not an image"), (b"\xff\xd8\xff", "truncated")]
)
def test_what_is_no_image_is_named(data, said, tmp_path):
    file = tmp_path / "x.jpg"
    file.write_bytes(data)
    with pytest.raises(ImageError, match=f"x.jpg: .*{said}"):
        images.read(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"none.jpg: cannot be read: No such file"):
        images.read(tmp_path / "none.jpg")


def test_four_hundred_megapixels_are_refused_by_the_header():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="20000x20000 is more than 50 megapixels"):
        images.decode(bomb)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".gif"])
def test_header_size_is_the_decoded_size(suffix, picture):
    data = encoded(suffix, picture)
    assert formats.header_size(data) == (48, 64)


def test_find_sorts_and_leaves_out_hidden_and_other_files(tmp_path, picture):
    for name in ("b.png", "a.JPG", ".hidden.png", "notes.txt", "sub/c.webp"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    assert [path.name for path in images.find(tmp_path)] == ["a.JPG", "b.png", "c.webp"]
    with pytest.raises(ImageError, match="no such file or folder"):
        images.find(tmp_path / "none")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_what_phones_append_behind_an_image_does_not_matter(suffix, picture):
    """Motion photos carry a video behind the end marker."""
    data = encoded(suffix, picture)
    assert (images.decode(data + b"MotionPhoto" * 20_000) == images.decode(data)).all()


def test_the_end_marker_of_a_thumbnail_is_not_the_image_s(picture):
    jpeg = encoded(".jpg", np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8))
    thumbnail = encoded(".jpg", picture[:8, :8])
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = jpeg[:2] + segment + jpeg[2:]
    assert (images.decode(whole) == images.decode(jpeg)).all()
    with pytest.raises(ImageError, match="truncated"):
        images.decode(whole[: len(whole) // 2])


@pytest.mark.parametrize("parameters", [(), (cv2.IMWRITE_WEBP_QUALITY, 101)])
def test_webp_sizes_are_read_lossy_and_lossless(picture, parameters):
    assert formats.header_size(encoded(".webp", picture, *parameters)) == (48, 64)


def test_tiff_sizes_are_read(picture):
    assert formats.header_size(encoded(".tiff", picture)) == (48, 64)


def test_images_in_hidden_folders_are_left_out(tmp_path):
    (tmp_path / ".thumbs").mkdir()
    (tmp_path / ".thumbs" / "x.jpg").write_bytes(b"x")
    assert images.find(tmp_path) == []
