"""Opens the parts of a chain and closes them in reverse, whatever fails on the way.

A chain is walked by what its links tell: a wrapped handler has ``stage`` and ``call_next`` (or, by a decorator, what
it has wrapped), and whatever else hands events on has ``branches``, which maps names to them. Sinks are left alone:
whoever made one opens it; so is what lies behind a thing with ``opens_branches``, which does that itself. Knows
nothing else of handlers and stages.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any


def links(thing: object) -> Mapping[str, object]:
    """Return what ``thing`` hands events to, by name: nothing for the end of a chain."""
    if hasattr(thing, "stage") and hasattr(thing, "call_next") and not _answers_to_all(thing):
        return {"stage": thing.stage, "call_next": thing.call_next}
    if hasattr(thing, "__wrapped__"):
        return {"handler": thing.__wrapped__}
    found: Any = getattr(thing, "branches", None)
    return found if isinstance(found, Mapping) else {}


def _answers_to_all(thing: object) -> bool:
    """Tell whether ``thing`` has every attribute that it is asked for, and so no end, as mocks do."""
    return inspect.getattr_static(thing, "call_next", None) is None


def walk(*things: object) -> Iterator[object]:
    """Yield everything that events reach through ``things``, each once, and never before what it was reached from."""
    seen: set[int] = set()
    waiting = list(reversed(things))
    while waiting:
        thing = waiting.pop()
        if id(thing) not in seen:
            seen.add(id(thing))
            yield thing
            waiting.extend(reversed([*links(thing).values()]))


def parts_of(*chain: object) -> list[AbstractAsyncContextManager[Any]]:
    """Return what is to be opened for ``chain``, in that order: whatever a part hands events to comes before it.

    Sinks are left out, and what lies behind a thing that ``opens_branches``; a sink that is itself the chain is not.
    """
    found: list[object] = []
    seen: set[int] = set()
    waiting = [(thing, False) for thing in chain]
    while waiting:
        thing, inside_done = waiting.pop()
        if inside_done:
            found.append(thing)
        elif id(thing) not in seen:
            seen.add(id(thing))
            waiting.append((thing, True))
            if not getattr(thing, "opens_branches", False):
                waiting.extend((inner, False) for inner in links(thing).values())  # the last one, what follows, first
    outermost = {id(thing) for thing in chain}
    return [
        part
        for part in found
        if isinstance(part, AbstractAsyncContextManager) and (id(part) in outermost or not hasattr(part, "send"))
    ]


def drain(part: object) -> None:
    """Call ``part.drain()``, if it has such a function that is not async."""
    function = getattr(part, "drain", None)
    if function is not None and not inspect.iscoroutinefunction(function):
        function()


class Lifecycle:
    """The parts of a chain that are async context managers.

    What an event reaches last is opened first and closed last, so that a stage that still holds events when it is
    closed can hand them on. ``resources``, which any of them may use, are opened before and closed after all.
    """

    def __init__(self, chain: Iterable[object], resources: Iterable[object] = ()) -> None:
        """Take ``chain``, outermost part first."""
        self._resources = [part for part in resources if isinstance(part, AbstractAsyncContextManager)]
        self._parts = self._resources + parts_of(*chain)
        self._open: list[AbstractAsyncContextManager[Any]] = []

    def drain(self) -> None:
        """Tell every open part of the chain that has ``drain`` that no more will come: what it holds must not wait."""
        for part in self._open[len(self._resources) :]:
            drain(part)

    async def open(self) -> None:
        """Enter every part; if one fails, leave those entered before it. Raises ExceptionGroup."""
        for part in self._parts:
            try:
                await part.__aenter__()
            except Exception as error:  # noqa: BLE001 - reported in a group, after the rest was closed
                raise ExceptionGroup(
                    "a part of the receiver did not start", [error, *await self._close_all()]
                ) from None
            except BaseException:  # cancelled: nothing may stay open
                await self._close_all()
                raise
            self._open.append(part)

    async def close(self, why: BaseException | None = None) -> None:
        """Leave every part that was entered, the last one first. Raises ExceptionGroup with all errors.

        ``why`` is the error that made this necessary, if any; it is raised with those that followed from it.
        """
        errors = await self._close_all()
        if errors:
            errors = [why, *errors] if isinstance(why, Exception) else errors
            raise ExceptionGroup("parts of the receiver did not stop cleanly", errors)

    async def _close_all(self) -> list[Exception]:
        errors = []
        while self._open:
            try:
                await self._open.pop().__aexit__(None, None, None)
            except Exception as error:  # noqa: BLE001 - reported in a group, after the rest was closed
                errors.append(error)
            except BaseException:  # cancelled: the rest is closed all the same
                await self._close_all()
                raise
        return errors
