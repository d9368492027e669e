"""What makes a stage, or a handler, of something else: a plain middleware, several stages, a branch.

A *branch* is where a flow stage sends events: a handler or a sink, which ends them, or a stage, after which they go on
to what follows the flow stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cloudevents_kit._contract import Handler, Middleware, Sink, SyncHandler, as_handler, forward, wrap
from cloudevents_kit._event import Event
from cloudevents_kit.stages._stage import Stage, name_of_function

Branch = Handler | SyncHandler | Sink | Stage


async def _end(event: Event) -> None:
    """Take an event that went through a stage after which nothing follows."""


def as_branch(branch: Branch, call_next: Handler = _end, name: str = "branch") -> Handler:
    """Return the handler of ``branch``, where a stage goes on to ``call_next``; by default it ends there.

    Raises TypeError for anything else, which was given as ``name``.
    """
    try:
        if isinstance(branch, Stage):
            return wrap(call_next, branch)
        if callable(getattr(branch, "send", None)):
            return forward(branch)  # type: ignore[arg-type]
        return as_handler(branch)  # type: ignore[arg-type]
    except TypeError as error:
        wanted = "a handler, a sink or a stage (stage(...) makes one of a middleware)"
        raise TypeError(f"{name}: must be {wanted}: {error}") from None


def name_of_branch(branch: object) -> str:
    """Name a branch that was given without a name."""
    return branch.name if isinstance(branch, Stage) else name_of_function(branch, "branch")


def name_branches(branches: Iterable[tuple[str, Branch]]) -> dict[str, Branch]:
    """Return ``branches`` by names that differ."""
    found: dict[str, Branch] = {}
    for name, branch in branches:
        found[free_name(name, found)] = branch
    return found


def free_name(name: str, taken: Mapping[str, object]) -> str:
    """Return ``name``, with a number if it is ``taken``."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} {number}"
    return free


class _Named(Stage):
    def __init__(self, middleware: Middleware, name: str | None) -> None:
        super().__init__(name or name_of_function(middleware, self.kind))
        self._middleware = middleware

    @property
    def branches(self) -> Mapping[str, object]:
        return {"middleware": self._middleware}

    def bind(self, call_next: Handler) -> Handler:
        return wrap(call_next, self._middleware)


def stage(middleware: Middleware, *, name: str | None = None) -> Stage:
    """Make a named stage of a plain middleware, so that it can be a branch, and shows up under its name."""
    return _Named(middleware, name)


class _Chain(Stage):
    kind = "chain"

    def __init__(self, stages: tuple[Middleware, ...], name: str | None) -> None:
        super().__init__(name)
        self._stages = stages

    @property
    def branches(self) -> Mapping[str, object]:
        return {str(number): stage for number, stage in enumerate(self._stages, 1)}

    def bind(self, call_next: Handler) -> Handler:
        return wrap(call_next, *self._stages)


def chain(*stages: Middleware, name: str | None = None) -> Stage:
    """Make one stage of several, the first one outermost."""
    return _Chain(stages, name)


def is_adapter(thing: object) -> bool:
    """Tell whether what ``thing`` has inside are middlewares."""
    return isinstance(thing, _Named | _Chain)
