"""Versions of events: bring old ones up to date before a handler sees them, and notice types without a proper name."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any

from cloudevents_kit._arguments import check_callable, check_kind
from cloudevents_kit._contract import Handler, Outcome, log, name_of
from cloudevents_kit._errors import Refusal, cause_of
from cloudevents_kit._event import Event
from cloudevents_kit._values import remember
from cloudevents_kit.stages._calls import called
from cloudevents_kit.stages._stage import Stage

#: From this type, to that type, by a function that returns the new data, or the whole new event.
Step = tuple[str, str, Callable[[Event], Awaitable[Any] | Any]]

_version = re.compile(r"\.v([0-9]{1,9})\Z").search
_version_sub = re.compile(r"\.v[0-9]{1,9}\Z").sub
_reverse_dns = re.compile(r"[A-Za-z]{2,63}(?:\.[A-Za-z0-9_-]+){2,}").fullmatch
_MOST_WARNINGS = 1000


def version_of(event_type: str) -> int | None:
    """Return the version that a type ends with, as in ``com.example.order.created.v2``, or None."""
    found = _version(event_type)
    return int(found[1]) if found else None


def with_version(event_type: str, version: int) -> str:
    """Return ``event_type`` with another version, or with its first one."""
    return f"{_version_sub('', event_type)}.v{version}"


class _Upcast(Stage):
    kind = "upcast"

    def __init__(self, steps: tuple[Step, ...], name: str | None) -> None:
        super().__init__(name)
        self._steps: dict[str, tuple[str, Callable[[Event], Any]]] = {}
        for step in steps:
            self._add(step)
        for event_type in self._steps:
            self._check_end(event_type)

    def _add(self, step: Any) -> None:
        if not isinstance(step, tuple) or len(step) != 3:
            raise TypeError("steps: each must be a tuple of the old type, the new type and a function")
        old, new, function = step
        for event_type in (old, new):
            check_kind("steps", event_type, str, "a tuple that begins with two types")
        check_callable("steps", function)
        if old == new:
            raise ValueError(f"steps: {old} leads to itself")
        if old in self._steps:
            raise ValueError(f"steps: two lead on from {old}, to {self._steps[old][0]} and to {new}")
        self._steps[old] = new, function

    def _check_end(self, event_type: str) -> None:
        path = [event_type]
        while path[-1] in self._steps:
            path.append(self._steps[path[-1]][0])
            if path[-1] in path[:-1]:
                raise ValueError(f"steps: {' > '.join(path)} goes round and round")

    @property
    def parameters(self) -> Mapping[str, object]:
        return {"steps": {old: new for old, (new, _) in self._steps.items()}}

    def bind(self, call_next: Handler) -> Handler:
        steps = self._steps

        def bound(event: Event) -> Awaitable[Outcome]:
            return call_next(event) if event.type not in steps else self.run(event, call_next)

        return bound

    async def run(self, event: Event, call_next: Handler) -> Outcome:
        began = perf_counter()
        new = event
        try:
            while new.type in self._steps:
                wanted, function = self._steps[new.type]
                new = _next(new, wanted, await called(function, new))
        except Refusal:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes a StageError
            step = f"{new.type} to {self._steps[new.type][0]}"
            raise self.failure(error, event, began).within(step) from cause_of(error)
        self.counts["upcast"] += 1
        return await call_next(new)


def _next(event: Event, wanted: str, returned: Any) -> Event:
    """Return the event of type ``wanted`` that a step has made of ``event``; what it is known by stays."""
    if not isinstance(returned, Event):
        if returned is None:
            raise TypeError(f"the step to {wanted} must return the new data, or the new event, not None")
        return event.evolve(type=wanted, data=returned, dataschema=None)
    if returned.type not in {wanted, event.type}:
        raise ValueError(f"the step to {wanted} returned an event of the type {returned.type}")
    return returned.evolve(type=wanted, id=event.id, source=event.source, time=event.time_text)


def upcast(*steps: Step, name: str | None = None) -> Stage:
    """Bring events of old types up to date, so that what lies further in sees only the newest.

    Each step is a tuple ``(old_type, new_type, function)``. The function gets the event as the steps before have left
    it, and returns the new data, which also drops the dataschema of the old, or the whole new event. The id, source
    and time stay in any case. One step follows the other, from wherever an event comes in. What a function raises
    becomes a `StageError`, in whose path the step is the last, as "a to b". Raises ValueError for steps that go round
    in a circle or part.
    """
    return _Upcast(steps, name)


class _LintTypes(Stage):
    kind = "lint_types"

    def __init__(self, name: str | None) -> None:
        super().__init__(name)
        self._told: set[str] = set()
        self._good: dict[str, bool] = {}

    def bind(self, call_next: Handler) -> Handler:
        def bound(event: Event) -> Awaitable[Outcome]:
            if event.type not in self._good:
                self._check(event)
            return call_next(event)

        return bound

    def _check(self, event: Event) -> None:
        if _reverse_dns(event.type):
            remember(self._good, event.type, True)  # noqa: FBT003 - a set of what is good
            return
        self.counts["odd"] += 1
        if event.type not in self._told and len(self._told) < _MOST_WARNINGS:
            self._told.add(event.type)
            log.warning("this type does not begin with a domain turned round, as com.example.order: %s", name_of(event))


def lint_types(*, name: str | None = None) -> Stage:
    """Warn, once for each, of types that do not begin with a reverse-DNS name; every event goes on all the same."""
    return _LintTypes(name)
