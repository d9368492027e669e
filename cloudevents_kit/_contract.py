"""The two arrows and the wrapper that every feature is made of.

    inbound   Handler    = async (Event) -> Event | ACCEPTED | None
    stage     Middleware = async (Event, call_next: Handler) -> the same      (a plain function will do)
    outbound  Sink       : async send(event) -> Result

`settle` is the only place where an exception becomes an outcome, `forward` the only one where an outcome becomes an
exception. `asyncio.CancelledError` passes through both. Knows nothing of HTTP, clocks or tasks.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Executor
from contextvars import ContextVar, copy_context
from dataclasses import replace
from functools import wraps
from types import MappingProxyType
from typing import Any, Final, Protocol, final

from cloudevents_kit._arguments import check_callable, check_methods
from cloudevents_kit._errors import EventError, Refusal, StageError
from cloudevents_kit._event import Event
from cloudevents_kit._result import Ack, Nack, Result

log = logging.getLogger("cloudevents_kit")


@final
class Accepted:
    """Type of `ACCEPTED`."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Name the constant."""
        return "ACCEPTED"


#: Returned by a handler that stored the event, where a crash cannot lose it, to be handled later. Answers 202.
ACCEPTED: Final = Accepted()

Outcome = Event | Accepted | None
Handler = Callable[[Event], Awaitable[Outcome]]
Middleware = Callable[[Event, Handler], Awaitable[Outcome] | Outcome]
SyncHandler = Callable[[Event], Outcome]


class Sink(Protocol):
    """Where events go."""

    async def send(self, event: Event, /) -> Result:
        """Deliver ``event`` and tell what became of it; never raise for a delivery problem."""
        ...


_Headers = Sequence[tuple[bytes, bytes]]
#: The event that is being handled, the headers of the HTTP request it came with, and when it was `handed_over`, if so.
_current: ContextVar[list[Any]] = ContextVar("cloudevents_kit.current", default=[None, (), 0])  # noqa: B039 - as it is

#: The result of an event that was handled and has no reply.
DONE = Ack(status=204)
_STORED = Ack(status=202)


def current_event() -> Event | None:
    """Return the event that is being handled here, or None outside a handler."""
    event: Event | None = _current.get()[0]
    return event


def request_headers() -> Sequence[tuple[bytes, bytes]]:
    """Return the headers of the HTTP request being handled as they came: one object for all events of a request."""
    headers: _Headers = _current.get()[1]
    return headers


def current_headers() -> Mapping[str, str]:
    """Return the headers of the HTTP request being handled: lower-case names, repeated fields joined by a comma."""
    found: dict[str, str] = {}
    for raw_name, raw_value in request_headers():
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("utf-8", "replace")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return MappingProxyType(found)


def wrap(handler: Handler, *stages: Middleware) -> Handler:
    """Put ``stages`` around ``handler``, the first outermost. Without stages this is ``handler`` itself.

    A stage that is a plain function runs in the loop, not in a thread: it must not block.
    """
    if stages:
        handler = as_handler(handler)
    for stage in reversed(stages):
        handler = _bind(stage, handler)
    return handler


def _bind(stage: Middleware, call_next: Handler) -> Handler:
    _check_takes("stage", stage, 2, "the event and call_next")
    composed = _compose(stage, call_next)
    if composed is call_next:
        return composed  # the stage does nothing, and what is not its own is not to be marked
    bound: Any = composed
    bound.stage, bound.call_next = stage, call_next  # for whoever walks the chain: see `_lifecycle`
    bound.is_async_handler = True
    return bound  # type: ignore[no-any-return]


def _compose(stage: Middleware, call_next: Handler) -> Handler:
    if getattr(stage, "composes", False):  # a stage that makes its own closure saves a call per event
        return stage.compose(call_next)  # type: ignore[attr-defined, no-any-return]

    def bound(event: Event) -> Awaitable[Outcome]:
        return stage(event, call_next)  # type: ignore[return-value]  # it is async

    async def bound_plain(event: Event) -> Outcome:
        outcome: Any = stage(event, call_next)
        return await outcome if inspect.isawaitable(outcome) else outcome  # type: ignore[no-any-return]

    return bound if is_async(stage) else bound_plain


def _check_takes(name: str, function: Any, count: int, what: str) -> None:
    """Raise TypeError unless ``function`` can be called with ``count`` arguments, and answers once."""
    check_callable(name, function)
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        raise TypeError(f"{name}: must be callable with {count} positional arguments ({what})") from None
    except ValueError:
        pass  # a function of C, which does not tell
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{name}: must return its outcome, not yield it")


def is_async(function: Callable[..., object]) -> bool:
    """Tell whether a call of ``function`` returns an awaitable at once, so that it needs no thread."""
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        return True
    return bool(getattr(function, "is_async_handler", False))


def as_handler(function: Handler | SyncHandler, threads: Executor | None = None) -> Handler:
    """Return an async handler for ``function``; a plain one will run in a thread, of the loop or ``threads``."""
    if not callable(function) and hasattr(function, "send"):
        hint = "forward(sink) makes a handler of a sink"
        raise TypeError(f"handler: must be callable, not {type(function).__name__} ({hint})")
    _check_takes("handler", function, 1, "the event; typed data needs a Router")
    if is_async(function):
        return function  # type: ignore[return-value]
    import asyncio  # here, as in `_clock`: it takes longer to load than this whole package

    @wraps(function)
    async def in_thread(event: Event) -> Outcome:
        run, loop = copy_context().run, asyncio.get_running_loop()
        outcome: Any = await loop.run_in_executor(threads, run, _call, function, event)
        return await outcome if inspect.isawaitable(outcome) else outcome  # type: ignore[no-any-return]

    return in_thread


def _call(function: Callable[[Event], Any], event: Event) -> Any:
    """Call a plain function; asyncio would wait for ever for a StopIteration, and take the other for a cancellation."""
    try:
        return function(event)
    except (StopIteration, CancelledError) as error:
        msg = f"a handler raised {type(error).__name__}"
        raise RuntimeError(msg) from error


async def settle(handler: Handler, event: Event) -> Result:
    """Run ``handler`` and turn its end into the outcome to answer; see `settle_each`."""
    results: list[Result] = []
    await settle_each(handler, (event,), results, caused=True)
    return results.pop()  # what is left in it would hold its error, and that the frame that has it


async def settle_each(
    handler: Handler,
    events: Iterable[Event],
    results: list[Result],
    headers: _Headers | None = None,
    *,
    caused: bool = False,
) -> None:
    """Run ``handler`` for one event after the other and append what its end means to ``results``.

    None is handled, an Event is the reply, ACCEPTED is stored. A `Refusal` keeps its status; an `EventError` that
    blames this event can never be mended, 422; a time limit of the handler's own is 503; anything else is 500, logged
    with its traceback. ``headers`` are those of the HTTP request, if there is a new one. ``caused``: the results tell
    what was raised.
    """
    outer = _current.get()
    headers = outer[1] if headers is None else headers
    try:
        for event in events:
            current: list[Any] = [event, headers, 0]
            _current.set(current)
            try:
                outcome = await handler(event)
                results.append(DONE if outcome is None else acknowledge(outcome, event))
            except Exception as error:  # noqa: BLE001 - this is the place where exceptions become outcomes
                nack = _failure(error, event)
                results.append(replace(nack, cause=error) if caused else nack)
                del nack
            if current[2]:
                _note(outer, event, current[2])
    finally:
        _current.set(outer)  # a caller in the same task may be handling an event of its own


async def settle_by_each(handlers: Iterable[Handler], event: Event, results: list[Result]) -> None:
    """Run one of ``handlers`` after the other for ``event``, and append what their ends mean; see `settle_each`.

    It is the same loop with the context set once: what several branches do with one event is little.
    """
    outer = _current.get()
    current = [event, outer[1], 0]
    _current.set(current)
    try:
        for handler in handlers:
            try:
                outcome = await handler(event)
                results.append(DONE if outcome is None else acknowledge(outcome, event))
            except Exception as error:  # noqa: BLE001 - as above
                results.append(_failure(error, event))
    finally:
        _current.set(outer)
        if current[2]:
            _note(outer, event, current[2])


# What failed for good and was taken by somebody, a dead letter above all, is acknowledged and yet not done: if it comes
# again, it is to be handled. Whoever remembers what is done asks whether that has happened further in.

#: How many events were handed over in this process: as long as that is the same, there is nothing to ask.
handovers = [0]
#: Those of handlers that nobody has settled, by the event's key: the last ones.
_unsettled: dict[tuple[str, str], int] = {}
_MOST_UNSETTLED = 1000


def hand_off(event: Event) -> None:
    """Note that ``event``, if it is the one being handled here, was taken by somebody for what went wrong with it."""
    handovers[0] += 1
    _note(_current.get(), event, handovers[0])


def _note(current: list[Any], event: Event, number: int) -> None:
    if current[0] is None:
        _unsettled.pop(event.key, None)
        _unsettled[event.key] = number
        if len(_unsettled) > _MOST_UNSETTLED:
            del _unsettled[next(iter(_unsettled))]
    elif current[0].key == event.key:  # what becomes of another, that is sent in its course, is not its end
        current[2] = max(current[2], number)


def was_handed_off(event: Event, since: int) -> bool:
    """Tell whether ``event``, which is being handled here, was handed off when there had been ``since`` handovers."""
    noted: int = _current.get()[2]
    return max(noted, _unsettled.get(event.key, 0)) > since  # a batch settles its events in a context of its own


def detach() -> None:
    """Let what becomes of the event from here on, beside its handling, not count as what becomes of it."""
    event, headers, _ = _current.get()
    _current.set([event, headers, 0])


def acknowledge(outcome: object, event: Event) -> Result:
    """Return the Ack for what a handler returned. Raises TypeError or ValueError if it is no outcome."""
    if outcome is ACCEPTED:
        return _STORED
    if not isinstance(outcome, Event):
        msg = f"a handler returns an Event, ACCEPTED or None, not {type(outcome).__name__}"
        raise TypeError(msg)
    if outcome.key == event.key:
        msg = "the reply has the key of the event it answers, which a broker would deliver again: use event.reply(...)"
        raise ValueError(msg)
    return Ack(status=200, reply=outcome)


def _failure(error: Exception, event: Event) -> Nack:
    """Return what ``error`` means, and log it: a verdict as a line, a failure with its traceback."""
    nack = verdict(error, event)
    in_stage = isinstance(error, StageError)
    cause = error.__cause__ if in_stage else error
    name = f"{name_of(event)}: {error}" if in_stage else name_of(event)
    if isinstance(cause, Refusal):
        level = logging.WARNING if in_stage else logging.INFO
        log.log(level, "event refused by its handler: %s: %d %s", name, nack.status, nack.reason.partition("\n")[0])
    elif nack.status == 422:
        log.warning("event does not fit its handler: %s: %s", name, nack.reason)
    elif isinstance(cause, TimeoutError):
        log.warning("handler ran out of time: %s", name, exc_info=error)
    else:
        log.error("handler failed: %s", name, exc_info=error)
    return nack


def verdict(error: Exception, event: Event) -> Nack:
    """Return the outcome that an exception of a handler or a stage stands for.

    A `StageError` means what its cause means, a group of exceptions what the worst of them means: one that is worth
    sending the event again counts most.
    """
    if isinstance(error, StageError) and isinstance(error.__cause__, Exception):
        return verdict(error.__cause__, event)
    if isinstance(error, ExceptionGroup):
        nacks = [verdict(one, event) for one in error.exceptions]
        return max(nacks, key=lambda nack: (nack.retryable, nack.status))
    if isinstance(error, Refusal):
        return Nack(status=error.status, reason=error.reason, retryable=error.retryable, retry_after=error.after)
    if isinstance(error, EventError) and error.key == event.key:
        return Nack(status=422, reason=str(error))
    if isinstance(error, TimeoutError):
        return _OUT_OF_TIME
    return _FAILED


_FAILED = Nack(status=500, reason="the handler failed", retryable=True)
_OUT_OF_TIME = Nack(status=503, reason="the handler ran out of time", retryable=True)


def name_of(event: Event) -> str:
    """Name ``event`` in a line of the log; what is too long for one is cut."""
    parts = (("id", event.id), ("source", event.source), ("type", event.type))
    return " ".join(f"{name}={text if len(text) <= _SHOWN else text[:_SHOWN] + '...'!r}" for name, text in parts)


_SHOWN = 200


def forward(sink: Sink) -> Handler:
    """Return a handler that sends each event on; whatever is not an Ack is raised, as the same refusal.

    But a 410 of the next hop, which closes that one, becomes a 422: it must not close this one, too. And what was
    stored as a dead letter is accepted: it need not come again.
    """
    check_methods("sink", sink, "a Sink", "send")

    async def forwarder(event: Event) -> Outcome:
        result = await sink.send(event)
        if getattr(result, "dead_lettered", False):
            hand_off(current_event() or event)
            return ACCEPTED
        return outcome_of(result)

    forwarder.branches = {"sink": sink}  # type: ignore[attr-defined]  # see `_lifecycle`
    return forwarder


def outcome_of(result: Result) -> Outcome:
    """Return or raise, as a handler does, what ``result`` says; the inverse of `settle`."""
    match result:
        case Ack(status=202):
            return ACCEPTED
        case Ack(reply=reply):
            return reply
        case Nack(status=410, reason=reason):
            raise Refusal(f"the next hop is gone: {reason}", 422, retryable=False)
        case Nack(reason=reason, status=status, retryable=retryable, retry_after=after):
            raise Refusal(reason, status, retryable=retryable, after=after)
        case _:
            raise Refusal("the next hop could not be reached", 502, retryable=True)


class HandlerSink:
    """A sink that hands each event to a handler in this process."""

    def __init__(self, handler: Handler | SyncHandler, *stages: Middleware) -> None:
        """Send to ``handler``, through ``stages``."""
        self._handler = wrap(as_handler(handler), *stages)
        self.branches = {"handler": self._handler}

    async def send(self, event: Event, /) -> Result:
        """Run the handler; see `settle`."""
        return await settle(self._handler, event)
