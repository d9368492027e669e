"""Windows of time: which one an event falls into, and when they are over.

Windows are tumbling: [start, start + size), counted from 1970-01-01T00:00:00Z. Moments are whole microseconds since
then. Knows nothing of what is kept of a window.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

from cloudevents_kit._clock import Clock
from cloudevents_kit._event import Event

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = datetime(1, 1, 1, tzinfo=UTC) - _EPOCH
_LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - _EPOCH
_SECOND = 1_000_000
#: Before any moment.
NEVER = -(2**63)


def moment_of(when: datetime) -> int:
    """Return ``when``, which is aware, in microseconds."""
    since = when - _EPOCH
    return since.days * 86_400_000_000 + since.seconds * 1_000_000 + since.microseconds


def moment_of_event(event: Event, text: str) -> int:
    """Return the time of ``event``, of which ``text`` is the ``time_text``."""
    try:
        since = datetime.fromisoformat(text) - _EPOCH  # several times faster than what knows all of RFC 3339
    except ValueError:
        return moment_of(event.time)  # type: ignore[arg-type]  # there is one
    return since.days * 86_400_000_000 + since.seconds * 1_000_000 + since.microseconds


def text_of_moment(moment: int) -> str:
    """Write ``moment`` as RFC 3339; what lies outside the years that have a date is the nearest that has one."""
    since = min(max(timedelta(microseconds=moment), _FIRST), _LAST)
    return (_EPOCH + since).isoformat().replace("+00:00", "Z")


class Watermark:
    """Tells which windows are over.

    That is the case ``lateness`` after their end, by the largest time of an event that came, but never by one that is
    ahead of the clock; or by the clock itself, once no event came for ``idle`` seconds. A window that an event came in
    time for is held until that event is counted or given up.
    """

    __slots__ = (
        "_arrived",
        "_clock",
        "_horizon",
        "_idle",
        "_monotonic",
        "_newest",
        "_next",
        "ahead",
        "held",
        "lateness",
        "over",
        "size",
    )

    def __init__(self, clock: Clock, *, size: float, lateness: float, idle: float | None, ahead: float) -> None:
        """Take durations in seconds."""
        self.size, self.lateness, self.ahead = (round(one * _SECOND) for one in (size, lateness, ahead))
        if not self.size:
            raise ValueError(f"size: must be at least a microsecond, not {size}")
        self._clock = clock
        self._monotonic = clock.monotonic
        self._idle = idle
        #: Windows that start before it are over.
        self.over = NEVER
        #: How many events in work hold a window, by its start.
        self.held: dict[int, int] = {}
        self._next = NEVER
        self._newest = NEVER
        self._horizon = NEVER
        self._arrived = 0.0

    def now(self) -> int:
        """Return the moment it is."""
        return moment_of(self._clock.now())

    def start_of(self, moment: int) -> int:
        """Return the start of the window that ``moment`` falls into."""
        return moment - moment % self.size

    def take(self, moment: int) -> int | Literal["ahead", "late"]:
        """Learn of an event's time and return the start of its window, or why there is none."""
        if moment > self._horizon and self._is_ahead(moment):
            return "ahead"
        start = moment - moment % self.size
        if start < self.over:
            return "late"
        self._arrived = self._monotonic()
        if start > self._newest:  # noqa: PLR1730 - half the time of max()
            self._newest = start
        if moment >= self._next:
            self._pass(self._over_at(min(moment, self.now())))
        return start

    def hold(self, start: int) -> None:
        """Keep a window from closing until it is let go as often."""
        self.held[start] = self.held.get(start, 0) + 1

    def let_go(self, start: int) -> None:
        """Hold a window one time less."""
        left = self.held[start] - 1
        if left:
            self.held[start] = left
        else:
            del self.held[start]

    def _is_ahead(self, moment: int) -> bool:
        self._horizon = self.now() + self.ahead  # it grows; what was below it needs no look at the clock
        return moment > self._horizon

    def look_at_clock(self) -> None:
        """Let the clock close the windows that are over, if no event came for long enough."""
        if self._newest < self.over or self._idle is None:
            return
        if self._clock.monotonic() - self._arrived >= self._idle:
            self._pass(min(self._over_at(self.now()), self._newest + self.size))

    def end(self, start: int) -> None:
        """Let all windows up to that of ``start`` be over."""
        self._pass(start + self.size)

    def free(self) -> int:
        """Return the start before which windows are over and nothing holds them."""
        return min(self.over, *self.held) if self.held else self.over

    def _over_at(self, moment: int) -> int:
        reached = moment - self.lateness
        return reached - reached % self.size

    def _pass(self, over: int) -> None:
        if over > self.over:
            self.over = over
            self._next = over + self.size + self.lateness
