"""A video file: every frame exactly once, and the truth about how it ended."""

from __future__ import annotations

from pathlib import Path

from edgecv_runtime.errors import BadInput, SourceUnavailable
from edgecv_runtime.stream.ending import End
from edgecv_runtime.stream.sources.base import DEFAULT_TIMEOUT_S, Facts, Shots, Source
from edgecv_runtime.stream.sources.decoded import import_av
from edgecv_runtime.stream.sources.libav import Decoder, NoVideo, counted


class FileSource(Source):
    """Frames of a video file, in order of presentation, turned upright as its display matrix says.

    A truncated file is told from a complete one by the container's own index (MP4, MOV, AVI) or duration (Matroska,
    WebM), or because it breaks off inside a packet; where MPEG-TS and raw streams end between two, the end is the end.
    """

    def __init__(self, path: str | Path, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """path: the file; timeout_s: for opening and for each read (network file systems stall).

        Raises BadInput when it is missing or no file.
        """
        super().__init__(str(path), live=False, timeout_s=timeout_s)
        self._path = Path(path)
        self._decoder: Decoder | None = None
        if not self._path.exists():
            raise BadInput(f"{path}: no such file; give a video file, a folder of images or the URL of a camera")
        if self._path.is_dir():
            raise BadInput(f"{path}: a folder, where a video file was expected")

    def _open(self) -> Facts:
        av = import_av()
        if self._path.stat().st_size == 0:
            raise BadInput(f"{self.name}: the file is empty")
        try:
            # Only this file: a playlist in disguise must not make FFmpeg open others, or the network.
            only = {"protocol_whitelist": "file"}
            timeouts_s, url = (self.timeout_s, self.timeout_s), f"file:{self._path}"
            self._decoder = Decoder(url, name=self.name, options=only, timeouts_s=timeouts_s, threads="AUTO")
        except NoVideo as exc:
            raise BadInput(f"{self.name}: holds no video that can be decoded") from exc
        except (av.error.PermissionError, av.error.OSError, av.error.ExitError) as exc:
            raise SourceUnavailable(f"{self.name}: cannot be read: {exc.strerror}", kind="no permission") from exc
        except av.FFmpegError as exc:
            raise BadInput(f"{self.name}: {_why_not_a_video(self._path)}") from exc
        return self._decoder.facts(live=False)

    def _shots(self) -> Shots:
        av = import_av()
        decoder = self._decoder
        assert decoder is not None
        try:
            for number, shot in enumerate(decoder.shots()):
                # A raw stream has no stamps: its frames are as far apart as its rate says.
                made_up = number / self.fps if self.fps else None
                yield shot if shot.pts_s is not None else shot._replace(pts_s=made_up)
        except av.FFmpegError as exc:  # the end of a truncated file, for some containers; others just end
            early: str | None = f"{counted(self.declared_frames, self.frames_read)}: {exc.strerror}"
        else:
            early = decoder.early(self.frames_read)
        return End("truncated" if early else "end of file", early or "", decoder.damaged)

    def _release(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None


def _why_not_a_video(path: Path) -> str:
    """Say what the first bytes are; an MP4 without its index is what an interrupted recording leaves."""
    with path.open("rb") as file:
        head = file.read(16)
    if head[4:8] == b"ftyp" and b"moov" not in _boxes(path):
        return "its index is missing (the 'moov' box): an interrupted recording or copy; record or copy it again"
    return f"not a video that can be decoded (starts with {head!r})"


def _boxes(path: Path) -> list[bytes]:
    """Names of the top-level boxes of an MP4 or MOV file (ISO 14496-12, 4.2)."""
    names = []
    size = path.stat().st_size
    with path.open("rb") as file:
        at = 0
        while at + 8 <= size:
            file.seek(at)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            names.append(header[4:8])
            if length < 8:  # 0: to the end of the file; less: broken
                break
            at += length
    return names
