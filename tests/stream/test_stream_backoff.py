"""Waits before the next try, against the table that they promise; and when silence is a stall."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecv_runtime.stream import KINDS, Backoff, Waits
from edgecv_runtime.stream.stall import Pulse

SECOND = 1_000_000_000


def waits_of(retry, count, luck=0.0, **how):
    backoff = Backoff(luck=lambda: luck)
    return [backoff.next_s(retry, now_s=0, healthy_s=0, **how) for _ in range(count)]


def test_waits_double_up_to_their_longest():
    assert waits_of("fast", 9) == [0.5, 1, 2, 4, 8, 16, 24, 24, 24]
    assert waits_of("fast", 9, luck=1)[-1] == 30
    assert waits_of("slow", 7) == [10, 20, 40, 80, 160, 240, 240]


@given(retry=st.sampled_from(["fast", "slow"]), luck=st.floats(0, 1), tries=st.integers(1, 2000))
def test_every_wait_is_within_its_bounds(retry, luck, tries):
    least, most = (0.5, 30) if retry == "fast" else (10, 300)
    assert all(least <= wait_s <= most for wait_s in waits_of(retry, tries, luck)[-3:])


def test_what_a_human_mends_is_counted_apart():
    backoff = Backoff(luck=lambda: 0)
    waits_s = [backoff.next_s(retry, now_s=0, healthy_s=0) for retry in ("fast", "fast", "slow", "fast", "slow")]
    assert waits_s == [0.5, 1, 10, 2, 20]


def test_health_starts_anew():
    backoff = Backoff(luck=lambda: 0)
    for _ in range(5):
        backoff.next_s("fast", now_s=0, healthy_s=29)
    assert backoff.next_s("fast", now_s=0, healthy_s=31) == 0.5


def test_five_crashes_in_a_minute_are_too_many():
    backoff = Backoff(luck=lambda: 0)
    waits_s = [backoff.next_s("fast", now_s=now, healthy_s=31, crashed=True) for now in (0, 50, 100, 101, 102)]
    assert waits_s == [0.5] * 5
    assert not backoff.too_many_crashes
    assert [backoff.next_s("fast", now_s=103, healthy_s=31, crashed=True) for _ in range(2)] == [24, 24]
    assert backoff.too_many_crashes
    assert backoff.next_s("fast", now_s=300, healthy_s=31, crashed=True) == 0.5


def test_what_only_a_human_mends_is_not_tried_fast():
    slow = {kind for kind, (retry, _) in KINDS.items() if retry == "slow"}
    assert slow == {"wrong password", "forbidden", "wrong path", "no video", "no permission"}
    assert {KINDS[kind].retry for kind in ("refused", "unreachable", "stalled", "lost", "hung up", "crashed")} == {
        "fast"
    }


def test_waits_are_settings():
    backoff = Backoff(Waits(first_s=0.01, longest_s=0.02), luck=lambda: 0)
    assert [backoff.next_s("fast", now_s=0, healthy_s=0) for _ in range(3)] == pytest.approx([0.01, 0.016, 0.016])


@pytest.mark.parametrize(("gap_s", "limit_s"), [(0.04, 2.5), (0.5, 2.5), (6.0, 15.0)])
def test_the_limit_of_silence_grows_with_the_gaps(gap_s, limit_s):
    pulse = Pulse(2.5)
    pulse.connected()
    for number in range(20):
        pulse.beat(round((100 + number * gap_s if gap_s < 1 else 100 + number) * SECOND))
    if gap_s > 1:  # a road camera: 1 s so far, then 2 s, 5 s, 6 s
        for at_s in (121, 126, 132, 138):
            pulse.beat(at_s * SECOND)
    last_s = pulse.last_ns / SECOND
    assert pulse.stalled_s(round((last_s + limit_s - 0.01) * SECOND)) is None
    assert pulse.stalled_s(round((last_s + limit_s + 0.01) * SECOND)) == pytest.approx(limit_s + 0.01)
    late_ns = round((last_s + limit_s + 1) * SECOND)
    assert pulse.stalled_s(late_ns, alive_ns=late_ns - SECOND) is None  # packets come


def test_a_stream_that_the_network_slows_down_is_told():
    pulse = Pulse(2.5)
    pulse.connected()
    for number in range(100):  # 25 frames a second, of which the network brings 5
        pulse.beat((100 * SECOND) + number * SECOND // 5, pts_s=number / 25)
        assert (pulse.speed is None) == (number / 5 < 2.5)
    assert pulse.speed == pytest.approx(0.2)
    for number in range(100):
        pulse.beat((120 * SECOND) + number * SECOND // 25, pts_s=4 + number / 25)
        pulse.beat((120 * SECOND) + number * SECOND // 25)  # without a stamp
    assert pulse.speed > 0.95


@pytest.mark.parametrize("set_s", [-1, -3600, 1, 3600])
def test_a_camera_that_sets_its_clock_is_not_slowed_down(set_s):
    pulse = Pulse(2.5)
    pulse.connected()
    speeds = []
    for number in range(250):
        pulse.beat(100 * SECOND + number * SECOND // 25, pts_s=7200 + number / 25 + (set_s if number >= 125 else 0))
        speeds.append(pulse.speed)
    assert min(speed for speed in speeds if speed is not None) > 0.95
    assert speeds[-1] == pytest.approx(1, abs=0.05)


def test_a_stall_is_no_rhythm_and_silence_before_the_first_frame_no_stall():
    pulse = Pulse(2.5)
    pulse.connected()
    assert pulse.stalled_s(99 * SECOND) is None
    for number in range(10):
        pulse.beat(100 * SECOND + number * SECOND // 25)
    assert pulse.period_ns == SECOND // 25
    assert pulse.due_ns() == pulse.last_ns + SECOND // 25
    pulse.beat(200 * SECOND)  # after a stall
    assert pulse.period_ns is None
    assert pulse.stalled_s(203 * SECOND) is not None
