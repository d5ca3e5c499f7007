"""A soak finds what it is for: growth, errors, unaccounted frames; and a short one of our own stream finds nothing."""

from __future__ import annotations

import logging
import threading

import msgspec
import pytest
from stream_lab import brightness

from edgecv_runtime import records
from edgecv_runtime.errors import EdgecvError
from edgecv_runtime.stream import Settings, Waits
from edgecv_runtime.stream.soak import Soak, soak

SOON = Settings(waits=Waits(first_s=0.1, longest_s=0.2))


def test_a_short_soak_accounts_for_everything_and_recovers():
    found = soak(brightness, ["test://?fps=50&30&fail"], minutes=0.15, kill_every_s=3.0, settings=SOON)
    assert found.killed >= 2
    by_name = {each.source: each for each in found.recoveries}
    assert by_name["test://?fps=50&30&fail"].count >= 5
    assert by_name["test://?fps=50&30&fail"].worst_s < 1.5
    assert any(each.source.startswith("test://?fps=25&size=640x480&100000") for each in found.recoveries)
    for each in found.report.sources:
        assert each.read == each.inferred + each.failed + sum(each.dropped.values())
    assert found.errors == ()
    assert found.age_early.runs > 50
    assert found.age_late.runs > 50
    assert abs(found.descriptors[1] - found.descriptors[0]) <= 8  # a decoder may be between two lives
    assert records.decode(records.encode(found), Soak, "soak") == found


def test_what_grows_or_is_logged_is_a_failure():
    kept = []

    def leaking(image):
        kept.append(bytearray(b"x" * 300_000))
        if len(kept) == 50:
            logging.getLogger("edgecv").error("something broke\nTraceback")
        return brightness(image)

    found = soak(leaking, minutes=0.1, kill_every_s=60)
    assert found.rss_mb_per_minute > 100
    assert found.errors == ("something broke",)
    with pytest.raises(EdgecvError, match=r"memory grows by .* MB a minute, more than 1; 1 errors were logged"):
        found.check()
    assert msgspec.structs.replace(found, rss_mb_per_minute=0.5, errors=()).failures == ()
    old = msgspec.structs.replace(found.age_late, max_ms=6000.0)
    more = msgspec.structs.replace(found, descriptors=(20, 900), threads=(10, 500))
    assert {"open files grew from 20 to 900", "threads grew from 10 to 500"} <= set(more.failures)
    assert "a result was 6.0 s old, more than 5" in msgspec.structs.replace(found, age_late=old).failures


def test_a_soak_is_stopped_as_a_stream_is():
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    assert soak(brightness, minutes=60, stop=stop).report.wall_s < 4
