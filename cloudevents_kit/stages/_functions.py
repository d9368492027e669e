"""Stages made of one plain function, sync or async: what it returns decides how the event goes on.

A sync function runs in the loop, not in a thread: it must not block. What it raises becomes a `StageError`, but for a
`Reject` or `Retry`, which is its verdict; see `enrich` for what that makes of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any, ClassVar, Literal

from cloudevents_kit._arguments import check_callable, check_choice
from cloudevents_kit._contract import Handler, Outcome, log, name_of
from cloudevents_kit._errors import EventError, Refusal, Reject, StageError, cause_of
from cloudevents_kit._event import Event
from cloudevents_kit._extensions import KNOWN
from cloudevents_kit._typed import check_type
from cloudevents_kit._values import CORE_NAMES, check_name
from cloudevents_kit.stages._stage import Stage, blame_as_it_came, name_of_function

#: Returned by `decide` for an event that ends here: what lies further in does not get it.
END: Any = object()
#: Types that a function returns and that are no awaitables; asking for others takes longer than the rest of a stage.
_PLAIN = {Event, bool, type(None)}
F = Callable[[Event], Awaitable[Any] | Any]


class FunctionStage(Stage):
    """Calls a function with the event; `decide` turns what it returned into the event that goes on."""

    passes: ClassVar[Any] = END
    """What the function returns for an event that goes on as it is, which saves the question."""

    def __init__(self, function: F, name: str | None) -> None:
        """Take ``function``. Raises TypeError if it cannot be called."""
        check_callable("function", function)
        super().__init__(name or name_of_function(function, self.kind))
        self._function = function

    def decide(self, event: Event, returned: Any, /) -> Event:
        """Return the event that goes on, or `END`."""
        raise NotImplementedError

    def excuse(self, event: Event, error: Exception) -> Event:  # noqa: ARG002 - others go on with the event
        """Return the event that goes on although the function failed, or raise ``error``."""
        raise error

    def compose(self, call_next: Handler) -> Handler:
        """Return what `Stage.compose` does, in one coroutine instead of two."""
        function, decide, passes = self._function, self.decide, self.passes

        async def staged(event: Event) -> Outcome:
            began = perf_counter()
            changed = event
            try:
                try:
                    returned = function(event)
                    if returned is not passes:
                        if type(returned) not in _PLAIN and inspect.isawaitable(returned):
                            returned = await returned
                        changed = decide(event, returned)
                except Exception as error:  # noqa: BLE001 - whatever it is, it becomes a StageError
                    changed = self._excused(error, event, began)
                outcome = None if changed is END else await call_next(changed)
            except BaseException as error:
                if changed is not event:
                    blame_as_it_came(error, changed, event)
                self.ended(error, event, began)
                if isinstance(error, StageError):
                    raise error.within(self.name) from error.__cause__
                raise
            if self.record is not None:
                self.record(event, "done", perf_counter() - began)
            return outcome

        return staged

    def _excused(self, error: Exception, event: Event, began: float) -> Event:
        try:
            return self.excuse(event, error)
        except Refusal:
            raise
        except Exception as left:  # noqa: BLE001 - it becomes a StageError
            raise self.failure(left, event, began) from cause_of(left)


class _Transform(FunctionStage):
    kind = "transform"

    def decide(self, event: Event, returned: Any, /) -> Event:  # noqa: ARG002
        """Go on with the event that was returned."""
        if not isinstance(returned, Event):
            raise TypeError(f"{self.name}: must return the event that goes on, not {type(returned).__name__}")
        return returned


def transform(function: Callable[[Event], Awaitable[Event] | Event], *, name: str | None = None) -> Stage:
    """Go on with the event that ``function`` returns; if it raises, stop with a `StageError`."""
    return _Transform(function, name)


class _Tap(FunctionStage):
    kind = "tap"
    passes = None

    def decide(self, event: Event, returned: Any, /) -> Event:  # noqa: ARG002
        """Go on with the same event, whatever was returned."""
        return event


def tap(function: Callable[[Event], object], *, name: str | None = None) -> Stage:
    """Call ``function`` for its effect and go on with the same event; if it raises, stop with a `StageError`."""
    return _Tap(function, name)


class _KeepIf(FunctionStage):
    kind = "keep_if"
    passes = True

    def __init__(self, function: F, name: str | None, *, otherwise: str) -> None:
        super().__init__(function, name)
        check_choice("otherwise", otherwise, ("drop", "reject"))
        self._otherwise = otherwise

    @property
    def parameters(self) -> Mapping[str, object]:
        return {"otherwise": self._otherwise}

    def decide(self, event: Event, returned: Any, /) -> Event:
        if returned:
            return event
        if self._otherwise == "reject":
            raise Reject(f"not wanted here ({self.name})")
        self.note("dropped")
        return END  # type: ignore[no-any-return]


def keep_if(
    predicate: Callable[[Event], Awaitable[bool] | bool],
    *,
    otherwise: Literal["drop", "reject"] = "drop",
    name: str | None = None,
) -> Stage:
    """Go on with the events that ``predicate`` holds for.

    The others are dropped: acknowledged, counted as ``dropped`` and not handled. With ``otherwise="reject"`` they are
    answered 422.
    """
    return _KeepIf(predicate, name, otherwise=otherwise)


class _Validate(FunctionStage):
    kind = "validate"
    passes = None

    def __init__(self, check: F, name: str | None, *, status: int) -> None:
        super().__init__(check, name)
        Reject("", status)  # raises for a status that is not final
        self._status = status

    @property
    def parameters(self) -> Mapping[str, object]:
        return {"status": self._status}

    def decide(self, event: Event, returned: Any, /) -> Event:
        if returned is None or returned is True:
            return event
        if returned is False:
            raise Reject(f"not valid ({self.name})", self._status)
        if isinstance(returned, str):
            raise Reject(returned, self._status)
        kind = type(returned).__name__
        raise TypeError(f"{self.name}: a check returns None or True, or False or a reason, not {kind}")

    def excuse(self, event: Event, error: Exception) -> Event:
        if isinstance(error, EventError) and error.key == event.key:
            raise Reject(str(error), self._status) from error
        raise error


def validate(
    check: Callable[[Event], Awaitable[bool | str | None] | bool | str | None] | type,
    *,
    status: int = 422,
    name: str | None = None,
) -> Stage:
    """Refuse with ``status``, not to be sent again, the events that ``check`` finds fault with.

    ``check`` is the type that the data must fit, or a function: None or True is valid; False, or a text that says why
    (it is sent to the peer), is not. An `EventError` that blames the event, as `Event.as_type` raises it, is not
    either; any other exception is a failure of the check, not a verdict.
    """
    if isinstance(check, type):
        check_type(check)
        kind: Any = check

        def fits(event: Event) -> None:
            event.as_type(kind)

        return _Validate(fits, name or check.__name__, status=status)
    return _Validate(check, name, status=status)


class _Enrich(FunctionStage):
    kind = "enrich"

    def __init__(self, function: F, name: str | None, *, on_error: str, mark: str | None) -> None:
        super().__init__(function, name)
        check_choice("on_error", on_error, ("keep", "fail"))
        if mark is not None:
            check_name(mark)
            if mark in CORE_NAMES or mark in KNOWN:
                raise ValueError(f"mark: {mark} has a meaning of its own (take another name)")
        self._on_error = on_error
        self._mark = mark

    @property
    def parameters(self) -> Mapping[str, object]:
        return {"on_error": self._on_error, "mark": self._mark}

    def decide(self, event: Event, returned: Any, /) -> Event:
        if returned is not None and not isinstance(returned, Event):
            raise TypeError(f"{self.name}: must return the enriched event, or None, not {type(returned).__name__}")
        self.counts["enriched" if returned is not None else "unchanged"] += 1
        found = event if returned is None else returned
        return found if self._mark is None else found.evolve(**{self._mark: returned is not None})

    def excuse(self, event: Event, error: Exception) -> Event:
        if isinstance(error, Refusal) and not error.retryable:
            raise error
        self.counts["failed"] += 1
        if self._on_error == "fail":
            raise error
        log.warning("stage %s: enrichment failed: %s", self.name, name_of(event), exc_info=error)
        return event if self._mark is None else event.evolve(**{self._mark: False})


def enrich(
    function: Callable[[Event], Awaitable[Event | None] | Event | None],
    *,
    on_error: Literal["keep", "fail"] = "keep",
    mark: str | None = None,
    name: str | None = None,
) -> Stage:
    """Go on with the event that ``function`` returns, or with the same one if it returns None.

    If it raises, the event goes on as it was, which is logged and counted as ``failed``; with ``on_error="fail"`` it
    stops with a `StageError`, or the `Retry` that was raised. A `Reject` is a verdict, and stops it in any case.
    ``mark`` names an extension attribute of your own that is set to whether the event was enriched.
    """
    return _Enrich(function, name, on_error=on_error, mark=mark)
