"""Stages that choose where an event goes: by a key, by a condition, or to the next branch when one has failed.

The functions that choose run in the loop, not in a thread: they must not block. What they raise becomes a `StageError`,
but for a `Reject` or `Retry`, which is their verdict.
"""

from __future__ import annotations

import asyncio
import inspect
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Mapping
from time import perf_counter
from typing import Any, Final

from cloudevents_kit._arguments import check_callable, check_kind
from cloudevents_kit._contract import Handler, Outcome, log, name_of, verdict
from cloudevents_kit._errors import EventError, Refusal, Reject, cause_of
from cloudevents_kit._event import Event
from cloudevents_kit._tasks import is_cancelled
from cloudevents_kit._values import check_name
from cloudevents_kit.stages._adapt import Branch, as_branch, name_branches, name_of_branch
from cloudevents_kit.stages._stage import Record, Stage, name_of_function


class _Pass(Stage):
    kind = "pass"

    def compose(self, call_next: Handler) -> Handler:
        """Return ``call_next`` itself: there is nothing to name or observe."""
        return call_next

    def resume(self, hook: object, record: Record) -> None:
        """Do nothing: this is one object in all chains."""

    def detach(self, hook: object) -> None:
        """Do nothing."""


class _Rejecter:
    async def __call__(self, event: Event) -> Outcome:  # noqa: ARG002 - they are all the same to it
        raise Reject("there is no branch for this event")

    def __repr__(self) -> str:
        return "REJECT"


#: The branch that does nothing: the event goes on to what follows.
PASS: Final[Stage] = _Pass()
#: The branch that refuses every event: 422, not to be sent again.
REJECT: Final[Handler] = _Rejecter()

#: Types that a function returns and that are no awaitables; asking for others takes longer than to choose.
_PLAIN = {str, bool, int, type(None)}


class _Choosing(Stage):
    """Calls a function with each event; what it returns decides which branch gets the event."""

    def __init__(self, function: Callable[[Event], Any], name: str) -> None:
        super().__init__(name)
        self._function = function

    @abstractmethod
    def chooser(self, call_next: Handler) -> Callable[[Any], Handler]:
        """Return what turns that which the function returned into the handler of a branch."""

    def bind(self, call_next: Handler) -> Handler:
        function, choose = self._function, self.chooser(call_next)

        def chosen(event: Event) -> Awaitable[Outcome]:
            began = perf_counter()
            try:
                returned = function(event)
                if type(returned) not in _PLAIN and inspect.isawaitable(returned):
                    return later(returned, event, began)
                branch = choose(returned)
            except Refusal:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it becomes a StageError
                raise self.failure(error, event, began) from cause_of(error)
            return branch(event)

        async def later(returned: Awaitable[Any], event: Event, began: float) -> Outcome:
            try:
                branch = choose(await returned)
            except Refusal:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it becomes a StageError
                raise self.failure(error, event, began) from cause_of(error)
            return await branch(event)

        return chosen


class _Route(_Choosing):
    kind = "route"

    def __init__(
        self, by: Callable[[Event], Any] | str, branches: Mapping[Any, Branch], default: Branch, name: str | None
    ) -> None:
        check_kind("branches", branches, Mapping, "a dict of branches by key")
        if not branches:
            raise ValueError("branches: there must be at least one")
        for key, branch in branches.items():
            as_branch(branch, name=f"branches[{key!r}]")
        as_branch(default, name="default")
        self._by_key = dict(branches)
        self._default = default
        if isinstance(by, str):
            self._by = _checked(by)
            super().__init__(lambda event: event.get(by), name or self.kind)
        else:
            check_callable("by", by)
            self._by = name_of_function(by, "function")
            super().__init__(by, name or name_of_function(by, self.kind))

    @property
    def parameters(self) -> Mapping[str, object]:
        return {"by": self._by, "default": _kind(self._default)}

    @property
    def branches(self) -> Mapping[str, object]:
        named = [(key if isinstance(key, str) else repr(key), branch) for key, branch in self._by_key.items()]
        return _inside([*named, ("default", self._default)])

    def chooser(self, call_next: Handler) -> Callable[[Any], Handler]:
        branches = {key: as_branch(branch, call_next) for key, branch in self._by_key.items()}
        default = as_branch(self._default, call_next)

        def choose(key: Any) -> Handler:
            try:
                branch = branches.get(key)
            except TypeError:  # a list or an object is the key of no branch
                branch = None
            if branch is None:
                self.counts["unknown"] += 1
                return default
            return branch

        return choose


def _checked(attribute: str) -> str:
    try:
        return check_name(attribute)
    except EventError as error:
        raise ValueError(f"by: {error}") from None


def _kind(branch: Branch) -> str:
    return "pass" if branch is PASS else "reject" if branch is REJECT else "branch"


def _inside(named: list[tuple[str, Branch]]) -> Mapping[str, object]:
    """Return the branches that are worth describing: the constants hold nothing."""
    return name_branches((name, branch) for name, branch in named if branch is not PASS and branch is not REJECT)


def route(
    by: Callable[[Event], Awaitable[Hashable] | Hashable] | str,
    branches: Mapping[Any, Branch],
    *,
    default: Branch,
    name: str | None = None,
) -> Stage:
    """Hand each event to one of ``branches``: a handler or a sink ends it there, after a stage it goes on.

    Args:
        by: returns the key of the branch for an event; or the name of an attribute whose value is the key, which is
            None if the event does not have it.
        branches: by key.
        default: for an event whose key has no branch, a list or an object for example; it is counted as ``unknown``.
            `PASS` lets it go on, `REJECT` answers 422.
        name: of this stage; by default that of the function.
    """
    return _Route(by, branches, default, name)


class _When(_Choosing):
    kind = "when"

    def __init__(self, predicate: Callable[[Event], Any], then: Branch, otherwise: Branch, name: str | None) -> None:
        check_callable("predicate", predicate)
        as_branch(then, name="then")
        as_branch(otherwise, name="otherwise")
        super().__init__(predicate, name or name_of_function(predicate, self.kind))
        self._then, self._otherwise = then, otherwise

    @property
    def parameters(self) -> Mapping[str, object]:
        return {"otherwise": _kind(self._otherwise)}

    @property
    def branches(self) -> Mapping[str, object]:
        return _inside([("then", self._then), ("otherwise", self._otherwise)])

    def chooser(self, call_next: Handler) -> Callable[[Any], Handler]:
        then, otherwise = as_branch(self._then, call_next), as_branch(self._otherwise, call_next)
        return lambda holds: then if holds else otherwise


def when(
    predicate: Callable[[Event], Awaitable[bool] | bool],
    then: Branch,
    otherwise: Branch = PASS,
    *,
    name: str | None = None,
) -> Stage:
    """Hand the events that ``predicate`` holds for to ``then``, the others to ``otherwise``; by default they go on."""
    return _When(predicate, then, otherwise, name)


class _FirstOf(Stage):
    kind = "first_of"

    def __init__(
        self, branches: tuple[Branch, ...], only: tuple[type[Exception], ...] | None, name: str | None
    ) -> None:
        if not branches:
            raise ValueError("branches: there must be at least one")
        for number, branch in enumerate(branches, 1):
            as_branch(branch, name=f"branch {number}")
        super().__init__(name)
        self._named = name_branches((name_of_branch(branch), branch) for branch in branches)
        self._only = only

    @property
    def parameters(self) -> Mapping[str, object]:
        return {} if self._only is None else {"only": [kind.__name__ for kind in self._only]}

    @property
    def branches(self) -> Mapping[str, object]:
        return _inside([*self._named.items()])

    def bind(self, call_next: Handler) -> Handler:
        handlers = {name: as_branch(branch, call_next) for name, branch in self._named.items()}

        async def tried(event: Event) -> Outcome:
            began = perf_counter()
            errors: list[Exception] = []
            for name, handler in handlers.items():
                try:
                    outcome = await handler(event)
                except asyncio.CancelledError:
                    if is_cancelled():
                        raise
                    errors.append(RuntimeError("the branch was cancelled"))
                except Exception as error:
                    final = not self._is_failure(error, event)
                    if final and not errors:
                        raise
                    errors.append(error)
                    if final:
                        break
                else:
                    if errors:
                        self._took_over(name, errors, event)
                    return outcome
            self.counts["failed"] += 1
            group = ExceptionGroup(f"every branch of {self.name} failed", errors)
            raise self.failure(group, event, began, attempts=len(errors)) from group

        return tried

    def _is_failure(self, error: Exception, event: Event) -> bool:
        if self._only is None:
            return verdict(error, event).retryable
        return isinstance(error, self._only) or isinstance(cause_of(error), self._only)

    def _took_over(self, name: str, errors: list[Exception], event: Event) -> None:
        self.counts["fell_back"] += 1
        group = ExceptionGroup("branches failed", errors)
        log.warning("stage %s: %s took over: %s", self.name, name, name_of(event), exc_info=group)


def first_of(
    *branches: Branch,
    only: type[Exception] | tuple[type[Exception], ...] | None = None,
    name: str | None = None,
) -> Stage:
    """Hand each event to the first of ``branches``; when that fails, to the next one.

    A final verdict, such as a `Reject`, is no failure: it holds, and no further branch is asked; but if a branch
    before it had failed, the event is to be sent again, as when all fail: then a `StageError` is raised from an
    ``ExceptionGroup`` of what all have raised. Where another branch took over is logged, and counted as ``fell_back``.

    Args:
        branches: handlers and sinks end the event; a stage fails also when what follows it does.
        only: take nothing but these exceptions for failures, a `Reject` if it is one of them; others pass unchanged.
        name: of this stage.
    """
    kinds = only if only is None or isinstance(only, tuple) else (only,)
    for kind in kinds or ():
        if Exception not in getattr(kind, "__mro__", ()):
            raise TypeError(f"only: must be an exception class or a tuple of them, not {kind!r}")
    return _FirstOf(branches, kinds, name)
