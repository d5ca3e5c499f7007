"""Whose frame is next: nobody starves, recordings wait for sinks, and a batch waits for nobody in vain."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edgecv_runtime.stream.scheduler import Lane, choose, window_ns

MS = 1_000_000

lanes = st.lists(
    st.builds(
        Lane,
        waiting=st.integers(0, 4),
        captured_ns=st.integers(0, 100),
        turn=st.integers(0, 50),
        lossless=st.booleans(),
        room=st.integers(0, 4),
        left=st.none() | st.integers(0, 3),
    ),
    max_size=6,
)


@given(lanes, st.integers(1, 8))
def test_any_choice_is_possible_full_and_fair(lanes, most):
    chosen = Counter(choose(lanes, most))
    for number, lane in enumerate(lanes):
        limit = min(lane.waiting, lane.room if lane.lossless else 9, 9 if lane.left is None else lane.left)
        assert chosen[number] <= limit == lane.ready
    assert sum(chosen.values()) == min(most, sum(lane.ready for lane in lanes))
    passed_over = [lane.turn for number, lane in enumerate(lanes) if lane.ready and not chosen[number]]
    served = [lanes[number].turn for number in chosen if chosen[number]]
    assert not passed_over or max(served) <= min(passed_over)
    if passed_over:
        assert max(chosen.values()) == 1  # nobody has two before everybody has one


def test_the_freshest_frame_is_first_among_those_who_waited_alike():
    assert choose([Lane(1, captured_ns=5), Lane(1, captured_ns=9), Lane(1, captured_ns=7)], 2) == [1, 2]
    assert choose([Lane(1, captured_ns=5, turn=1), Lane(1, captured_ns=9, turn=2)], 1) == [0]


def test_a_slow_camera_is_never_starved_by_fast_ones():
    turns = [0, 0, 0]
    served = []
    for turn in range(1, 301):
        waiting = [1, 1, turn % 10 == 0]  # the third gives one frame where the others give ten
        number = choose([Lane(int(has), turn=turns[n]) for n, has in enumerate(waiting)], 1)[0]
        turns[number] = turn
        served.append(number)
    assert served.count(2) == 30
    assert abs(served.count(0) - served.count(1)) <= 2


def camera(waiting=0, captured_ms=0, period_ms=40, due_ms=None):
    return Lane(waiting, captured_ms * MS, period_ns=period_ms * MS, due_ns=None if due_ms is None else due_ms * MS)


def test_a_batch_waits_for_a_camera_that_is_due_and_for_no_other():
    ready = camera(1, captured_ms=1000, due_ms=1040)
    assert window_ns([ready, camera(due_ms=1010)], [0], 4, 1002 * MS, 10 * MS) // MS == 8
    assert window_ns([ready, camera(period_ms=500, due_ms=1400)], [0], 4, 1002 * MS, 10 * MS) == 0  # slow
    assert window_ns([ready, camera(due_ms=1035)], [0], 4, 1002 * MS, 10 * MS) == 0  # beyond the window of 30 ms
    assert window_ns([ready, camera(due_ms=1001)], [0], 4, 1002 * MS, 10 * MS) == 0  # overdue: it may be gone
    assert window_ns([ready, camera(due_ms=1010)], [0], 1, 1002 * MS, 10 * MS) == 0  # full
    assert window_ns([ready, camera(due_ms=1010)], [0], 4, 1002 * MS, 50 * MS) == 0  # the model is the bottleneck
    assert window_ns([Lane(1, lossless=True), camera(due_ms=1010)], [0], 4, 1002 * MS, 10 * MS) == 0


def test_no_window_is_longer_than_its_bound():
    slow = [camera(1, captured_ms=1000, period_ms=900, due_ms=1900), camera(period_ms=900, due_ms=1099)]
    assert window_ns(slow, [0], 4, 1000 * MS, 0) // MS == 99
    slow[1] = camera(period_ms=900, due_ms=1101)
    assert window_ns(slow, [0], 4, 1000 * MS, 0) == 0
