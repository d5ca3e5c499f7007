"""The account of every frame: where each one went, exactly, at any moment.

For each source `read = inferred + dropped[reason] + failed + in_flight`, and for each sink
`inferred = delivered + dropped[reason] + failed + in_flight`. `in_flight` is not computed from the others: it is the
set of frames that have come in and not gone out, so that a frame that is lost, or counted twice, breaks the account.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from edgecv_runtime.errors import ComputationError

LATE = "late"  # dropped by the policy, because a newer frame was there or the buffer was full
RATE = "rate"  # more frames than were asked for of this source
STOPPED = "stopped"  # read, but the run was stopped before its turn
DOWN = "down"  # the sink did not work at the time


class LedgerError(ComputationError):
    """A frame is lost or counted twice."""


class Account:
    """Where the frames went that came into one place (a source's reader, or a sink); frames are told by a key."""

    def __init__(self, name: str, came_in: str, went_on: str, lock: threading.RLock) -> None:
        """name: for messages; came_in, went_on: what those counts are called, as "read" and "inferred"."""
        self.name = name
        self._came_in, self._went_on = came_in, went_on
        self._lock = lock
        self._in_flight: set[object] = set()
        self.entered_count = 0
        self.passed_count = 0
        self.failed_count = 0
        self._dropped: Counter[str] = Counter()

    @property
    def dropped(self) -> dict[str, int]:
        """How many were dropped, by reason."""
        with self._lock:
            return dict(self._dropped)

    @property
    def in_flight(self) -> int:
        """How many came in and did not go out yet."""
        with self._lock:
            return len(self._in_flight)

    def entered(self, key: object) -> None:
        """A frame came in; raises LedgerError if it is there already."""
        with self._lock:
            if key in self._in_flight:
                raise LedgerError(f"{self.name}: frame {key} came in twice")
            self._in_flight.add(key)
            self.entered_count += 1

    def passed(self, key: object) -> None:
        """It went on to the next place."""
        with self._lock:
            self._leave(key)
            self.passed_count += 1

    def dropped_for(self, key: object, reason: str) -> None:
        """It was dropped on purpose."""
        with self._lock:
            self._leave(key)
            self._dropped[reason] += 1

    def skipped(self, reason: str, count: int) -> None:
        """So many came in and were dropped at once, before anybody had one in hand."""
        with self._lock:
            self.entered_count += count
            self._dropped[reason] += count

    def failed(self, key: object) -> None:
        """Something raised for it."""
        with self._lock:
            self._leave(key)
            self.failed_count += 1

    def check(self, *, final: bool = False) -> None:
        """Raise LedgerError unless the account closes; `final` also wants nothing in flight."""
        with self._lock:
            counts = self.as_dict()
            out = self.passed_count + sum(self._dropped.values()) + self.failed_count + len(self._in_flight)
            if self.entered_count != out or (final and self._in_flight):
                raise LedgerError(f"{self.name}: the account does not close: {counts}")

    def as_dict(self) -> dict[str, Any]:
        """The counts: `{"read": 250, "inferred": 240, "dropped": {"late": 10}, "failed": 0, "in_flight": 0}`."""
        with self._lock:
            return {
                self._came_in: self.entered_count,
                self._went_on: self.passed_count,
                "dropped": dict(self._dropped),
                "failed": self.failed_count,
                "in_flight": len(self._in_flight),
            }

    def _leave(self, key: object) -> None:
        if key not in self._in_flight:
            raise LedgerError(f"{self.name}: frame {key} is not in flight: lost or counted twice")
        self._in_flight.remove(key)


class Ledger:
    """The accounts of a run: one for each source, one for each sink, under one lock so that they agree at any time."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.sources: dict[str, Account] = {}
        self.sinks: dict[str, Account] = {}

    def add_source(self, name: str) -> Account:
        """Open the account of a source; the name must be new."""
        return self._add(self.sources, Account(name, "read", "inferred", self._lock))

    def add_sink(self, name: str) -> Account:
        """Open the account of a sink; the name must be new."""
        return self._add(self.sinks, Account(name, "inferred", "delivered", self._lock))

    def inferred(self, source: str, key: object) -> None:
        """A frame has its result: it leaves its source's account and enters every sink's, in one step."""
        with self._lock:
            self.sources[source].passed(key)
            for sink in self.sinks.values():
                sink.entered((source, key))

    def check(self, *, final: bool = False) -> None:
        """Raise LedgerError unless every account closes and the sinks agree with the sources.

        final: also nothing is in flight any more.
        """
        with self._lock:
            for account in (*self.sources.values(), *self.sinks.values()):
                account.check(final=final)
            inferred = sum(account.passed_count for account in self.sources.values())
            for sink in self.sinks.values():
                if sink.entered_count != inferred:
                    raise LedgerError(f"{sink.name}: got {sink.entered_count} of {inferred} inferred frames")

    def as_dict(self) -> dict[str, Any]:
        """`{"sources": {name: counts}, "sinks": {name: counts}}`, all of one moment."""
        with self._lock:
            return {
                "sources": {name: account.as_dict() for name, account in self.sources.items()},
                "sinks": {name: account.as_dict() for name, account in self.sinks.items()},
            }

    def _add(self, accounts: dict[str, Account], account: Account) -> Account:
        with self._lock:
            if account.name in accounts:
                raise LedgerError(f"there is an account '{account.name}' already")
            accounts[account.name] = account
            return account
