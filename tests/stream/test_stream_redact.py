"""Passwords never appear."""

from __future__ import annotations

import base64
import html
import io
import json
import logging
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecv_runtime.errors import BadInput
from edgecv_runtime.stream import redact
from edgecv_runtime.stream.credentials import VARIABLE, Credentials, Login
from edgecv_runtime.stream.redact import RedactingFilter, secrets_of, shown
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
        ('{"api_key": "secret", "X-Auth-Token": "secret"}', '{"api_key": ***, "X-Auth-Token": ***}'),
        ("Authorization: Digest username=a, response=secret", "Authorization: Digest ***"),
        ("nvh265enc bypass=true key-int-max=30 author=me", "nvh265enc bypass=true key-int-max=30 author=me"),
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
        ("rtsp://u:p@/@h/x", "h", "p%40%2F"),
        ("rtsp://[fe80::1]:8554/x", "fe80::1", None),
    ],
)
def test_raw_passwords(text, host, password):
    url = Url.parse(text)
    assert url.host == host
    assert url.opened.startswith(f"rtsp://u:{password}@" if password else f"rtsp://{text[7:]}")


@pytest.mark.parametrize(
    ("url", "visible"),
    [
        ("rtsp://admin:can'a ry@10.0.0.2:554/cam", "rtsp://admin:***@10.0.0.2:554/cam"),
        ('rtsp://admin:c<an>"ary@h/cam', "rtsp://admin:***@h/cam"),
        ("rtsp://u:12/34canary@h/x", "rtsp://u:***@h/x"),
        ("rtsp://u:p?can#ary@h/x", "rtsp://u:***@h/x"),
        ("http://h/videostream.cgi?loginuse=a&loginpas=canary", "http://h/videostream.cgi?loginuse=a&loginpas=***"),
        ("rtsp://h/cam?authbasic=Y2FuYXJ5", "rtsp://h/cam?authbasic=***"),
        ("srt://h:9000?mode=caller&passphrase=canary", "srt://h:9000?mode=caller&passphrase=***"),
        ("rtsp://h/cam?p=canary;key=canary#canary", "rtsp://h/cam?p=***;key=***#***"),
        (
            "rtsp://h/user=admin_password=canary_channel=1_stream=0.sdp",
            "rtsp://h/user=admin_password=***_channel=1_stream=0.sdp",
        ),
        ("http://h:8080/?action=stream&resolution=640x480", "http://h:8080/?action=stream&resolution=640x480"),
        ("rtsp://10.0.0.2:554/stream@1", "rtsp://10.0.0.2:554/stream@1"),
        ("rtsp://h/stream@1?channel=2&subtype=0", "rtsp://h/stream@1?channel=2&subtype=0"),
    ],
)
def test_own_urls_are_hidden_by_position(url, visible):
    assert shown(url) == visible
    assert "canary" not in redact(f"a library says {url!r}, {url}")


anything = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="@?#/"), min_size=8)


@given(anything)
def test_any_password_with_quotes_and_blanks_is_hidden_however_it_is_written(secret):
    """Written by Python's encoders for JSON, HTML and URLs; the suffix makes it no common word of the text."""
    secret += "x7Q"
    assert shown(f"rtsp://admin:{secret}@camera.example/stream") == "rtsp://admin:***@camera.example/stream"
    basic = base64.b64encode(f"admin:{secret}".encode()).decode()
    written = [secret, repr(secret), json.dumps(secret), html.escape(secret), quote(secret), quote(secret, safe="")]
    for form in [*written, quote_plus(secret), basic]:
        inner = form[1:-1] if form[:1] in "'\"" and form[:1] == form[-1:] and len(form) > len(secret) else form
        assert inner not in redact(f"<{form}>")


def test_what_is_logged_has_no_credentials_whoever_logs_it():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(RedactingFilter())
    logger = logging.Logger("foreign")
    logger.addHandler(handler)
    secret = shown("rtsp://admin:w'c4nary \"7@h/x") and "w'c4nary \"7"
    logger.warning("cannot open %s", secret)

    def fail():
        raise OSError(f"rtsp://admin:{quote(secret, safe='')}@h/x")

    try:
        fail()
    except OSError:
        logger.exception("it failed: %r", secret)
    assert "c4nary" not in stream.getvalue()
    assert "OSError: rtsp://admin:***@h/x" in stream.getvalue()


def test_credentials_come_from_a_file_or_the_environment(tmp_path):
    path = tmp_path / "cameras"
    path.write_text("# of the yard\n10.0.0.2 admin:can'a ry@/ \"7\n10.0.0.2:8554 root:other7\n* viewer:any7\n")
    found = Credentials.read(path)
    login = Url.parse(found.apply("rtsp://10.0.0.2/cam"))
    assert login.opened == "rtsp://admin:can%27a%20ry%40%2F%20%227@10.0.0.2/cam"
    assert login.shown == "rtsp://admin:***@10.0.0.2/cam"
    assert found.apply("rtsp://10.0.0.2:8554/cam") == "rtsp://root:other7@10.0.0.2:8554/cam"
    assert found.apply("rtsp://viewer@10.0.0.2/cam") == "rtsp://viewer:any7@10.0.0.2/cam"
    assert found.apply("rtsp://h/cam") == "rtsp://viewer:any7@h/cam"
    for untouched in ("clip.mp4", "0", "rtsp://u:own7@10.0.0.2/x", "rtsp://nobody@10.0.0.9/x"):
        assert found.apply(untouched) == untouched
    assert Credentials.read(None, {VARIABLE: "* u:pass word"}).apply("http://h/") == "http://u:pass%20word@h/"
    assert Credentials.read(None, {}).apply("rtsp://h/") == "rtsp://h/"
    assert "other7" not in redact("said: other7")
    assert "other7" not in repr(Login("h", "u", "other7"))
    path.write_text("10.0.0.2 admin c4nary-x\n")
    with pytest.raises(BadInput, match=r"line 1: expected HOST USER:PASSWORD") as caught:
        Credentials.read(path)
    assert "c4nary" not in str(caught.value)
    with pytest.raises(BadInput, match="credentials cannot be read: No such file"):
        Credentials.read(tmp_path / "missing")


def test_the_script_of_a_test_camera_is_no_secret():
    script = "test://?fps=25&size=320x240&40&freeze=3.5&200&fail"
    for each in (script, script.replace("test", "TEST")):
        assert shown(each) == each
        assert secrets_of(each) == ()
    assert redact(f"{script}: failed") == f"{script}: failed"
