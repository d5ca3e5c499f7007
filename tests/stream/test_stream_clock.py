"""Capture times against a simulated camera, which knows when each frame was captured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecv_runtime.stream.clock import CaptureClock

FRAME_S = 0.04


def ages(captures_s, stamps_s, delays_s, takes_s=0.0, preempted=lambda number: False):
    """[(true age, age by the clock)] of each frame, in seconds, as it is read.

    captures_s: when each frame is captured; stamps_s: by the camera's clock; delays_s: of the network; takes_s:
    how long the reader works on a frame before it asks for the next, so that a backlog may grow.
    """
    clock, ready_s, arrived_before_s, seen = CaptureClock(), 0.0, 0.0, []
    for number, (captured_s, stamp_s, delay_s) in enumerate(zip(captures_s, stamps_s, delays_s, strict=True)):
        there_s = max(arrived_before_s, captured_s + delay_s)
        arrived_before_s = there_s
        read_s = max(ready_s, there_s)
        waited = there_s > ready_s + 0.002 or preempted(number)
        captured_ns = clock.stamp(stamp_s, round(read_s * 1e9), waited)
        seen.append((read_s - captured_s, read_s - captured_ns / 1e9))
        ready_s = read_s + takes_s
    return seen


def evenly(count):
    return [10 + n * FRAME_S for n in range(count)]


@given(st.lists(st.floats(0.001, 2), min_size=2, max_size=200), st.floats(0, 1e5))
def test_an_age_is_short_of_the_true_one_by_the_least_delay_alone(delays_s, start_s):
    captures_s = evenly(len(delays_s))
    stamps_s = [start_s + captured_s for captured_s in captures_s]
    seen = ages(captures_s, stamps_s, delays_s)
    least_s = float("inf")
    for true_s, age_s in seen:
        least_s = min(least_s, true_s)
        assert -1e-6 <= age_s <= true_s + 1e-6
        assert age_s >= true_s - least_s - 1e-4 or age_s == pytest.approx(0, abs=1e-6)


@given(st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(0, 3), st.booleans()), min_size=1, max_size=100))
def test_whatever_the_stamps_no_frame_is_of_the_future_and_time_never_falls(frames):
    clock, now_ns, last_ns = CaptureClock(), 10**12, 0
    for stamp_s, passed_s, waited in frames:
        now_ns += round(passed_s * 1e9)
        captured_ns = clock.stamp(stamp_s, now_ns, waited)
        assert last_ns <= captured_ns <= now_ns
        last_ns = captured_ns


def test_a_backlog_of_a_minute_is_a_minute_old():
    """Decoding takes twice a frame's time, some reads look waited for: the old clock took 5 s for a step."""
    captures_s = evenly(3000)
    seen = ages(captures_s, captures_s, [0.02] * 3000, takes_s=2 * FRAME_S, preempted=lambda number: number % 7 == 0)
    assert seen[-1][0] > 100
    assert max(abs(true_s - age_s - 0.02) for true_s, age_s in seen[1:]) < 1e-3


@pytest.mark.parametrize("step_s", [-3600, -2, -0.5, 0.5, 3, 3600])
def test_a_step_of_the_cameras_clock_is_no_age(step_s):
    captures_s = evenly(500)
    stamps_s = [captured_s + (step_s if number >= 200 else 0) for number, captured_s in enumerate(captures_s)]
    seen = ages(captures_s, stamps_s, [0.02] * 500)
    assert max(age_s for _, age_s in seen) < 0.05


@pytest.mark.parametrize("step_s", [-3600, -2, -0.5, 30, 3600])
def test_a_step_in_the_middle_of_a_backlog_leaves_its_age(step_s):
    captures_s = evenly(500)
    stamps_s = [captured_s + (step_s if number >= 300 else 0) for number, captured_s in enumerate(captures_s)]
    seen = ages(captures_s, stamps_s, [0.02] * 500, takes_s=2 * FRAME_S)
    assert seen[-1][0] > 15
    assert max(abs(true_s - age_s - 0.02) for true_s, age_s in seen[1:]) < 0.05


def test_a_pause_of_the_camera_is_no_step_and_a_late_frame_is_late():
    captures_s = [captured_s + (5 if number >= 100 else 0) for number, captured_s in enumerate(evenly(200))]
    seen = ages(captures_s, captures_s, [0.02] * 200)
    assert max(age_s for _, age_s in seen) < 0.01
    held = [0.02] * 100 + [1.0] + [0.02] * 100  # the network holds one frame, and with it those behind
    seen = ages(evenly(201), evenly(201), held)
    assert seen[100][1] == pytest.approx(0.98, abs=1e-3)
    assert seen[110][1] == pytest.approx(0.58, abs=1e-3)
    assert seen[-1][1] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("speed", [0.999, 1.0001])
def test_a_clock_that_drifts_is_followed(speed):
    captures_s = evenly(25 * 600)
    seen = ages(captures_s, [captured_s * speed for captured_s in captures_s], [0.01] * len(captures_s))
    assert max(age_s for _, age_s in seen) < 0.035  # 600 ms of drift in all at 0.1 %


def test_without_a_stamp_the_arrival_is_all_that_is_known():
    assert CaptureClock().stamp(None, 7, waited=True) == 7
