"""The queue between two threads: what goes in comes out in order, or is dropped by the policy with its reason."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecv_runtime.errors import BadInput
from edgecv_runtime.stream import POLICIES, Buffer


@given(
    slots=st.integers(1, 4),
    when_late=st.sampled_from(["drop-oldest", "drop-newest"]),
    moves=st.lists(st.sampled_from(["put", "put", "take"]), max_size=40),
    keep=st.booleans(),
)
def test_any_history_agrees_with_a_list(slots, when_late, moves, keep):
    entered, dropped, taken, waiting, expected = [], [], [], [], []
    buffer = Buffer(
        slots, when_late, entered=entered.append, dropped=lambda item, reason: dropped.append((item, reason))
    )
    for number, move in enumerate(moves):
        if move == "take":
            item = buffer.take()
            assert item == (waiting.pop(0) if waiting else None)
            taken.append(item)
            continue
        assert buffer.put(number)
        waiting.append(number)
        if len(waiting) > slots:
            expected.append((waiting.pop(0 if when_late == "drop-oldest" else -1), "late"))
        assert len(buffer) == len(waiting)
    buffer.close(keep=keep)
    assert not buffer.put(99)
    rest = list(iter(buffer.take, None))
    assert rest == (waiting if keep else [])
    assert dropped == expected + ([] if keep else [(item, "stopped") for item in waiting])
    assert sorted(entered) == sorted(
        [item for item in taken if item is not None] + rest + [item for item, _ in dropped]
    )
    assert buffer.finished


def test_the_producer_waits_and_nothing_is_dropped():
    dropped = []
    buffer = Buffer(2, "wait", dropped=lambda *item: dropped.append(item))
    thread = threading.Thread(target=lambda: [buffer.put(number) for number in range(20)])
    thread.start()
    time.sleep(0.05)
    assert len(buffer) == 2
    assert [buffer.take(timeout_s=1) for _ in range(20)] == list(range(20))
    thread.join(1)
    assert dropped == []


def test_a_waiting_producer_is_let_go():
    dropped = []
    buffer = Buffer(1, "wait", dropped=lambda *item: dropped.append(item))
    buffer.put(0)
    thread = threading.Thread(target=buffer.put, args=(1,))
    thread.start()
    time.sleep(0.05)
    buffer.close()
    thread.join(1)
    assert not thread.is_alive()
    assert dropped == [(0, "stopped"), (1, "stopped")]


def test_a_take_waits_no_longer_than_it_may():
    buffer = Buffer(1, "wait", dropped=lambda *_: None)
    start_s = time.monotonic()
    assert buffer.take(timeout_s=0.1) is None
    assert 0.09 < time.monotonic() - start_s < 1


def test_policies_are_named():
    assert set(POLICIES) == {"drop-oldest", "drop-newest", "wait"}
    with pytest.raises(BadInput, match="when_late must be one of drop-oldest, drop-newest, wait, got 'never'"):
        Buffer(1, "never", dropped=lambda *_: None)
    with pytest.raises(ValueError, match="slots must be at least 1"):
        Buffer(0, "wait", dropped=lambda *_: None)
