"""The account of every frame closes at any time, and breaks for a frame that is lost or counted twice."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecv_runtime.stream import Ledger, LedgerError

OUT = ["inferred", "late", "stopped", "failed"]


@given(st.lists(st.tuples(st.sampled_from(["read", *OUT]), st.integers(0, 5)), max_size=60), st.data())
def test_any_history_agrees_with_a_brute_force_model(history, data):
    ledger = Ledger()
    account, sink = ledger.add_source("cam"), ledger.add_sink("out")
    waiting, sent, counts, outcomes = set(), set(), Counter(), Counter()
    for event, key in history:
        legal = (key not in waiting and ("cam", key) not in sent) if event == "read" else key in waiting
        if event == "read" and ("cam", key) in sent:
            continue  # a key may come again, but not while the sink still has it
        act = {
            "read": lambda key=key: account.entered(key),
            "inferred": lambda key=key: ledger.inferred("cam", key),
            "failed": lambda key=key: account.failed(key),
        }.get(event, lambda key=key, event=event: account.dropped_for(key, event))
        if not legal:
            with pytest.raises(LedgerError):
                act()
            continue
        act()
        counts[event] += 1
        if event == "read":
            waiting.add(key)
        else:
            waiting.remove(key)
        if event == "inferred":
            sent.add(("cam", key))
        if sent and data.draw(st.booleans()):
            outcome = data.draw(st.sampled_from(["delivered", "failed"]))
            (sink.passed if outcome == "delivered" else sink.failed)(sent.pop())
            outcomes[outcome] += 1
        ledger.check()
    assert ledger.as_dict() == {
        "sources": {
            "cam": {
                "read": counts["read"],
                "inferred": counts["inferred"],
                "dropped": {reason: counts[reason] for reason in ("late", "stopped") if counts[reason]},
                "failed": counts["failed"],
                "in_flight": len(waiting),
            }
        },
        "sinks": {
            "out": {
                "inferred": counts["inferred"],
                "delivered": outcomes["delivered"],
                "dropped": {},
                "failed": outcomes["failed"],
                "in_flight": len(sent),
            }
        },
    }
    if waiting or sent:
        with pytest.raises(LedgerError, match="does not close"):
            ledger.check(final=True)
    for key in waiting:
        account.dropped_for(key, "stopped")
    for key in sent:
        sink.dropped_for(key, "stopped")
    ledger.check(final=True)


def test_a_frame_that_is_counted_behind_its_back_breaks_the_account():
    ledger = Ledger()
    account = ledger.add_source("cam")
    account.entered(0)
    account.passed_count += 1
    with pytest.raises(LedgerError, match="cam: the account does not close"):
        ledger.check()


def test_a_sink_that_misses_a_frame_breaks_the_account():
    ledger = Ledger()
    account = ledger.add_source("cam")
    ledger.add_sink("out")
    account.entered(0)
    account.passed(0)  # past the sinks
    with pytest.raises(LedgerError, match="out: got 0 of 1 inferred frames"):
        ledger.check()


def test_names_are_unique():
    ledger = Ledger()
    ledger.add_source("cam")
    with pytest.raises(LedgerError, match="already"):
        ledger.add_source("cam")
