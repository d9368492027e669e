"""What type checkers see: read by mypy in strict mode, never run. A line that must be an error says which one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import assert_never, assert_type

from cloudevents.core.base import BaseCloudEvent

from cloudevents_kit import (
    ACCEPTED,
    Ack,
    Clock,
    Event,
    Handler,
    HandlerSink,
    Middleware,
    Nack,
    Outcome,
    Receiver,
    Result,
    RetryPolicy,
    Router,
    Sender,
    Sink,
    SystemClock,
    Undelivered,
    blocking,
    current_event,
    forward,
    from_http,
    from_json,
    on,
    settle,
    to_http,
    wrap,
)
from cloudevents_kit.asgi import asgi_app
from cloudevents_kit.request_reply import Requests


@dataclass
class Order:
    id: int


# Results.


def every_outcome(result: Result) -> str:
    match result:
        case Ack(status=status, reply=reply):
            assert_type(status, int)
            assert_type(reply, Event | None)
            return "ack"
        case Nack(reason=reason, retry_after=seconds):
            assert_type(reason, str)
            assert_type(seconds, float | None)
            return "nack"
        case Undelivered(possibly_delivered=maybe):
            assert_type(maybe, bool)
            return "undelivered"
        case _:
            assert_never(result)


def an_outcome_is_missing(result: Result) -> None:
    match result:
        case Ack() | Nack():
            pass
        case _:
            assert_never(result)  # type: ignore[arg-type]


def told_apart_by_class(result: Result) -> Event | None:
    assert_type(result.raise_for_outcome(), Ack)
    return result.reply if isinstance(result, Ack) else None


def a_nack_has_no_reply(result: Nack) -> None:
    assert result.reply  # type: ignore[attr-defined]
    result.status = 1  # type: ignore[misc]


# Sinks.


async def a_sender(event: Event, sdk: BaseCloudEvent) -> None:
    async with Sender("http://x/", retry=RetryPolicy(attempts=2), headers={"a": "b"}, clock=SystemClock()) as sender:
        assert_type(sender, Sender)
        assert_type(await sender.send(event), Ack | Nack | Undelivered)
        assert_type(await sender.request(sdk, strict=True), Ack | Nack | Undelivered)
        assert_type(await sender.send_batch([event, sdk]), list[Ack | Nack | Undelivered])
        async for sent, result in sender.send_all(source(), concurrency=3):
            assert_type(sent, Event)
            assert_type(result, Ack | Nack | Undelivered)
        await sender.send("event")  # type: ignore[arg-type]
        await sender.send(event, mode="batch")  # type: ignore[arg-type]
    Sender("http://x/", tries=3)  # type: ignore[call-arg]


async def fresh_headers() -> Mapping[str, str]:
    return {}


async def source() -> AsyncIterator[Event]:
    yield Event(type="t", source="/s")


def a_blocking_sender(event: Event, sdk: BaseCloudEvent) -> None:
    with blocking.Sender("http://x/", headers=fresh_headers) as sender:
        assert_type(sender, blocking.Sender)
        assert_type(sender.send(event), Ack | Nack | Undelivered)
        assert_type(sender.send_batch([event, sdk]), list[Ack | Nack | Undelivered])
        assert_type(sender.send_all([event]), Iterator[tuple[Event, Ack | Nack | Undelivered]])
        forward(sender)  # type: ignore[arg-type]


class Store:
    async def send(self, event: Event, /) -> Result:
        return Ack() if event.has_data else Nack(status=422)


class Forgetful:
    async def send(self, event: Event, /) -> None: ...


def sinks() -> list[Sink]:
    wrong: Sink = Forgetful()  # type: ignore[assignment]
    return [Sender("http://x/"), HandlerSink(handle), HandlerSink(plain), Store(), wrong]


# Handlers and stages.


async def handle(event: Event) -> Event | None:
    assert_type(event.id, str)
    assert_type(event.get_int("sequence"), int)
    assert_type(event.as_type(Order), Order)
    return event.reply(type="t", source="/s")


async def store(event: Event) -> Outcome:
    return ACCEPTED


def plain(event: Event) -> None:
    assert_type(current_event(), Event | None)


async def stage(event: Event, call_next: Handler) -> Outcome:
    return await call_next(event)


class Requesting:
    async def __call__(self, event: Event, call_next: Handler) -> Event | None:
        return None


async def wrong_handler(event: Event) -> bool:
    return True


async def handlers(event: Event) -> tuple[list[Handler], list[Middleware]]:
    assert_type(await settle(handle, event), Ack | Nack | Undelivered)
    wrong: Handler = wrong_handler  # type: ignore[assignment]
    also_wrong: Middleware = handle  # type: ignore[assignment]
    return (
        [handle, store, Router(), forward(Store()), wrap(handle, stage, Requesting()), wrong],
        [stage, Requesting(), Requests(Store()), also_wrong],
    )


async def receivers() -> None:
    async with Receiver(Router(), stage, Requesting(), port=0) as receiver:
        assert_type(receiver, Receiver)
        assert_type(receiver.url, str)
        assert_type(receiver.port, int)
    Receiver(plain)
    Receiver(wrong_handler)  # type: ignore[arg-type]
    asgi_app(handle, stage)


router = Router()


@router.on("com.example.order.created")
async def created(event: Event, order: Order) -> Event | None:
    return None


@router.on("com.example.order.*", source="/orders")
def in_a_thread(event: Event) -> None: ...


class Orders:
    @on("com.example.order.cancelled")
    async def cancelled(self, event: Event, order: Order) -> None: ...


async def a_decorated_handler_is_what_it_was(event: Event) -> None:
    assert_type(await created(event, Order(1)), Event | None)
    await Orders().cancelled(event, Order(1))
    router.include(Orders())


# Events on and off the wire.


def events(headers: Mapping[str, str], body: bytes) -> None:
    event = Event(type="t", source="/s", data={"id": 1}, partitionkey="k", sampledrate=3)
    Event("t", "/s")  # type: ignore[call-arg]
    Event(type="t")  # type: ignore[call-arg]
    event.type = "u"  # type: ignore[misc]
    assert_type(event.evolve(type="u"), Event)
    assert_type(event.key, tuple[str, str])
    assert_type(from_json(body), Event)
    assert_type(Event.of(event), Event)
    message = to_http(event, "structured")
    assert_type(message.body, bytes)
    from_http(headers, body)


clock: Clock = SystemClock()
