"""Tells from what fails whether a destination, or a store, is there at all, and if not, when to try it again.

Pure but for the clock and the log: whoever sends, or uses the store, says how each attempt ended, and asks how long to
wait. Knows neither.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from time import monotonic

from cloudevents_kit._contract import log
from cloudevents_kit._errors import StoreError
from cloudevents_kit._result import Nack, Result, Undelivered
from cloudevents_kit._retry import RetryPolicy, next_delay

#: So many failures that may pass, and nothing else in between, are the destination's.
_IN_A_ROW = 10
#: Statuses that say that nobody is there, or that it is too much; any other may be due to the event.
_AWAY = frozenset({429, 502, 503, 504})
#: Seconds to pause after what may be due to the events, and how often that doubles: with every hundred in a row.
_SHORT = 0.02
_DOUBLINGS = 6


class Outage:
    """Whether the destination of a relay is down. Attempts count for their events all the same: few are made."""

    def __init__(self, name: str, policy: RetryPolicy) -> None:
        """Begin with a destination that is there; ``policy`` says how long to pause between two probes."""
        self._name = name
        self._policy = replace(policy, attempts=sys.maxsize, deadline=None, retry_possibly_delivered=True)
        self._in_a_row = self._probes = 0
        self._until = 0.0

    @property
    def is_on(self) -> bool:
        """Whether to send no more than one event at a time, a probe, when `left` is over."""
        return self._in_a_row >= _IN_A_ROW

    @property
    def left(self) -> float:
        """Seconds of the pause that are left."""
        return max(0.0, self._until - monotonic())

    def probe(self) -> None:
        """Note that one more event is sent to see whether it is over: if that fails, the pause grows."""
        self._probes += 1

    def learn(self, result: Result) -> bool:
        """Note how an attempt ended; return True if that begins or ends the outage."""
        was_on = self.is_on
        pause = next_delay(self._policy, self._probes + 1, result, chance=self._policy.chance())
        if pause is None:  # a success, or the fault of the event alone
            self._in_a_row = self._probes = 0
            self._until = 0.0
            if was_on:
                log.warning("%s: the destination answers again", self._name)
            return was_on
        self._in_a_row += 1
        if self.is_on:
            short = _SHORT * 2 ** min(_DOUBLINGS, self._in_a_row // 100)
            self._until = max(self._until, monotonic() + (pause if _is_away(result) else min(pause, short)))
            if not was_on:
                log.warning("%s: %d failures in a row: one event at a time from now on", self._name, self._in_a_row)
        return self.is_on and not was_on


def _is_away(result: Result) -> bool:
    if isinstance(result, Nack):
        return result.status in _AWAY or result.retry_after is not None
    return isinstance(result, Undelivered)


class Trouble:
    """How long to leave a store alone that fails, and what the log is told of it: the traceback once, then a line."""

    def __init__(self, name: str, pause: float, longest: float, counts: dict[str, int]) -> None:
        """Begin with a store that works; ``pause`` is the first one, and ``longest`` the last."""
        self._name, self._pause, self._longest, self._counts = name, pause, longest, counts
        self._next, self._fails = pause, False

    def failed(self, what: str, error: Exception) -> float:
        """Count and log a failure; return the seconds to wait, which double from one to the next."""
        self._counts["store_failed"] += 1
        log.error("%s: %s: %s", self._name, what, text_of(error), exc_info=None if self._fails else error)
        pause, self._fails = self._next, True
        self._next = min(self._longest, 2 * pause)
        return pause

    def worked(self) -> None:
        """Begin anew."""
        if self._fails:
            log.warning("%s: the store works again", self._name)
            self._next, self._fails = self._pause, False


def text_of(error: Exception) -> str:
    """Return what ``error`` tells, as one line."""
    text = str(error).partition("\n")[0]
    return text if isinstance(error, StoreError) else f"{type(error).__name__}: {text}"
