"""Passwords never appear."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecv_runtime.stream import redact
from edgecv_runtime.stream.redact import secrets_of
from edgecv_runtime.stream.sources.network import Url

CANARY = "c4n@ry/p%41ss"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://admin:secret@10.0.0.2/cam", "rtsp://admin:***@10.0.0.2/cam"),
        (
            "[Errno 1] 401: 'rtsp://admin:p@ss/w%rd@10.0.0.2:554/cam'",
            "[Errno 1] 401: 'rtsp://admin:***@10.0.0.2:554/cam'",
        ),
        ("https://token@host/x and rtsp://u:p@h", "https://***@host/x and rtsp://u:***@h"),
        ("http://host/v?user=a&password=secret&channel=1", "http://host/v?user=a&password=***&channel=1"),
        ("rtspsrc location=rtsp://h/x user-id=admin user-pw=secret ! appsink", None),
        ('rtspsrc user-pw="two words" ! appsink', None),
        ("rtsp://10.0.0.2:554/Streaming/Channels/101", "rtsp://10.0.0.2:554/Streaming/Channels/101"),
        ("plain words: a@b.c, 50 % done", "plain words: a@b.c, 50 % done"),
    ],
)
def test_known_shapes(text, shown):
    got = redact(text)
    assert shown is None or got == shown
    assert "secret" not in got
    assert "two words" not in got


def test_a_known_secret_is_found_in_every_encoding():
    foreign = f"failed for {CANARY}, c4n%40ry%2Fp%2541ss and c4n@ry/pAss"
    assert redact(foreign, CANARY) == "failed for ***, *** and ***"


password = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="'\"<>"), min_size=4)


@given(password)
def test_any_password_in_any_url_is_hidden(secret):
    url = f"rtsp://admin:{secret}@camera.example:554/stream"
    assert redact(f"cannot open '{url}': 401") == "cannot open 'rtsp://admin:***@camera.example:554/stream': 401"
    assert secrets_of(url)[0] == secret


@given(password)
def test_any_raw_password_reaches_the_camera_encoded(secret):
    from urllib.parse import quote, unquote

    url = Url.parse(f"rtsp://admin:{quote(secret, safe='')}@camera.example/stream")
    assert (url.host, url.port) == ("camera.example", 554)
    sent = url.opened.removeprefix("rtsp://admin:").partition("@")[0]
    assert unquote(sent) == secret
    assert repr(url) == "Url('rtsp://admin:***@camera.example/stream')"


@pytest.mark.parametrize(
    ("text", "host", "password"),
    [
        ("rtsp://u:p@ss@h/x", "h", "p%40ss"),
        ("rtsp://u:p/w@h:8554/x", "h", "p%2Fw"),
        ("rtsp://u:100%@h/x", "h", "100%25"),
        ("rtsp://u:p@h/stream@1", "h", "p"),
        ("rtsp://h/stream@1", "h", None),
        ("rtsp://[fe80::1]:8554/x", "fe80::1", None),
    ],
)
def test_raw_passwords(text, host, password):
    url = Url.parse(text)
    assert url.host == host
    assert url.opened.startswith(f"rtsp://u:{password}@" if password else f"rtsp://{text[7:]}")
