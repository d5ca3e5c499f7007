"""Credentials never appear: one redactor for names, messages, logs, events, JSON and metrics.

A pattern that looks for passwords ends at the first character it did not expect, and passwords hold `'`, `"`, `<` and
blanks in the wild (frigate#4257), query keys are called `loginpas` and `authbasic`. So what is ours is taken apart and
hidden by position (`shown`), what it held is remembered, and texts of others are searched for that (`redact`).
"""

from __future__ import annotations

import base64
import html
import ipaddress
import json
import logging
import re
import threading
from typing import NamedTuple
from urllib.parse import quote, quote_plus, unquote

from edgecv_runtime.addresses import host_and_port

HIDDEN = "***"

# Of a query (and of a path as `/user=admin_password=..._channel=1`) only these values are shown, and only plain ones.
_HARMLESS = {
    *("action", "camera", "channel", "chn", "codec", "color", "compression", "format", "fps", "framerate", "frames"),
    *(
        "height",
        "input",
        "mode",
        "mirror",
        "number",
        "profile",
        "proto",
        "protocol",
        "quality",
        "resolution",
        "rotation",
        "size",
    ),
    *("stream", "streamtype", "subtype", "transport", "transportmode", "type", "unicast", "video", "videocodec"),
    *("width", "user", "username", "loginuse"),
}
_PLAIN = re.compile(r"[A-Za-z0-9.x-]{0,32}")
_PAIR = re.compile(r"(?P<key>[A-Za-z][\w-]*?)=(?P<value>.*?)(?=[&;/]|_[A-Za-z]+=|$)", re.DOTALL)
_AUTHORITY_END = re.compile(r"[/?#]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SCRIPT = "test://"  # the scripted camera: what stands in its query is a script, and no secret

# In texts of others: scheme://user:password@ up to the LAST @ of the word, then what is named as a secret.
_USERINFO = re.compile(r"(?<![A-Za-z0-9+.-])(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<userinfo>[^\s'\"<>]*)@")
_NAMED = re.compile(
    r"(?<![\w-])(?P<key>(?:user-id|[\w-]*(?:(?<!by)pass(?:word|wd|phrase|code)?|pwd|psw|token|secret|auth(?:basic|code|info)?"
    r"|signature|credentials?|loginpas|[-_]pw|api[-_]?key|[-_]key)|pw|key|sig)[\"']?\s*(?:=|:(?=\s*[\"']))\s*)"
    r"(?P<value>\"[^\"]*\"|'[^']*'|[^\s&'\"!,;]+)",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"(?P<key>\b(?:proxy-)?authorization[\"']?\s*:\s*[\"']?(?:(?:basic|bearer|digest|token)\s+)?|\bx-api-key[\"']?\s*:\s*[\"']?)"
    r"[^\s\"'][^\"'\r\n]*",
    re.IGNORECASE,
)
_WORD = re.compile(r"[a-z_-]*|\d{1,5}")  # hidden where it stands; searched for elsewhere it would blank plain words
_LONG = 8  # characters from which on a word is no part of a longer one by chance
_SHORTEST = 4  # a shorter secret would be cut out of ordinary words, and show by the holes

_known: set[str] = set()  # every secret that this process has taken out of a URL or a file; it only grows
_lock = threading.Lock()


class Parts(NamedTuple):
    """`scheme://userinfo@place/tail` taken apart; userinfo is "" without one, tail begins with /, ? or #."""

    scheme: str
    userinfo: str
    place: str
    tail: str


def split(url: str) -> Parts:
    """Take a URL apart as cameras' owners write it: `@`, `/` and `%` in the password may be raw."""
    scheme, _, rest = url.partition("://")
    end = _AUTHORITY_END.search(rest)
    authority, tail = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    userinfo, _, place = authority.rpartition("@")
    if "@" in tail and not host_and_port(place):  # a raw / in the password ended the authority too soon
        userinfo, _, after = rest.rpartition("@")
        end = _AUTHORITY_END.search(after)
        place, tail = (after[: end.start()], after[end.start() :]) if end else (after, "")
    return Parts(scheme.lower(), userinfo, place, tail)


def shown(text: str) -> str:
    """One of our own URLs, paths or pipelines without its credentials, by position; they are remembered for `redact`.

    >>> shown("rtsp://admin:can'a ry@10.0.0.2/cam?channel=1&loginpas=x")
    'rtsp://admin:***@10.0.0.2/cam?channel=1&loginpas=***'
    """
    if text[: len(_SCRIPT)].lower() == _SCRIPT:
        return text
    remember(*secrets_of(text))
    if not _SCHEME.match(text):
        return redact(text)
    parts = split(text)
    user, userinfo, place, path = _visible(parts)
    path, mark, query = path.partition("?")
    query, hash_mark, _ = query.partition("#")
    path, path_hash, _ = path.partition("#")
    path = _PAIR.sub(lambda found: f"{found['key']}={_value(found['key'], found['value'])}", path)
    pairs = re.split("([&;])", query)
    query = "".join(word if word in "&;" else _pair(word) for word in pairs)
    fragment = f"#{HIDDEN}" if hash_mark or path_hash else ""
    login = f"{user}:{HIDDEN}@" if user else f"{HIDDEN}@" if userinfo else ""
    scheme = text.partition("://")[0]
    return f"{scheme}://{login}{place}{path}{mark}{query}{fragment}"


def redact(text: str, *secrets: str) -> str:
    """Replace credentials in any text by `***`: those remembered, those given, and what looks like one.

    secrets: known passwords; each is found raw, percent-encoded, decoded, and as JSON, Python and HTML write it.

    >>> redact("cannot open rtsp://admin:p@ss/w%rd@10.0.0.2:554/cam")
    'cannot open rtsp://admin:***@10.0.0.2:554/cam'
    """
    with _lock:
        wanted = _known.union(*map(_forms, secrets)) if secrets else _known.copy()
    for form in sorted(wanted, key=len, reverse=True):  # of two that overlap the longer one
        if form in text:
            is_word = len(form) < _LONG and form.isalnum()  # "pass" is no part of "password"
            pattern = rf"(?<![A-Za-z0-9]){form}(?![A-Za-z0-9])" if is_word else re.escape(form)
            text = re.sub(pattern, HIDDEN, text)
    text = _USERINFO.sub(_hide_userinfo, text)
    text = _HEADER.sub(lambda found: found["key"] + HIDDEN, text)
    return _NAMED.sub(lambda found: found["key"] + HIDDEN, text)


def remember(*secrets: str) -> None:
    """From now on `redact` finds these everywhere; shorter ones than four characters only where they stand in a URL."""
    with _lock:
        _known.update(*map(_forms, secrets))


def secrets_known() -> tuple[str, ...]:
    """All that was remembered, for another process of ours."""
    with _lock:
        return tuple(_known)


def secrets_of(text: str) -> tuple[str, ...]:
    """The passwords and tokens that stand in a URL or pipeline, raw, the one of the user first."""
    if text[: len(_SCRIPT)].lower() == _SCRIPT:
        return ()
    if not _SCHEME.match(text):
        inside = [
            secret
            for found in re.findall(r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+", text)
            for secret in _of(found)
        ]
        named = [match for match in _NAMED.finditer(text) if "user-id" not in match["key"]]
        return tuple(dict.fromkeys([*inside, *(match["value"].strip("'\"") for match in named)]))
    return _of(text)


class RedactingFilter(logging.Filter):
    """What a handler with this filter writes has no credentials, whoever logged it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the message, and the traceback as text."""
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        return True


def _of(url: str) -> tuple[str, ...]:
    parts = split(url)
    user, userinfo, _, path = _visible(parts)
    password = userinfo.removeprefix(f"{user}:") if user else userinfo
    path, _, query = path.partition("?")
    query, _, fragment = query.partition("#")
    pairs = [(match["key"], match["value"]) for match in _PAIR.finditer(path)]
    for word in re.split("[&;]", query):
        key, is_pair, value = word.partition("=")
        pairs.append((key, value) if is_pair else ("", word))
    secret = [value for key, value in pairs if not _is_harmless(key, value)]
    found = [password, *(value for value in [*secret, fragment] if not _WORD.fullmatch(value))]
    found += [value for key, value in pairs if _NAMED.match(f"{key}={value}")]
    if user and password:  # as HTTP's basic authentication sends it
        logins = f"{unquote(user)}:{unquote(password)}", f"{user}:{password}"
        found += [base64.b64encode(login.encode()).decode() for login in logins]
    return tuple(dict.fromkeys(word for word in found if word))


def _visible(parts: Parts) -> tuple[str, str, str, str]:
    """(user, all that may be userinfo, host and port, path and query) for showing.

    Where an @ after the host leaves open whether a part of the password stands before it (`u:12/34@h`), all before it
    is taken for userinfo, unless the host is an IP address.
    """
    _, userinfo, place, tail = parts
    before, at, after = tail.rpartition("@")
    if at and ":" in userinfo + place + before and not _is_address(place):
        userinfo = f"{userinfo}@{place}{before}" if userinfo else f"{place}{before}"
        end = _AUTHORITY_END.search(after)
        place, tail = (after[: end.start()], after[end.start() :]) if end else (after, "")
    user, colon, _ = userinfo.partition(":")
    return (user if colon else "", userinfo, place, tail)  # a lone word before the @ may be a token


def _is_address(place: str) -> bool:
    found = host_and_port(place)
    try:
        ipaddress.ip_address(found[0] if found else "")
    except ValueError:
        return False
    return True


def _is_harmless(key: str, value: str) -> bool:
    return key.lower() in _HARMLESS and _PLAIN.fullmatch(value) is not None


def _value(key: str, value: str) -> str:
    return value if _is_harmless(key, value) or not value else HIDDEN


def _pair(word: str) -> str:
    key, is_pair, value = word.partition("=")
    if not is_pair:
        return HIDDEN if word else ""
    return f"{key}={_value(key, value)}"


def _forms(secret: str) -> set[str]:
    """How one secret may be written."""
    raws = {secret, unquote(secret)}
    forms = set(raws)
    for raw in raws:
        encoded = {quote(raw, safe=""), quote(raw), quote_plus(raw), quote(raw, safe="!$&'()*+,;=:")}
        forms |= encoded | {re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), each) for each in encoded}
        forms |= {json.dumps(raw)[1:-1], json.dumps(raw, ensure_ascii=False)[1:-1], repr(raw)[1:-1], html.escape(raw)}
        forms.add(repr(f"'\"{raw}")[4:-1])  # where Python had to escape quotes
    return {form for form in forms if len(form) >= _SHORTEST}


def _hide_userinfo(found: re.Match[str]) -> str:
    user, colon, _ = found["userinfo"].partition(":")
    login = f"{user}:{HIDDEN}" if colon else HIDDEN
    return f"{found['scheme']}{login}@"
