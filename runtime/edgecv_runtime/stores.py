"""Pictures by path or URL: files of this machine, and what fsspec reaches (s3://, gs://, https://, zip://...::...)."""

from __future__ import annotations

from typing import Any

from edgecv_runtime import images
from edgecv_runtime.errors import BadInput, ImageError, Unavailable
from edgecv_runtime.preprocess import Image


def is_url(name: str) -> bool:
    """Whether fsspec reads it."""
    return "://" in name


def image(name: str, max_pixels: int = images.MAX_PIXELS) -> Image:
    """Decode a picture by its path or URL; raises as `images.read` does, and Unavailable without fsspec."""
    if not is_url(name):
        return images.read(name, max_pixels)
    return images.decode(_bytes(name), name, max_pixels)


def opened(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it; raises BadInput, and Unavailable where a package is missing."""
    try:
        import fsspec
    except ImportError as exc:
        raise Unavailable(f"{url}: URLs are read by fsspec", extra="bulk") from exc
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except ImportError as exc:  # of a store whose package is its own
        raise Unavailable(f"{url}: {exc}") from exc
    except Exception as exc:  # each store raises what it likes
        raise BadInput(f"{url}: cannot be opened: {type(exc).__name__}: {exc}") from exc
    return found


def _bytes(url: str) -> bytes:
    system, path = opened(url)
    try:
        data: bytes = system.cat_file(path)
    except Exception as exc:  # each store raises what it likes
        raise ImageError(f"{url}: cannot be read: {type(exc).__name__}: {exc}") from exc
    return data
