"""What may be sent: events of the kit and of the official SDK; what they inherit inside a handler."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from cloudevents.core.v1.event import CloudEvent as OfficialEvent
from cloudevents.v1.http import CloudEvent as OlderOfficialEvent

from cloudevents_kit import (
    Ack,
    Event,
    EventError,
    HandlerSink,
    Receiver,
    RetryPolicy,
    Sender,
    Undelivered,
    current_event,
)
from tests.support.clock import ManualClock
from tests.support.peer import Peer, Request, Step, answer

STEADY = RetryPolicy(attempts=3, initial=0.2, jitter=False)
NEW = {"id": "o-1", "source": "/orders", "type": "com.example.order.created"}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def official(**attributes: Any) -> OfficialEvent:
    return OfficialEvent({**NEW, **attributes}, data={"id": 1})


def older(**attributes: Any) -> OlderOfficialEvent:
    return OlderOfficialEvent({**NEW, **attributes}, {"id": 1})


def attributes_of(request: Request) -> dict[str, str]:
    return {name[3:]: value for name, value in request.headers if name.startswith("ce-")}


# Events of the official SDK.


@pytest.mark.parametrize("build", [official, older])
async def test_an_event_of_the_official_sdk_is_sent_as_it_is(build: Callable[..., Any]) -> None:
    event = build(partitionkey="k", subject="s")
    async with Peer(answer(204)) as peer, Sender(peer.url, max_batch=10) as sender:
        assert await sender.send(event)
        assert await sender.send(event, mode="structured")
        assert await sender.request(event)
        assert all(await sender.send_batch([event]))
        assert [(sent is event, bool(result)) async for sent, result in sender.send_all([event])] == [(True, True)]
    binary, structured, _, batch, _ = peer.requests
    assert attributes_of(binary).items() >= {**NEW, "specversion": "1.0", "partitionkey": "k", "subject": "s"}.items()
    assert (binary["Content-Type"], json.loads(binary.body)) == ("application/json", {"id": 1})
    assert json.loads(structured.body)["data"] == json.loads(batch.body)[0]["data"] == {"id": 1}
    assert json.loads(structured.body).items() >= {**NEW, "partitionkey": "k"}.items()


@pytest.mark.parametrize("build", [official, older])
async def test_an_event_of_the_official_sdk_that_is_broken_makes_no_request(
    build: Callable[..., Any], clock: ManualClock
) -> None:
    """K-E1, K-C1: neither the sender nor the peer invents anything."""
    event = build()
    event._attributes["source"] = ""
    async with Peer(answer(204)) as peer, Sender(peer.url, clock=clock, max_batch=10) as sender:
        results = [
            await sender.send(event),
            await sender.request(event, strict=True),
            *await sender.send_batch([event]),
        ]
    assert results == [Undelivered(reason="invalid-event", error="source: must not be empty (for example /orders)")] * 3
    assert (peer.connections, clock.waits) == (0, [])


@pytest.mark.parametrize("build", [official, older])
async def test_an_event_changed_while_it_is_retried_goes_out_as_it_was(
    build: Callable[..., Any], clock: ManualClock
) -> None:
    """RT-06: every attempt is the same event."""
    event = build()

    def spoil(_: Request) -> Step:
        event._attributes["id"] = "other"
        return answer(503)

    async with Peer(spoil, answer(204)) as peer, Sender(peer.url, retry=STEADY, clock=clock) as sender:
        assert await sender.send(event)
    assert [request["ce-id"] for request in peer.requests] == ["o-1", "o-1"]
    assert peer.requests[0].body == peer.requests[1].body


async def test_a_strict_request_compares_with_the_event_as_it_was_sent() -> None:
    event = official()

    def reply(request: Request) -> Step:
        event._attributes["id"] = "other"
        headers = [("Content-Type", "application/cloudevents+json")]
        return answer(
            200, headers, json.dumps({**NEW, "id": "r", "specversion": "1.0", "correlationid": "o-1"}).encode()
        )

    async with Peer(reply) as peer, Sender(peer.url) as sender:
        result = await sender.request(event, strict=True)
    assert isinstance(result, Ack)
    assert result.reply is not None


@pytest.mark.parametrize("thing", [None, 3, b"", {"id": "1", "source": "/x", "type": "t"}])
async def test_what_is_no_event_at_all_raises_at_once(thing: Any) -> None:
    async with Peer(answer(204)) as peer, Sender(peer.url, max_batch=10) as sender:
        with pytest.raises(TypeError, match="an Event"):
            await sender.send(thing)
        with pytest.raises(TypeError, match="an Event"):
            await sender.request(thing, strict=True)
        with pytest.raises(TypeError, match="an Event"):
            await sender.send_batch([Event(type="t", source="/s"), thing])
        with pytest.raises(TypeError, match="an Event"):
            await anext(sender.send_all([thing]))
    assert peer.connections == 0


async def test_an_event_that_the_mode_cannot_carry_makes_no_request() -> None:
    nested = Event(type="t", source="/s", datacontenttype="application/cloudevents+json", data={})
    async with Peer(answer(204)) as peer, Sender(peer.url) as sender:
        result = await sender.send(nested)
        assert isinstance(result, Undelivered)
        assert (result.reason, result.attempts, peer.connections) == ("invalid-event", (), 0)
        assert "datacontenttype" in result.error
        assert await sender.send(nested, mode="structured")


def test_an_invalid_event_of_the_kit_cannot_even_be_built() -> None:
    """K-E1."""
    with pytest.raises(EventError, match=r"^type: "):
        Event(type="", source="/s")


# Correlation, causation and trace.


async def test_what_a_handler_sends_names_its_cause() -> None:
    """K-E4: two events from one handler: the same correlation, the incoming event as cause, each its own span."""
    async with Peer(answer(204)) as peer, Sender(peer.url) as sender:

        async def handle(event: Event) -> None:
            await sender.send(Event(type="com.example.first", source="/shop"))
            await sender.send(Event(type="com.example.second", source="/shop"))

        incoming = Event(**NEW, correlationid="c-1", traceparent=TRACE, tracestate="a=b")
        async with Receiver(handle, port=0) as receiver, Sender(receiver.url) as outside:
            assert await outside.send(incoming)
    first, second = map(attributes_of, peer.requests)
    assert (first["correlationid"], first["causationid"], first["tracestate"]) == ("c-1", "o-1", "a=b")
    assert (second["correlationid"], second["causationid"]) == ("c-1", "o-1")
    spans = {TRACE.split("-")[2], first["traceparent"].split("-")[2], second["traceparent"].split("-")[2]}
    assert len(spans) == 3
    for trace in (first["traceparent"], second["traceparent"]):
        assert (trace[:36], trace[-3:], len(trace)) == (TRACE[:36], TRACE[-3:], len(TRACE))


async def inherited(incoming: dict[str, Any], outgoing: dict[str, Any], *, inherit: bool = True) -> dict[str, str]:
    """Return what an event sent by the handler of `incoming` carries beyond what it must."""
    async with Peer(answer(204)) as peer, Sender(peer.url, inherit=inherit) as sender:

        async def handle(event: Event) -> None:
            assert await sender.send(Event(**{"type": "t", "source": "/shop", "time": None, **outgoing}))

        assert await HandlerSink(handle).send(Event(**{**NEW, **incoming}))
    sent = attributes_of(peer.requests[0])
    return {name: sent[name] for name in sent.keys() - {"id", "source", "type", "specversion"}}


async def test_the_first_event_of_a_chain_is_its_correlation() -> None:
    """K-E4."""
    assert await inherited({}, {}) == {"correlationid": "o-1", "causationid": "o-1"}


async def test_what_the_event_says_itself_is_not_touched() -> None:
    """K-E4."""
    own = {"correlationid": "mine", "causationid": "me", "traceparent": TRACE.replace("4bf9", "ffff")}
    assert await inherited({"correlationid": "c-1", "traceparent": TRACE, "tracestate": "a=b"}, own) == own


async def test_a_sender_may_be_told_not_to_inherit() -> None:
    assert await inherited({"correlationid": "c-1", "traceparent": TRACE}, {}, inherit=False) == {}


async def test_the_handled_event_sent_on_is_not_its_own_cause() -> None:
    assert await inherited({}, {"id": "o-1", "source": "/orders"}) == {}


@pytest.mark.parametrize(
    "broken",
    ["", "nonsense", TRACE.replace("00-4", "ff-4"), TRACE[:-1], f"00-{'0' * 32}-00f067aa0ba902b7-01", TRACE + "-x"],
)
async def test_a_broken_trace_is_not_passed_on(broken: str) -> None:
    async with Peer(answer(204)) as peer, Sender(peer.url) as sender:

        async def handle(event: Event) -> None:
            await sender.send(Event(type="t", source="/shop"))

        incoming = Event(**NEW)
        incoming._attributes["traceparent"] = broken  # as a careless peer might have sent it
        assert await HandlerSink(handle).send(incoming)
    assert not peer.requests[0].values("ce-traceparent")


async def test_outside_of_handlers_nothing_is_inherited() -> None:
    async with Peer(answer(204)) as peer, Sender(peer.url) as sender:
        assert await sender.send(Event(type="t", source="/shop"))
    assert not peer.requests[0].values("ce-causationid")


@pytest.mark.parametrize("fails", [False, True])
async def test_a_nested_dispatch_gives_the_outer_context_back(fails: bool) -> None:
    """K-E4: also when it fails."""
    inner, outer = Event(type="inner", source="/s"), Event(type="outer", source="/s")
    seen: list[Event | None] = []

    async def handle_inner(event: Event) -> None:
        seen.append(current_event())
        if fails:
            raise LookupError

    async def handle_outer(event: Event) -> None:
        seen.append(current_event())
        assert bool(await HandlerSink(handle_inner).send(inner)) is not fails
        seen.append(current_event())

    assert await HandlerSink(handle_outer).send(outer)
    assert [event and event.type for event in [*seen, current_event()]] == ["outer", "inner", "outer", None]


async def test_a_task_of_the_handler_inherits_too() -> None:
    async with Peer(answer(204)) as peer, Sender(peer.url) as sender:

        async def handle(event: Event) -> None:
            await asyncio.gather(*[sender.send(Event(type="t", source="/shop")) for _ in range(3)])

        assert await HandlerSink(handle).send(Event(**NEW))
    assert [request["ce-causationid"] for request in peer.requests] == ["o-1"] * 3


async def test_a_strict_request_inside_a_handler_expects_the_inherited_correlation() -> None:
    """K-C4, K-E4."""

    def reply(request: Request) -> Step:
        own = {"type": "reply", "source": "/peer", "id": "r-1", "specversion": "1.0"}
        caused = {"correlationid": request["ce-correlationid"], "causationid": request["ce-id"]}
        return answer(200, [("Content-Type", "application/cloudevents+json")], json.dumps(own | caused).encode())

    async with Peer(reply) as peer, Sender(peer.url) as sender:

        async def handle(event: Event) -> None:
            result = await sender.request(Event(type="t", source="/shop"), strict=True)
            assert isinstance(result, Ack)
            assert result.reply is not None
            assert result.reply["correlationid"] == "c-1"

        assert await HandlerSink(handle).send(Event(**NEW, correlationid="c-1"))


async def test_a_reply_without_data_is_there_without_being_asked_for() -> None:
    """In binary mode, where all of it is in the headers."""

    async def handle(event: Event) -> Event:
        return event.reply(type="com.example.done", source="/worker")

    sent = Event(type="com.example.asked", source="/asker", id="a-1")
    async with Receiver(handle, port=0) as receiver, Sender(receiver.url) as sender:
        result = await sender.send(sent)
    assert isinstance(result, Ack)
    assert (result.status, result.reply_error) == (200, None)
    assert result.reply is not None
    assert (result.reply.type, result.reply["causationid"], result.reply.has_data) == ("com.example.done", "a-1", False)
