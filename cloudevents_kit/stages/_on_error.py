"""What becomes of an event that failed: the error goes on, is put up with, or is dealt with by a hook.

Whatever happens, an event is acknowledged only if the user said so or the hook returned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, ClassVar, Literal, NoReturn

from cloudevents_kit._arguments import check_callable, check_positive
from cloudevents_kit._contract import Handler, Outcome, current_event, hand_off, log, name_of, verdict
from cloudevents_kit._errors import cause_of
from cloudevents_kit._event import Event
from cloudevents_kit._hand_over import FailureHook, hand_over
from cloudevents_kit.stages._calls import check_plain, plain
from cloudevents_kit.stages._stage import Stage

Only = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]


class OnError(Stage):
    """Use `on_error`."""

    kind = "on_error"
    handed_over: ClassVar[str] = "handed_over"
    """What is noted of an event whose hook returned."""
    not_handed_over: ClassVar[str] = "hook_failed"
    """What is counted of one whose hook failed."""

    def __init__(
        self, action: str | FailureHook, only: Only | None, seconds: float, name: str | None, *, called: str = "only"
    ) -> None:
        if isinstance(action, str):
            if action not in {"propagate", "ack"}:
                raise ValueError(f"action: must be 'propagate', 'ack' or a hook, not {action!r}")
        else:
            check_callable("action", action)
        check_positive("timeout", seconds)
        super().__init__(name)
        self._action = action
        self._seconds = seconds
        self._only = _chooser(called, only)

    @property
    def parameters(self) -> Mapping[str, object]:
        action = self._action if isinstance(self._action, str) else "hook"
        return {"action": action, "timeout": self._seconds}

    def chooses(self, error: Exception, event: Event) -> bool:  # noqa: ARG002 - for stages that ask what it means for it
        """Tell whether this stage deals with ``error``."""
        return plain(self._only(error))

    async def run(self, event: Event, call_next: Handler) -> Outcome:
        try:
            return await call_next(event)
        except Exception as error:
            began = perf_counter()
            try:
                chosen = self._action != "propagate" and self.chooses(error, event)
            except Exception as broken:  # noqa: BLE001 - reported with the error it was asked about
                self._fail(error, broken, event, began)
            if not chosen:
                self.counts["propagated"] += 1
                raise
            await self._deal_with(error, event, began)
            return None

    async def _deal_with(self, error: Exception, event: Event, began: float) -> None:
        if isinstance(self._action, str):
            log.warning("stage %s: acknowledged although it failed: %s", self.name, name_of(event), exc_info=error)
            self.note("acknowledged")
            return
        task = asyncio.get_running_loop().create_task(self._call(self._action, event, error))
        try:
            await _outwait(task)
        except asyncio.CancelledError:  # the event is not acknowledged, whatever the hook did
            if (broken := _broken(task)) is None:
                self.counts[self.handed_over] += 1
                raise
            self.counts[self.not_handed_over] += 1
            both = ExceptionGroup("the hook failed", [error, broken])
            log.error("stage %s: cancelled, and its hook failed: %s", self.name, name_of(event), exc_info=both)
            raise
        if (broken := _broken(task)) is not None:
            self.counts[self.not_handed_over] += 1
            self._fail(error, broken, event, began)
        hand_off(current_event() or event)
        self.note(self.handed_over)

    async def _call(self, hook: FailureHook, event: Event, error: Exception) -> None:
        await hand_over(hook, event, error, self._seconds)

    def _fail(self, error: Exception, broken: Exception, event: Event, began: float) -> NoReturn:
        """Raise both errors, in a way that makes the sender send the event again."""
        if not verdict(broken, event).retryable:
            refused = RuntimeError("the error was not dealt with")
            refused.__cause__ = broken
            broken = refused
        both = ExceptionGroup("an event failed, and so did what was to deal with that", [error, broken])
        raise self.failure(both, event, began) from both


def _chooser(name: str, only: Only | None) -> Callable[[Exception], bool]:
    if only is None:
        return lambda _: True
    kinds = only if isinstance(only, tuple) else (only,)
    if all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
        return lambda error: isinstance(error, kinds) or isinstance(cause_of(error), kinds)  # type: ignore[arg-type]
    check_plain(name, only)
    return only  # type: ignore[return-value]


async def _outwait(task: asyncio.Task[None]) -> None:
    """Wait until ``task`` has ended, also if cancelled; a second cancellation is for the task."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            if cancelled is not None:
                task.cancel()
            cancelled = error
    if cancelled is not None:
        try:
            raise cancelled
        finally:
            del cancelled  # it would keep this frame, which keeps it


def _broken(task: asyncio.Task[None]) -> Exception | None:
    if task.cancelled():
        return RuntimeError("the hook was cancelled")
    error: Any = task.exception()
    return error  # type: ignore[no-any-return]


def on_error(
    action: Literal["propagate", "ack"] | FailureHook,
    *,
    only: Only | None = None,
    timeout: float = 10.0,
    name: str | None = None,
) -> Stage:
    """Decide what becomes of an event for which what lies further in raised an exception.

    ``propagate`` lets it pass, ``ack`` acknowledges the event, with a line in the log. A hook, ``async hook(event,
    error)``, may store the event: it is acknowledged if the hook returns, and fails, to be sent again, if the hook
    raises, returns a Nack or Undelivered, or takes more than ``timeout`` seconds; both errors are then raised in an
    ExceptionGroup.

    A hook that has begun is not cut short by a time limit or a cancellation from outside; only a second cancellation
    reaches it. It never runs for a cancelled event. What it has taken is not done for `deduplicate`. ``only`` chooses
    the errors: a type or several, which also match the cause of a `StageError`, or a predicate, a plain function. The
    others pass.
    """
    return OnError(action, only, timeout, name)
