"""Several reducers at work on the same events, and what is shown of their states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from cloudevents_kit._arguments import check_kind
from cloudevents_kit._event import Event
from cloudevents_kit._tally import Tally, WindowInfo
from cloudevents_kit.stages._reducers import Count, Distinct, Reducer
from cloudevents_kit.stages._windows import text_of_moment


class Totals(TypedDict):
    """What was made of the events of one key in one window. JSON."""

    name: str
    """That of the stage."""
    key: str
    start: str
    """RFC 3339."""
    end: str
    """RFC 3339; no longer part of the window."""
    count: int
    """Number of events."""
    values: dict[str, Any]
    closed: bool
    """Nothing is added any more."""
    approximate: list[str]
    """Names of what a limit has cut: ``count`` and all values, if events may have counted twice."""


class Overview(TypedDict):
    """One window as a whole. JSON."""

    start: str
    end: str
    closed: bool
    keys: int
    count: int
    """Number of events, of all keys."""
    overflow: int
    """Number of events that were not counted, for there were too many keys."""


class Reducers:
    """Several reducers; a state and a value of each are told by their place. The last state counts the events."""

    def __init__(self, of: Mapping[str, Reducer]) -> None:
        """Take reducers by the name of their value."""
        check_kind("of", of, Mapping, "a mapping of names to reducers", 'for example {"total": sum_of("data.total")}')
        for name, reducer in of.items():
            check_kind("of", name, str, "a mapping whose keys are str")
            check_kind(f"of[{name!r}]", reducer, Reducer, "a reducer", "made by count(), sum_of(...) and the like")
        self.by_name = dict(of)
        # What changes its state in place, and cannot fail, comes after what can. The last state is every count's.
        own = [named for named in self.by_name.items() if not isinstance(named[1], Count)]
        own.sort(key=lambda named: isinstance(named[1], Distinct))
        self._place = dict.fromkeys(self.by_name, -1) | {name: place for place, (name, _) in enumerate(own)}
        self._all = [reducer for _, reducer in own]
        self._steps = [reducer.step for reducer in self._all]
        self.take = _taker([reducer.take for reducer in self._all])
        """Returns the values of an event, for `fold`."""

    def fold(self, values: list[Any], states: list[Any] | None) -> list[Any]:
        """Return the states after one more event; if a step fails, the given ones are as before."""
        if states is None:
            states = [*[reducer.start() for reducer in self._all], 0]
        folded = states.copy()
        folded[-1] += 1
        place = 0
        for step in self._steps:
            value = values[place]
            if value is not None:
                folded[place] = step(folded[place], value)
            place += 1  # noqa: SIM113 - takes a third of enumerate and its tuple
        return folded

    def results(self, states: list[Any]) -> dict[str, Any]:
        """Return the values by name."""
        return {name: one.result(states[self._place[name]]) for name, one in self.by_name.items()}

    def inexact(self, states: list[Any]) -> list[str]:
        """Return the names of the values that a limit has cut."""
        return [name for name, one in self.by_name.items() if not one.is_exact(states[self._place[name]])]


def _taker(takes: list[Callable[[Event], Any]]) -> Callable[[Event], list[Any]]:
    """Return what makes a list of what all of ``takes`` return: for the usual few without a loop."""
    match takes:
        case [one]:
            return lambda event: [one(event)]
        case [one, two]:
            return lambda event: [one(event), two(event)]
    return lambda event: [take(event) for take in takes]


def totals(name: str, reducers: Reducers, tally: Tally, size: int) -> Totals:
    """Return what ``tally`` says; ``size`` is that of its window."""
    return {
        "name": name,
        "key": tally.key,
        "start": text_of_moment(tally.start),
        "end": text_of_moment(tally.start + size),
        "count": tally.states[-1],
        "values": reducers.results(tally.states),
        "closed": tally.closed,
        "approximate": reducers.inexact(tally.states) if tally.complete else ["count", *reducers.by_name],
    }


def overview(window: WindowInfo, size: int) -> Overview:
    """Return what ``window`` says; ``size`` is its own."""
    return {
        "start": text_of_moment(window.start),
        "end": text_of_moment(window.start + size),
        "closed": window.closed,
        "keys": window.keys,
        "count": window.events,
        "overflow": window.overflow,
    }
