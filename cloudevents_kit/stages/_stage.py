"""What every stage of this package is: a middleware with a name that tells what goes wrong in it.

A stage that hands events to others has ``branches``; one with tasks of its own is an async context manager, opened and
closed with the chain it is part of (see `running`). Knows nothing of what single stages do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import reduce
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from cloudevents_kit._arguments import check_kind
from cloudevents_kit._contract import Handler, Outcome, current_event
from cloudevents_kit._errors import EventError, Refusal, Retry, StageError, cause_of
from cloudevents_kit._event import Event
from cloudevents_kit._lifecycle import Lifecycle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: How an event left a stage, what lies further in included.
Ending = Literal["done", "refused", "failed", "cancelled"]


class Fate(list[str]):
    """What stages noted of one event."""

    __slots__ = ("event",)

    def __init__(self) -> None:
        """Take notes of the event that is being handled here."""
        super().__init__()
        self.event = current_event()


#: What stages noted of the current event so far; None where nobody asks.
fate: ContextVar[list[str] | None] = ContextVar("cloudevents_kit.fate", default=None)


#: Told of an event that has left one stage, or the whole chain: how, and after how many seconds.
Record = Callable[[Event, str, float], None]


class Hook(Protocol):
    """Learns of every event that leaves a stage, and of its outcome in the end; see `observe`."""

    def __call__(self, stage: Stage | None, event: Event, ending: str, seconds: float, /) -> None:
        """Learn that ``event`` has left ``stage``, or the whole chain if that is None.

        ``ending`` of a stage is an `Ending`; that of the chain is the event's one outcome: ``acked``, ``nacked``,
        ``cancelled``, or what a stage did with it instead, such as ``dropped`` or ``duplicate``. ``seconds`` is the
        time from entering to leaving, what lies further in included.
        """
        ...


class Recorder(Protocol):
    """A hook that is called at once, in the event's own path: it must be quick, and must not raise."""

    def recorder(self, stage: Stage | None, /) -> Record:
        """Return what to call for the events that leave ``stage``, or the whole chain if that is None."""
        ...


class Stage:
    """A named middleware. Subclasses do their work in `run`, or in what `bind` returns."""

    kind: ClassVar[str] = "stage"
    """Name of the function that makes such a stage."""
    is_async_handler = True
    composes = True
    """Tells `wrap` that `compose` is what it looks for."""

    def __init__(self, name: str | None = None) -> None:
        """Take ``name``, or that of the kind."""
        if name is not None:
            check_kind("name", name, str, "a str, short, for people and metrics")
        self.name = name or self.kind
        self.record: Record | None = None
        """Tells all who learn of every event; None while there is nobody."""
        self._hooks: list[tuple[object, Record]] = []
        self.counts: Counter[str] = Counter()
        """What this stage did with events, by name. Events that just pass are not counted."""

    @property
    def branches(self) -> Mapping[str, object]:
        """The handlers, sinks and stages inside this one, by name."""
        return _NOTHING

    @property
    def parameters(self) -> Mapping[str, object]:
        """The settings, for `describe`: plain values only."""
        return _NOTHING

    @property
    def status(self) -> Mapping[str, object]:
        """What the stage did and how it is now, as JSON; stages with a state add it: a depth, what is open."""
        return dict(self.counts)

    async def run(self, event: Event, call_next: Handler) -> Outcome:
        """Do the stage's work with ``event``."""
        raise NotImplementedError

    def bind(self, call_next: Handler) -> Handler:
        """Return what does the stage's work; called once per chain."""
        run = self.run
        return lambda event: run(event, call_next)

    def __call__(self, event: Event, call_next: Handler) -> Awaitable[Outcome]:
        """Work as a middleware."""
        return self.compose(call_next)(event)

    def compose(self, call_next: Handler) -> Handler:
        """Return the handler that is this stage around ``call_next``: its work, named and observed."""
        work = self.bind(call_next)

        async def staged(event: Event) -> Outcome:
            record = self.record
            began = 0.0 if record is None else perf_counter()
            try:
                outcome = await work(event)
            except BaseException as error:
                self.ended(error, event, began)
                if isinstance(error, StageError):
                    raise error.within(self.name) from error.__cause__
                raise
            if record is not None:
                record(event, "done", perf_counter() - began)
            return outcome

        return staged

    def ended(self, error: BaseException, event: Event, began: float) -> None:
        """Record how ``event`` ends that leaves this stage with ``error``: nothing that was noted of it holds.

        ``began`` is 0 if nobody was to learn of it when it came.
        """
        ending: Ending = "cancelled"
        if isinstance(error, Exception):
            ending = "refused" if isinstance(cause_of(error), Refusal) else "failed"
            noted = fate.get()
            if noted:
                noted.clear()
        if began and self.record is not None:
            self.record(event, ending, perf_counter() - began)

    def attach(self, hook: object, recorder: Recorder) -> Record:
        """Call a record of ``recorder`` for every event from now on, but only once for a ``hook`` of two chains."""
        record = next((known for other, known in self._hooks if other is hook), None) or recorder.recorder(self)
        self.resume(hook, record)
        return record

    def resume(self, hook: object, record: Record) -> None:
        """Call ``record`` for every event from now on."""
        self._hooks.append((hook, record))
        self._combine()

    def detach(self, hook: object) -> None:
        """Take back one `attach` or `resume` of ``hook``."""
        self._hooks.remove(next(pair for pair in self._hooks if pair[0] is hook))
        self._combine()

    def _combine(self) -> None:
        records = {id(hook): record for hook, record in self._hooks}.values()
        self.record = reduce(_both, records) if records else None

    def note(self, what: str) -> None:
        """Count ``what`` this stage did with the current event, as the event's fate."""
        self.counts[what] += 1
        noted = fate.get()
        if noted is None or (isinstance(noted, Fate) and noted.event is not current_event()):
            return  # nobody asks, or only what becomes of another event, in whose course this one is handled
        noted.append(what)

    def failure(
        self,
        error: BaseException,
        event: Event,
        began: float,
        *,
        kind: Literal["failed", "timeout", "exhausted"] = "failed",
        attempts: int = 1,
    ) -> StageError:
        """Return the error to raise from ``cause_of(error)``; the name of this stage is added on its way out.

        ``began`` is the `time.perf_counter` at which the stage got the event.
        """
        path = error.path if isinstance(error, StageError) else ()
        return StageError(path, event.key, elapsed=perf_counter() - began, kind=kind, attempts=attempts)

    def __repr__(self) -> str:
        """Name the stage."""
        return f"<{self.kind} {self.name!r}>" if self.name != self.kind else f"<{self.kind}>"


_NOTHING: Mapping[str, object] = MappingProxyType({})


def _both(first: Record, second: Record) -> Record:
    def record(event: Event, ending: str, seconds: float, /) -> None:
        first(event, ending, seconds)
        second(event, ending, seconds)

    return record


class Withheld(Retry):
    """Raised by a stage that lets an event no further: what lies further in has done nothing wrong."""


def blame_as_it_came(error: BaseException, changed: Event, event: Event) -> None:
    """Let an error of the event that a stage has ``changed`` blame the ``event`` that came: its sender knows no other.

    Matters only if the change was to source or id.
    """
    cause = cause_of(error)
    if isinstance(cause, EventError) and cause.key == changed.key:
        cause.key = event.key


def name_of_function(function: object, kind: str) -> str:
    """Return the name of ``function`` for its stage, or ``kind`` if it has none that says anything."""
    name = getattr(function, "__name__", None) or type(function).__name__
    return kind if name in {"<lambda>", "partial"} else str(name)


@asynccontextmanager
async def running(*chain: object) -> AsyncIterator[None]:
    """Open handlers and stages that are used without a receiver, and close them in the end.

    What an event reaches last is opened first and closed last. Raises ExceptionGroup if a part fails to open or close.
    """
    lifecycle = Lifecycle(chain)
    await lifecycle.open()
    try:
        yield
    finally:
        lifecycle.drain()
        await lifecycle.close()
