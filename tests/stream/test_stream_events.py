"""The journal tells everybody, and nobody who listens disturbs what happens; each ending is one of a table."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

import edgecv_runtime.stream as package
from edgecv_runtime import records
from edgecv_runtime.errors import BadInput, SourceUnavailable, Unavailable
from edgecv_runtime.stream import KINDS, End, Event, Journal
from edgecv_runtime.stream.ending import kind_of


def test_a_listener_that_raises_disturbs_nobody(caplog):
    journal, seen = Journal(), []
    journal.subscribe(lambda event: 1 / 0)
    journal.subscribe(seen.append)
    event = journal.note("source", "door", "live", "h264 640x480", 2)
    assert seen == [event] == list(journal.events)
    assert "a listener of events failed" in caplog.text
    assert (journal.latest("source", "door"), journal.latest("sink", "door")) == (event, None)
    assert records.decode(records.encode(event), Event, "event") == event


def test_every_kind_that_a_source_names_is_in_the_table():
    text = "".join(path.read_text() for path in Path(package.__file__).parent.rglob("*.py"))
    named = set(re.findall(r'kind="([a-z ]+)"', text)) | set(re.findall(r'End\(\s*"([a-z ]+)"', text))
    assert named <= set(KINDS)
    assert len(named) > 12


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_crosses_processes_and_becomes_its_error(kind):
    end = pickle.loads(pickle.dumps(End(kind, "door: why", damaged=3)))
    assert end == End(kind, "door: why", damaged=3)
    error = end.error()
    assert (error.exit_code if error else 0) == KINDS[kind].exit_code
    if error:
        assert str(error) == "door: why"
        assert kind_of(error) in (kind, "not installed")


def test_errors_have_their_kind():
    assert kind_of(pickle.loads(pickle.dumps(SourceUnavailable("x", kind="refused")))) == "refused"
    assert kind_of(Unavailable("x")) == "not installed"
    assert kind_of(BadInput("x")) == "bad input"
    assert kind_of(OSError("x")) == "failed"
    with pytest.raises(ValueError, match="no kind of ending is called 'gone'"):
        End("gone")
