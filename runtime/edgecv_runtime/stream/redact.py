"""Passwords never appear: one redactor for our own names of sources and for every message of a foreign library."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

HIDDEN = "***"

# scheme://user:password@ up to the LAST @ of the word, because passwords hold @, / and % in the wild.
_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<userinfo>[^\s'\"<>]*)@")
# password=..., ?token=..., user-pw="..." as cameras put them into paths and GStreamer into properties.
_NAMED = re.compile(
    r"(?P<key>(?:user-pw|user-id|pass(?:word|wd)?|pwd|pw|token|secret|api[_-]?key|auth|signature)\s*=\s*)"
    r"(?P<value>\"[^\"]*\"|'[^']*'|[^\s&'\"!]+)",
    re.IGNORECASE,
)
_SHORTEST = 4  # a shorter secret would be cut out of ordinary words, and show by the holes


def redact(text: str, *secrets: str) -> str:
    """Replace credentials in any text by `***`.

    secrets: known passwords; each is found raw, percent-encoded and decoded, wherever it stands.

    >>> redact("cannot open rtsp://admin:p@ss/w%rd@10.0.0.2:554/cam")
    'cannot open rtsp://admin:***@10.0.0.2:554/cam'
    """
    for secret in secrets:
        for form in {secret, unquote(secret), quote(secret, safe=""), quote(unquote(secret), safe="")}:
            if len(form) >= _SHORTEST:
                text = text.replace(form, HIDDEN)
    text = _USERINFO.sub(_hide_userinfo, text)
    return _NAMED.sub(lambda found: found["key"] + HIDDEN, text)


def secrets_of(url: str) -> tuple[str, ...]:
    """The passwords that stand in a URL or pipeline, raw: what `redact` must find in foreign messages."""
    found = [match["userinfo"] for match in _USERINFO.finditer(url)]
    passwords = [userinfo.split(":", 1)[1] if ":" in userinfo else userinfo for userinfo in found]
    named = [match["value"].strip("'\"") for match in _NAMED.finditer(url)]
    return tuple(word for word in passwords + named if word)


def _hide_userinfo(found: re.Match[str]) -> str:
    user, colon, _ = found["userinfo"].partition(":")
    shown = f"{user}:{HIDDEN}" if colon else HIDDEN  # a lone word before the @ may be a token
    return f"{found['scheme']}{shown}@"
