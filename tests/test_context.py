"""What is at hand below a handler: the current event and the headers of its request; and what is left afterwards."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import MutableMapping
from typing import Any

import pytest

from cloudevents_kit import (
    Event,
    Handler,
    HandlerSink,
    Outcome,
    Reject,
    Router,
    current_event,
    current_headers,
    settle,
)
from cloudevents_kit._correlation import inherit
from cloudevents_kit.asgi import AsgiReceiver, asgi_app
from tests.support.raw import Line
from tests.support.servers import KINDS, Kind, ask, batch, binary, outcome, served

EVENT = Event(type="com.example.tested", source="/tests", id="1")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def here() -> str | None:
    event = current_event()
    return event.id if event else None


def test_outside_of_handlers_there_is_nothing() -> None:
    assert current_event() is None
    assert current_headers() == {}


async def test_stages_handlers_tasks_and_threads_see_the_same_event() -> None:
    """K-E4."""
    seen: list[Any] = []

    async def stage(event: Event, call_next: Handler) -> Outcome:
        seen.append(current_event())
        try:
            return await call_next(event)
        finally:
            seen.append(current_event())

    async def deeper() -> None:
        await asyncio.to_thread(lambda: seen.append(current_event()))
        seen.append(current_event())

    async def handle(event: Event) -> None:
        await asyncio.gather(deeper(), deeper())
        raise Reject

    assert not await HandlerSink(handle, stage).send(EVENT)
    assert len(seen) == 6
    assert all(event is EVENT for event in seen)
    assert current_event() is None


async def test_the_current_event_is_the_one_received_also_if_a_stage_passes_another_one_on() -> None:
    """So that what the handler sends names a cause that its receiver can find."""

    async def change(event: Event, call_next: Handler) -> Outcome:
        return await call_next(event.evolve(id="changed"))

    async def handle(event: Event) -> None:
        assert event.id == "changed"
        assert current_event() is EVENT

    assert await HandlerSink(handle, change).send(EVENT)


async def test_a_task_that_outlives_its_handler_keeps_its_event() -> None:
    tasks: list[asyncio.Task[str | None]] = []
    leave = asyncio.Event()

    async def later() -> str | None:
        await leave.wait()
        return here()

    async def handle(event: Event) -> None:
        tasks.append(asyncio.ensure_future(later()))

    sink = HandlerSink(handle)
    for number in range(3):
        assert await sink.send(EVENT.evolve(id=str(number)))
    leave.set()
    assert await asyncio.gather(*tasks) == ["0", "1", "2"]


async def test_a_cancelled_dispatch_gives_the_outer_event_back() -> None:
    """K-E4."""

    async def endless(event: Event) -> None:
        await asyncio.Event().wait()

    async def handle(event: Event) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await HandlerSink(endless).send(EVENT.evolve(id="inner"))
        assert current_event() is event

    assert await HandlerSink(handle).send(EVENT)


async def test_a_dispatch_from_a_thread_has_a_context_of_its_own() -> None:
    """K-E4: a plain handler that runs a loop in its thread."""
    seen: list[str | None] = []

    async def inner(event: Event) -> None:
        seen.append(here())

    def handle(event: Event) -> None:
        assert asyncio.run(settle(inner, EVENT.evolve(id="inner")))
        seen.append(here())

    assert await HandlerSink(handle).send(EVENT)
    assert [*seen, here()] == ["inner", "1", None]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_events_of_a_batch_are_current_one_after_the_other(kind: Kind) -> None:
    seen: list[tuple[str, str | None, str]] = []

    async def handle(event: Event) -> None:
        seen.append((event.id, here(), current_headers()["content-type"]))
        if event.id == "1":
            raise LookupError

    assert (await outcome(kind, handle, batch({}, {}, {}))).status == 500
    assert seen == [(str(number), str(number), "application/cloudevents-batch+json") for number in range(3)]


@pytest.mark.parametrize("kind", KINDS)
async def test_requests_at_the_same_time_do_not_see_one_another(kind: Kind) -> None:
    """In the loop and in threads."""
    together, barrier = asyncio.Barrier(4), threading.Barrier(4, timeout=5)
    router = Router()

    @router.on("com.example.tested", subject="loop")
    async def in_loop(event: Event) -> None:
        await together.wait()
        assert (here(), current_headers()["x-number"]) == (event.id, event.id)

    @router.on("com.example.tested", subject="thread")
    def in_thread(event: Event) -> None:
        barrier.wait()
        assert (here(), current_headers()["x-number"]) == (event.id, event.id)

    async with served(kind, router) as port:
        for subject in ("loop", "thread"):
            requests = [
                binary(f"X-Number: {number}", f"ce-subject: {subject}").replace(b"ce-id: 1", b"ce-id: %d" % number)
                for number in range(4)
            ]
            answers = await asyncio.gather(*[ask(port, data) for data in requests])
            assert [answer.status for answer in answers] == [204] * 4


@pytest.mark.parametrize("kind", KINDS)
async def test_headers_have_lower_case_names_and_repeated_ones_are_joined(kind: Kind) -> None:
    """In the order in which they came; the event's own headers are there too."""
    seen: list[dict[str, str]] = []

    async def handle(event: Event) -> None:
        headers = current_headers()
        seen.append(dict(headers))
        with pytest.raises(TypeError):
            headers["x-new"] = "1"  # type: ignore[index]

    lines: tuple[Line, ...] = ("X-TENANT: blue", "Via: 1.1 a", "via: 1.1 b", "X-Empty:", b"X-Text: Zo\xc3\xab")
    assert (await outcome(kind, handle, binary(*lines))).status == 204
    (headers,) = seen
    wanted = {"x-tenant": "blue", "via": "1.1 a, 1.1 b", "x-empty": "", "x-text": "Zoë", "ce-id": "1"}
    assert headers.items() >= wanted.items()


async def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    seen: list[str] = []

    async def handle(event: Event) -> None:
        seen.append(current_headers()["x-raw"])

    assert (await outcome("aiohttp", handle, binary(b"X-Raw: a\xffb"))).status == 204
    assert seen == ["a\ufffdb"]


async def call(app: AsgiReceiver, *headers: tuple[bytes, bytes]) -> int:
    """Call an ASGI application in this task, as clients for tests do."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    event = [(f"ce-{name}".encode(), str(value).encode()) for name, value in EVENT.attributes.items()]
    await app({"type": "http", "method": "POST", "path": "/", "headers": [*event, *headers]}, receive, send)
    status: int = sent[0]["status"]
    return status


@pytest.mark.parametrize("fails", [False, True])
async def test_a_nested_request_in_the_same_task_gives_the_outer_headers_back(fails: bool) -> None:
    """K-E4."""
    seen: list[str | None] = []

    async def inner(event: Event) -> None:
        seen.append(current_headers().get("x-from"))
        if fails:
            raise LookupError

    async def outer(event: Event) -> None:
        assert bool(await HandlerSink(inner).send(EVENT.evolve(id="local"))) is not fails  # no request of its own
        assert await call(asgi_app(inner), (b"x-from", b"inner")) == (500 if fails else 204)
        seen.append(current_headers().get("x-from"))
        seen.append(here())

    assert await call(asgi_app(outer), (b"x-from", b"outer")) == 204
    assert seen == ["outer", "inner", "outer", "1"]
    assert current_headers() == {}


async def test_a_trace_is_inherited_with_or_without_its_state() -> None:
    """K-E4."""
    sent: list[Event] = []

    async def handle(event: Event) -> None:
        sent.append(inherit(Event(type="t", source="/shop")))

    assert await settle(handle, EVENT.evolve(traceparent=TRACE))
    assert await settle(handle, EVENT.evolve(traceparent=TRACE, tracestate="a=b"))
    assert [event.get("tracestate") for event in sent] == [None, "a=b"]
    for event in sent:
        assert event["traceparent"][:36] == TRACE[:36]  # type: ignore[index]
        assert event["traceparent"] != TRACE
