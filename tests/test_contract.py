"""The two arrows and the wrapper: every law of the contract, without any transport."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import pickle
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import FrozenInstanceError, replace
from functools import partial
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cloudevents_kit import (
    ACCEPTED,
    Ack,
    Attempt,
    DeliveryError,
    Event,
    Handler,
    HandlerSink,
    Middleware,
    Nack,
    Outcome,
    Reject,
    Result,
    Retry,
    Undelivered,
    current_event,
    forward,
    from_http,
    settle,
    to_http,
    wrap,
)
from cloudevents_kit._contract import as_handler
from tests.support.events import new
from tests.support.outcomes import ScriptedSink, acks, nacks, undelivereds
from tests.support.servers import raising, returning
from tests.support.strategies import events, extensions

EVENT = Event(type="com.example.tested", source="/tests", id="1", time=None)
REPLY = Event(type="com.example.answered", source="/answerer", id="2", time=None)

# -------------------------------------------------------------------------------------------------------- stages


def noting(name: str, diary: list[str]) -> Middleware:
    """A stage that notes when it is entered and left."""

    async def stage(event: Event, call_next: Handler) -> Outcome:
        diary.append(f"{name} in")
        try:
            return await call_next(event)
        finally:
            diary.append(f"{name} out")

    return stage


def handling(diary: list[str], end: Outcome = None) -> Handler:
    async def handler(event: Event) -> Outcome:
        diary.append(f"handler {event.subject or ''}".strip())
        return end

    return handler


async def test_the_first_stage_is_outermost() -> None:
    """K-S9: A in, B in, handler, B out, A out."""
    diary: list[str] = []
    chain = wrap(handling(diary), noting("A", diary), noting("B", diary))
    assert await settle(chain, EVENT) == Ack(status=204)
    assert diary == ["A in", "B in", "handler", "B out", "A out"]


def test_without_stages_wrap_is_the_handler_itself() -> None:
    handler = handling([])
    assert wrap(handler) is handler


def stage_of(kind: str, name: str, diary: list[str]) -> Middleware:
    async def stage(event: Event, call_next: Handler) -> Outcome:
        diary.append(f"{name} {kind} {event.subject}")
        match kind:
            case "end":
                return None
            case "reply":
                return REPLY
            case "reject":
                raise Reject(name)
            case "change":
                return await call_next(event.evolve(subject=name))
            case "swallow":
                await call_next(event)
                return None
            case "twice":
                await call_next(event)
        return await call_next(event)

    return stage


KINDS = st.sampled_from(["pass", "pass", "change", "twice", "swallow", "end", "reply", "reject"])


@given(st.lists(KINDS, max_size=5), st.data())
def test_stages_may_be_wrapped_at_once_or_one_by_one(kinds: list[str], data: st.DataObject) -> None:
    """wrap(h, a, b) behaves as wrap(wrap(h, b), a), wherever the stages are parted."""
    cut = data.draw(st.integers(0, len(kinds)))

    def run(build: Callable[[Handler, list[Middleware]], Handler]) -> tuple[Result, list[str]]:
        diary: list[str] = []
        stages = [stage_of(kind, str(number), diary) for number, kind in enumerate(kinds)]
        chain = build(handling(diary, ACCEPTED), stages)
        return asyncio.run(settle(chain, EVENT)), diary

    whole = run(lambda handler, stages: wrap(handler, *stages))
    assert whole == run(lambda handler, stages: wrap(wrap(handler, *stages[cut:]), *stages[:cut]))


async def test_a_stage_that_neither_calls_nor_raises_has_handled_the_event() -> None:
    """K-S9: the handler is not called."""
    diary: list[str] = []

    async def enough(event: Event, call_next: Handler) -> Outcome:
        return None

    assert await settle(wrap(handling(diary), noting("A", diary), enough), EVENT) == Ack(status=204)
    assert diary == ["A in", "A out"]


async def test_a_plain_function_is_a_stage_too() -> None:
    """K-S9: it may end the chain, or hand on what the next one returns."""
    diary: list[str] = []

    def known(event: Event, call_next: Handler) -> Any:
        if event.subject == "unknown":
            return None
        if event.subject == "bad":
            raise Reject("bad")
        return call_next(event)

    chain = wrap(handling(diary, REPLY), known)
    assert await settle(chain, EVENT) == Ack(status=200, reply=REPLY)
    assert await settle(chain, EVENT.evolve(subject="unknown")) == Ack(status=204)
    assert await settle(chain, EVENT.evolve(subject="bad")) == Nack(status=422, reason="bad")
    assert diary == ["handler"]


async def test_an_object_and_a_partial_are_stages_too() -> None:
    class Prefix:
        async def __call__(self, event: Event, call_next: Handler) -> Outcome:
            return await call_next(event.evolve(subject=f"p-{event.subject}"))

    async def suffix(text: str, event: Event, call_next: Handler) -> Outcome:
        return await call_next(event.evolve(subject=f"{event.subject}-{text}"))

    diary: list[str] = []
    assert await settle(wrap(handling(diary), Prefix(), partial(suffix, "s")), EVENT.evolve(subject="x"))
    assert diary == ["handler p-x-s"]


@pytest.mark.parametrize("what", [None, "stage", 3])
def test_what_cannot_be_called_is_no_stage(what: Any) -> None:
    with pytest.raises(TypeError, match=f"stage: must be callable, not {type(what).__name__}"):
        wrap(handling([]), what)
    with pytest.raises(TypeError, match="stage: must be callable"):
        HandlerSink(handling([]), what)


async def test_a_chain_stays_as_it_was_composed() -> None:
    diary: list[str] = []
    stages = [noting("A", diary)]
    chain, sink = wrap(handling(diary), *stages), HandlerSink(handling(diary), *stages)
    stages.clear()
    stages.append(noting("B", diary))
    assert await settle(chain, EVENT)
    assert await sink.send(EVENT)
    assert diary == ["A in", "handler", "A out"] * 2


async def test_a_changed_event_goes_on_and_is_no_reply() -> None:
    """What a stage passes on and what a handler replies with are different things."""
    diary: list[str] = []
    change = stage_of("change", "changed", diary)
    assert await settle(wrap(handling(diary), change), EVENT) == Ack(status=204)
    assert await settle(wrap(handling(diary, REPLY), change), EVENT) == Ack(status=200, reply=REPLY)
    assert diary == ["changed change None", "handler changed"] * 2


async def test_a_stage_that_returns_the_event_it_was_given_is_a_failure() -> None:
    """A broker would take it for a reply, and deliver it again for ever; so it would the enriched event."""

    async def mistaken(event: Event, call_next: Handler) -> Outcome:
        return event.evolve(subject="enriched")

    assert await settle(wrap(handling([]), mistaken), EVENT) == Nack(
        status=500, reason="the handler failed", retryable=True
    )


async def test_a_stage_sees_the_handlers_exception_and_may_answer_it() -> None:
    async def forgiving(event: Event, call_next: Handler) -> Outcome:
        try:
            return await call_next(event)
        except LookupError:
            raise Retry(after=2) from None

    assert await settle(wrap(raising(KeyError("k")), forgiving), EVENT) == Nack(
        status=503, reason="try again later", retryable=True, retry_after=2
    )


# --------------------------------------------------------------------------------------------- settle and forward

ENDS: list[tuple[Handler, Result]] = [
    (returning(None), Ack(status=204)),
    (returning(REPLY), Ack(status=200, reply=REPLY)),
    (returning(ACCEPTED), Ack(status=202)),
    (raising(Reject("no")), Nack(status=422, reason="no")),
    (raising(Reject("closed", 403)), Nack(status=403, reason="closed")),
    (raising(Retry()), Nack(status=503, reason="try again later", retryable=True)),
    (raising(Retry(1.5, "busy", 429)), Nack(status=429, reason="busy", retryable=True, retry_after=1.5)),
    (raising(TimeoutError()), Nack(status=503, reason="the handler ran out of time", retryable=True)),
    (raising(KeyError("k")), Nack(status=500, reason="the handler failed", retryable=True)),
]


@pytest.mark.parametrize(("handler", "result"), ENDS, ids=lambda one: repr(one)[:60] if not callable(one) else "")
async def test_a_hop_repeats_the_end_of_the_handler_behind_it(handler: Handler, result: Result) -> None:
    """settle and forward are inverse: one hop or three, the answer is the same."""
    assert await settle(handler, EVENT) == result
    sink = HandlerSink(handler)
    for _ in range(3):
        sink = HandlerSink(forward(sink))
        assert await sink.send(EVENT) == result


def through_a_hop(result: Result) -> Result:
    """What is left of a result behind one hop: its meaning, without attempts, times and spelling of the success."""
    match result:
        case Ack(status=202):
            return Ack(status=202)
        case Ack(reply=None):
            return Ack(status=204)
        case Ack(reply=reply):
            return Ack(status=200, reply=reply)
        case Nack(status=410):
            return Nack(status=422, reason=f"the next hop is gone: {result.reason}")
        case Nack():
            return replace(result, attempts=(), elapsed=0.0)
        case Undelivered():
            return Nack(status=502, reason="the next hop could not be reached", retryable=True)


@given(st.one_of(acks(), nacks(), undelivereds()))
def test_a_sink_of_a_forwarded_sink_gives_what_the_sink_gives(result: Result) -> None:
    assume(not isinstance(result, Ack) or result.reply is None or result.reply.key != EVENT.key)
    inner = ScriptedSink(result)
    once = HandlerSink(forward(inner))
    assert asyncio.run(once.send(EVENT)) == through_a_hop(result)
    assert asyncio.run(HandlerSink(forward(once)).send(EVENT)) == through_a_hop(result)
    assert inner.sent == [EVENT, EVENT]
    assert all(sent is EVENT for sent in inner.sent)  # passed on as it came


async def test_a_next_hop_that_is_gone_does_not_close_this_one() -> None:
    """Our own sender would give this receiver up for good, and whatever else it does."""

    async def gone(event: Event) -> None:
        raise Reject("no such shop", 410)

    middle = HandlerSink(forward(HandlerSink(gone)))
    ends = [Nack(status=422, reason="the next hop is gone: no such shop")] * 2
    assert [await middle.send(EVENT), await HandlerSink(forward(middle)).send(EVENT)] == ends


@pytest.mark.parametrize("result", [Nack(status=422, dead_lettered=True), Undelivered(dead_lettered=True)])
async def test_what_was_stored_as_a_dead_letter_is_accepted(result: Result) -> None:
    """An Ack means handled, or stored: who sent it here need not send it again."""
    hop = HandlerSink(forward(ScriptedSink(result)))
    assert await hop.send(EVENT) == await HandlerSink(forward(hop)).send(EVENT) == Ack(status=202)


async def test_in_this_process_a_result_tells_what_was_raised() -> None:
    """To those who keep it; it is no part of what the result is, and goes nowhere."""
    error = KeyError("secret")
    error.args = (lambda: None,)  # which cannot be pickled
    result = await settle(raising(error), EVENT)
    assert isinstance(result, Nack)
    assert result.cause is error
    assert result == Nack(status=500, reason="the handler failed", retryable=True)
    assert "cause" not in repr(result)
    assert pickle.loads(pickle.dumps(result)) == result
    assert pickle.loads(pickle.dumps(result)).cause is None
    with pytest.raises(DeliveryError) as caught:
        result.raise_for_outcome()
    assert caught.value.__cause__ is error


async def test_a_result_keeps_no_cycle_alive(caplog: pytest.LogCaptureFixture) -> None:
    """What was raised has frames, and one of these made the result."""
    caplog.set_level(logging.CRITICAL, "cloudevents_kit")  # a record would keep it

    class Failure(Exception):
        pass

    async def handler(event: Event) -> None:
        raise Failure

    gc.collect()
    gc.disable()
    try:
        result = await HandlerSink(handler).send(EVENT)
        assert isinstance(result, Nack)
        assert result.cause is not None
        left = weakref.ref(result.cause)
        del result
        assert left() is None
    finally:
        gc.enable()


async def test_a_sink_that_gives_no_result_is_no_ack() -> None:
    """An Ack means handled, or stored; nothing else may produce one."""
    for nothing in (None, True, "ok", 204):
        assert await HandlerSink(forward(ScriptedSink(nothing))).send(EVENT) == through_a_hop(Undelivered())


async def test_a_sink_that_raises_is_a_failed_handler() -> None:
    class Broken:
        async def send(self, event: Event, /) -> Result:
            raise OSError

    assert await HandlerSink(forward(Broken())).send(EVENT) == Nack(
        status=500, reason="the handler failed", retryable=True
    )


async def test_a_sink_for_events_may_be_a_plain_function() -> None:
    seen: list[Event] = []
    assert await HandlerSink(seen.append).send(EVENT) == Ack(status=204)
    assert seen == [EVENT]


def test_a_sink_that_is_given_as_a_handler_is_told_how_to_become_one() -> None:
    sink: Any = ScriptedSink(Ack())
    message = r"^handler: must be callable, not ScriptedSink \(forward\(sink\) makes a handler of a sink\)$"
    for use in (lambda: wrap(sink, passing), lambda: as_handler(sink), lambda: HandlerSink(sink)):
        with pytest.raises(TypeError, match=message):
            use()


@pytest.mark.parametrize("what", [None, "sink", object()])
def test_what_cannot_send_is_no_sink(what: Any) -> None:
    with pytest.raises(TypeError, match="sink: must be a Sink"):
        forward(what)


# ------------------------------------------------------------------------------------------------- cancellation


async def passing(event: Event, call_next: Handler) -> Outcome:
    return await call_next(event)


@pytest.mark.parametrize(
    "call",
    [
        lambda handler: wrap(handler, passing, passing)(EVENT),
        lambda handler: settle(handler, EVENT),
        lambda handler: settle(wrap(handler, passing), EVENT),
        lambda handler: forward(HandlerSink(handler))(EVENT),
        lambda handler: HandlerSink(handler, passing).send(EVENT),
        lambda handler: HandlerSink(forward(HandlerSink(handler))).send(EVENT),
    ],
    ids=["wrap", "settle", "settle a chain", "forward", "sink", "sink of a forwarded sink"],
)
async def test_a_cancellation_passes_through_and_is_no_failure(
    call: Callable[[Handler], Awaitable[object]], caplog: pytest.LogCaptureFixture
) -> None:
    entered = asyncio.Event()

    async def endless(event: Event) -> None:
        entered.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(call(endless))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(asyncio.CancelledError):
        await call(raising(asyncio.CancelledError()))
    assert current_event() is None
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_group_that_holds_a_cancellation_passes_through_too() -> None:
    with pytest.raises(BaseExceptionGroup):
        await settle(raising(BaseExceptionGroup("g", [asyncio.CancelledError(), OSError()])), EVENT)


# ---------------------------------------------------------------------------------------------- plain functions


@pytest.mark.parametrize("error", [StopIteration, concurrent.futures.CancelledError])
async def test_a_plain_function_may_raise_what_asyncio_has_a_meaning_for(error: type[Exception]) -> None:
    """In the future of a thread the first would never arrive, and the second would look like a cancellation."""

    def handler(event: Event) -> None:
        raise error

    async with asyncio.timeout(5):
        assert await HandlerSink(handler).send(EVENT) == Nack(status=500, reason="the handler failed", retryable=True)


async def test_an_async_partial_needs_no_thread() -> None:
    async def handler(prefix: str, event: Event) -> Event:
        return event.reply(type=prefix + event.type, source="/answerer")

    bound = partial(handler, "x-")
    assert as_handler(bound) is bound
    result = await HandlerSink(bound).send(EVENT)
    assert isinstance(result, Ack)
    assert result.reply is not None
    assert result.reply.type == "x-com.example.tested"


def test_accepted_says_its_name() -> None:
    assert repr(ACCEPTED) == "ACCEPTED"


# ------------------------------------------------------------------------------------------------------- events


async def test_an_event_is_identified_by_source_and_id_together() -> None:
    """So an event with the id of the one that is handled, but of another source, is a reply."""
    twin = EVENT.evolve(source="/elsewhere")
    assert EVENT.key == ("/tests", "1") != twin.key
    assert await settle(returning(twin), EVENT) == Ack(status=200, reply=twin)
    same = Event(type="com.example.other", source="/tests", id="1")
    assert (await settle(returning(same), EVENT)).is_nack


def test_a_result_cannot_be_changed() -> None:
    for result in (Ack(), Nack(), Undelivered(), Attempt()):
        with pytest.raises(FrozenInstanceError):
            result.elapsed = 1.0  # type: ignore[misc]
        assert not hasattr(result, "__dict__")


@pytest.mark.parametrize("name", ["id", "type", "source", "data", "raw", "time", "attributes", "myext", "new"])
def test_an_event_cannot_be_changed(name: str) -> None:
    event = Event(type="t", source="/s", data={"a": 1}, myext="x")
    with pytest.raises(AttributeError):
        setattr(event, name, "changed")
    for view in (event, event.attributes, event.extensions):
        with pytest.raises(TypeError):
            view[name] = "changed"  # type: ignore[index]


@given(events(), extensions())
def test_a_change_makes_a_new_event(event: Event, more: dict[str, str | int | bool]) -> None:
    before, raw = dict(event.attributes), event.raw
    changed = event.evolve(subject="other", **more)
    assert changed is not event
    assert changed.subject == "other"
    assert (dict(event.attributes), event.raw) == (before, raw)
    assert changed.raw == raw
    reply = event.reply(type="r", source="/r")
    assert reply.key != event.key
    assert (dict(event.attributes), event.raw) == (before, raw)


def test_what_the_caller_gives_is_copied_and_what_he_gets_is_his() -> None:
    """K-E1: two branches that change their copy do not see each other, nested levels included."""
    data: dict[str, Any] = {"items": [{"sku": "a"}]}
    attributes = {"type": "t", "source": "/s", "myext": "x"}
    event = Event(**attributes, data=data)
    changed = event.evolve(data=data)
    data["items"][0]["sku"] = "changed"
    attributes["myext"] = "changed"
    branch = event.data
    branch["items"].append("more")
    payload = bytearray(b"abc")
    binary = Event(type="t", source="/s", data=payload)
    payload[0] = 0
    assert event.data == changed.data == {"items": [{"sku": "a"}]}
    assert (event["myext"], binary.raw) == ("x", b"abc")


@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_an_event_that_is_passed_on_is_not_completed(mode: Any) -> None:
    bare = EVENT.evolve(data=None, datacontenttype=None)
    [received] = from_http(*to_http(bare, mode))
    inner = ScriptedSink(Ack())
    assert await HandlerSink(forward(inner), passing).send(received)
    assert inner.sent[0].attributes.keys() <= {"specversion", "id", "source", "type", "datacontenttype"}
    assert inner.sent[0].time is None


async def test_a_middleware_may_have_a_method_of_any_name() -> None:
    class Template:
        is_async_handler = True

        def compose(self, text: str) -> str:
            raise AssertionError("not what wrap looks for")

        async def __call__(self, event: Event, call_next: Handler) -> Outcome:
            return await call_next(event)

    async def end(event: Event) -> None: ...

    assert await settle(wrap(end, Template()), new())
