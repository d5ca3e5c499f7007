"""Logins of cameras from a file or the environment, because every user of a machine can read its command lines.

One line a camera: `HOST[:PORT] USER:PASSWORD`, where `*` stands for any host; the password is the rest of the line
up to blanks at its end, with all its quotes, `@` and `/`. Empty lines and those that begin with `#` are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from edgecv_runtime.errors import BadInput
from edgecv_runtime.stream.redact import remember, shown, split

VARIABLE = "EDGECV_CREDENTIALS"  # the same lines
ANY = "*"


class Login(NamedTuple):
    """One line; place: "host", "host:port" or "*"."""

    place: str
    user: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.place!r}, {self.user!r}, ***)"


class Credentials:
    """The logins of a file or of the environment; the nearest line wins: host and port, host, any host."""

    def __init__(self, logins: tuple[Login, ...] = ()) -> None:
        self._logins = logins
        remember(*(login.password for login in logins))

    @classmethod
    def read(cls, path: Path | None = None, environment: Mapping[str, str] = os.environ) -> Credentials:
        """Of a file, else of the variable EDGECV_CREDENTIALS, else none; raises BadInput, which never shows a line."""
        if path is None:
            return cls.parse(environment.get(VARIABLE, ""), VARIABLE)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "is not UTF-8"
            raise BadInput(f"{path}: credentials cannot be read: {reason}") from exc
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, where: str) -> Credentials:
        """Read lines; where: names them in messages."""
        logins = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            place, _, login = line.strip().partition(" ")
            user, colon, password = login.lstrip().partition(":")
            if not (user and colon and password):
                raise BadInput(f"{where}, line {number}: expected HOST USER:PASSWORD, as 10.0.0.2 admin:secret")
            logins.append(Login(place.lower(), user, password))
        return cls(tuple(logins))

    def apply(self, url: str, *, any_host: bool = True) -> str:
        """The URL with its login; as it is where it has a password, is no URL, or no line is for it.

        A URL with a user alone (`rtsp://admin@host/x`) takes the line of that user. any_host: whether a line for `*`
        will do, which is meant for cameras and none of a stranger's server's business.
        """
        if "://" not in url:
            return url
        parts = split(url)
        if ":" in parts.userinfo or (found := self._of(parts.place.lower(), unquote(parts.userinfo), any_host)) is None:
            return url
        user, password = quote(found.user, safe=""), quote(found.password, safe="")
        complete = f"{parts.scheme}://{user}:{password}@{parts.place}{parts.tail}"
        shown(complete)  # remembers how the password is written there
        return complete

    def _of(self, place: str, user: str, any_host: bool) -> Login | None:
        host = place.rpartition(":")[0] if place.rpartition(":")[2].isdecimal() else place
        for wanted in (place, host, *([ANY] if any_host else [])):
            for login in self._logins:
                if login.place == wanted and user in ("", login.user):
                    return login
        return None
