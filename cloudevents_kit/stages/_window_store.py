"""What keeps windows: the protocol, and the store in memory.

To a store, the states of a key are a list of JSON values, and a function makes the next of those before: one that
keeps them elsewhere reads, changes and writes them only if nobody else did meanwhile. Knows nothing of reducers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from cloudevents_kit._arguments import check_count

_NEVER = -(2**63)

#: Makes the next states of a key of an event's values and the states before, which are None for a new key. Leaves both
#: as they are if it raises.
Fold = Callable[[list[Any], list[Any] | None], list[Any]]
#: What became of an event in a store. ``unremembered`` is counted, but would be again.
Added = Literal["counted", "unremembered", "repeated", "late", "overflow"]


@dataclass(slots=True)
class Tally:
    """The states of one key in one window."""

    start: int
    key: str
    states: list[Any]
    closed: bool
    complete: bool
    """False if events were counted that would be counted again."""


@dataclass(slots=True)
class WindowInfo:
    """One window as a whole."""

    start: int
    closed: bool
    keys: int
    events: int
    """How many were counted."""
    overflow: int
    """How many came that were not, for there were too many keys."""


HandOut = Callable[[Tally], Awaitable[None]]


class WindowStore(Protocol):
    """Where `aggregate` keeps windows. Each method is atomic, for any number of stages and processes that share it."""

    async def add(
        self, start: int, key: str, event: tuple[str, str], values: list[Any], fold: Fold, *, anywhere: bool
    ) -> Added:
        """Fold ``values`` into ``key`` of the window, unless ``event`` (source and id) was counted in it before.

        With ``anywhere`` no other open window may have counted the event either. ``fold`` may be called more than
        once; what it raises comes out, and nothing has changed.
        """
        ...

    async def close(self, before: int, hand_out: HandOut | None) -> list[Exception]:
        """Close the windows that start before ``before``, for ever, and hand out what is in closed ones.

        Each key of each window is handed out until that once returned without an exception, and never twice at once;
        what was raised is returned. None takes them as handed out.
        """
        ...

    async def read(self, key: str, start: int | None) -> Tally | None:
        """Return what is known of ``key`` in a window, by default in the newest one that has it."""
        ...

    async def windows(self) -> list[WindowInfo]:
        """Return all windows that are open, waiting to be handed out or kept for reading, the oldest first."""
        ...

    @property
    def status(self) -> Mapping[str, int]:
        """What is known without asking anybody, of ``open``, ``waiting``, ``closed``, ``keys`` and ``remembered``."""
        ...


@dataclass(slots=True)
class _Window:
    start: int
    states: dict[str, list[Any]] = field(default_factory=dict)
    seen: dict[str, set[str]] = field(default_factory=dict)
    """Ids of the events that were counted, by source."""
    waiting: dict[str, bool] = field(default_factory=dict)
    """The keys that are to be handed out; True while that goes on."""
    closed: bool = False
    events: int = 0
    unremembered: int = 0
    overflow: int = 0

    def tally(self, key: str) -> Tally | None:
        states = self.states.get(key)
        if states is None:
            return None
        return Tally(self.start, key, states, self.closed, complete=not self.unremembered)


class MemoryWindowStore:
    """Keeps windows in the memory of this process: they end with it."""

    def __init__(
        self, *, max_windows: int = 1000, max_keys: int = 10_000, max_events: int = 1_000_000, keep: int = 60
    ) -> None:
        """Set the limits.

        Args:
            max_windows: windows that are open or wait to be handed out; events for further ones overflow.
            max_keys: keys of one window; events of further ones overflow.
            max_events: events of all open windows that are remembered, so that they count once; see `Added`.
            keep: closed windows that are kept for reading.
        """
        self._max_windows = check_count("max_windows", max_windows)
        self._max_keys = check_count("max_keys", max_keys)
        self._max_events = check_count("max_events", max_events, least=0)
        self._keep = check_count("keep", keep, least=0)
        self._open: dict[int, _Window] = {}
        self._waiting: dict[int, _Window] = {}
        self._closed: dict[int, _Window] = {}
        self._before = _NEVER
        self._remembered = 0

    async def add(
        self, start: int, key: str, event: tuple[str, str], values: list[Any], fold: Fold, *, anywhere: bool
    ) -> Added:
        """See `WindowStore.add`."""
        return self.put(start, key, event, values, fold, anywhere=anywhere)

    def put(
        self, start: int, key: str, event: tuple[str, str], values: list[Any], fold: Fold, *, anywhere: bool
    ) -> Added:
        """Do what `add` does, at once."""
        source, name = event
        window = self._open.get(start)
        if window is None:
            if start < self._before:
                return "late"
            if len(self._open) + len(self._waiting) >= self._max_windows:
                return "overflow"
            window = _Window(start)
        ids = window.seen.get(source)
        if ids is not None and name in ids:
            return "repeated"
        if anywhere and any(name in other.seen.get(source, ()) for other in self._open.values()):
            return "repeated"
        states = window.states.get(key)
        if states is None and len(window.states) >= self._max_keys:
            window.overflow += 1
            return "overflow"
        window.states[key] = fold(values, states)  # if this raises, nothing has changed
        if not window.events:
            self._open[start] = window
        window.events += 1
        if self._remembered >= self._max_events:
            window.unremembered += 1
            return "unremembered"
        self._remembered += 1
        if ids is None:
            window.seen[source] = {name}
        else:
            ids.add(name)
        return "counted"

    async def close(self, before: int, hand_out: HandOut | None) -> list[Exception]:
        """See `WindowStore.close`."""
        self._before = max(self._before, before)
        for start in sorted(start for start in self._open if start < before):
            window = self._open.pop(start)
            self._remembered -= window.events - window.unremembered
            window.closed, window.seen = True, {}
            window.waiting = dict.fromkeys(window.states, False)
            self._waiting[start] = window
        errors = []
        for window in [*self._waiting.values()]:
            if hand_out is None:
                window.waiting.clear()
            else:
                errors += await _handed_out(window, hand_out)
            if not window.waiting and self._waiting.pop(window.start, None) is not None:
                self._closed[window.start] = window
        self._forget()
        return errors

    def _forget(self) -> None:
        for start in sorted(self._closed)[: max(0, len(self._closed) - self._keep)]:
            del self._closed[start]

    async def read(self, key: str, start: int | None) -> Tally | None:
        """See `WindowStore.read`."""
        if start is not None:
            found = (part.get(start) for part in (self._open, self._waiting, self._closed))
            return next((window.tally(key) for window in found if window is not None), None)
        newest = max((window for window in self._all() if key in window.states), key=_start, default=None)
        return None if newest is None else newest.tally(key)

    async def windows(self) -> list[WindowInfo]:
        """See `WindowStore.windows`."""
        return [
            WindowInfo(one.start, one.closed, len(one.states), one.events, one.overflow)
            for one in sorted(self._all(), key=_start)
        ]

    @property
    def status(self) -> Mapping[str, int]:
        """See `WindowStore.status`."""
        return {
            "open": len(self._open),
            "waiting": len(self._waiting),
            "closed": len(self._closed),
            "keys": sum(len(window.states) for window in self._all()),
            "remembered": self._remembered,
        }

    def _all(self) -> Iterable[_Window]:
        return (window for part in (self._open, self._waiting, self._closed) for window in part.values())


def _start(window: _Window) -> int:
    return window.start


async def _handed_out(window: _Window, hand_out: HandOut) -> list[Exception]:
    errors = []
    for key in [key for key, taken in window.waiting.items() if not taken]:
        if window.waiting.get(key, True):  # by another call, meanwhile
            continue
        window.waiting[key] = True
        done = False
        try:
            await hand_out(window.tally(key))  # type: ignore[arg-type]  # it has states
            done = True
        except Exception as error:  # noqa: BLE001 - the caller reports it, and the rest is handed out all the same
            errors.append(error)
        finally:  # a cancellation, too, leaves it for the next time
            if done:
                window.waiting.pop(key, None)
            elif key in window.waiting:
                window.waiting[key] = False
    return errors
