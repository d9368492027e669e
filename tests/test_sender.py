"""One send or request: what goes over the wire, settings, headers, sessions, opening and closing."""

import asyncio
import gzip
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import aiohttp
import pytest

from cloudevents_kit import Ack, Attempt, Event, Nack, Receiver, Result, RetryPolicy, Sender, SystemClock, Undelivered
from tests.support.clock import ManualClock
from tests.support.peer import SILENCE, Peer, answer, unused_port, zeros

NONE = RetryPolicy.none()
STEADY = RetryPolicy(attempts=3, initial=0.2, jitter=False)
EVENT = Event(type="com.example.order.created", source="/orders", id="o-1", data={"id": 1}, partitionkey="k")
STRUCTURED = [("Content-Type", "application/cloudevents+json")]


def wire(event: Event) -> bytes:
    attributes = {name: str(event[name]) for name in event.attributes}
    return json.dumps({**attributes, "data": event.data} if event.has_data else attributes).encode()


# What goes over the wire.


async def test_binary_is_the_default_mode() -> None:
    async with Peer(answer(204)) as peer, Sender(peer.url) as sender:
        assert await sender.send(EVENT)
    (request,) = peer.requests
    assert (request.method, request.target, request.body) == ("POST", "/in", b'{"id":1}')
    sent = {name: value for name, value in request.headers if name.startswith("ce-")}
    assert sent == {f"ce-{name}": value for name, value in EVENT.attributes.items() if name != "datacontenttype"}
    assert request["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("own", "call"), [("structured", None), ("binary", "structured"), ("structured", "structured")]
)
async def test_the_mode_is_chosen_for_the_sender_or_the_call(own: Any, call: Any) -> None:
    async with Peer(answer(204)) as peer, Sender(peer.url, mode=own) as sender:
        assert await sender.send(EVENT, mode=call)
    (request,) = peer.requests
    assert request["Content-Type"] == "application/cloudevents+json"
    assert json.loads(request.body)["data"] == {"id": 1}
    assert not request.values("ce-id")


async def test_a_call_may_go_binary_from_a_structured_sender() -> None:
    async with Peer(answer(200)) as peer, Sender(peer.url, mode="structured") as sender:
        assert await sender.request(EVENT, mode="binary")
    assert peer.requests[0]["ce-id"] == "o-1"


@pytest.mark.parametrize("own_session", [False, True])
async def test_an_event_without_data_has_no_content_type(own_session: bool) -> None:
    event = Event(type="com.example.ping", source="/orders")
    async with (
        aiohttp.ClientSession() as session,
        Peer(answer(204)) as peer,
        Sender(peer.url, session=session if own_session else None) as sender,
    ):
        assert await sender.send(event)
    (request,) = peer.requests
    assert (request.body, request["Content-Length"], request.values("Content-Type")) == (b"", "0", [])


async def test_a_time_out_without_data_may_have_delivered_all_the_same() -> None:
    """K-C1: the event was in the headers."""
    event = Event(type="com.example.ping", source="/orders")
    async with Peer(SILENCE) as peer, Sender(peer.url, retry=NONE, timeout=0.05) as sender:
        result = await sender.send(event)
    assert isinstance(result, Undelivered)
    assert (result.reason, result.possibly_delivered) == ("timeout", True)


async def test_only_a_request_asks_for_a_reply() -> None:
    """RR-09."""
    async with Peer(answer(204)) as peer, Sender(peer.url) as sender:
        await sender.send(EVENT)
        await sender.request(EVENT)
    assert [request.values("Prefer") for request in peer.requests] == [[], ["reply"]]


@pytest.mark.parametrize(("size", "packed"), [(2048, True), (1024, False)])
async def test_bodies_over_the_threshold_are_compressed(size: int, packed: bool) -> None:
    """K-C8: the same bytes in every attempt. RT-06."""
    event = Event(type="com.example.blob", source="/orders", data=b"x" * size)
    async with (
        Peer(answer(503), answer(204)) as peer,
        Sender(peer.url, gzip_over=1024, clock=ManualClock()) as sender,
    ):
        assert await sender.send(event)
    first, second = peer.requests
    assert first.body == second.body
    assert first.values("Content-Encoding") == (["gzip"] if packed else [])
    assert (gzip.decompress(first.body) if packed else first.body) == b"x" * size


async def test_the_receiver_of_the_kit_reads_compressed_events() -> None:
    """K-C8."""
    seen: list[Event] = []

    async def handle(event: Event) -> None:
        seen.append(event)

    event = Event(type="com.example.blob", source="/orders", data=b"x" * 5000)
    async with Receiver(handle, port=0) as receiver, Sender(receiver.url, gzip_over=1024) as sender:
        assert await sender.send(event)
    assert seen == [event]


async def test_the_receiver_of_the_kit_refuses_a_bomb_before_it_goes_off() -> None:
    """K-C8: 413, and the handler is not called."""

    async def handle(event: Event) -> None:
        raise AssertionError

    bomb = Event(type="com.example.blob", source="/orders", data=bytes(2_000_000))
    async with Receiver(handle, port=0, max_body=100_000) as receiver, Sender(receiver.url, gzip_over=0) as sender:
        result = await sender.send(bomb)
    assert isinstance(result, Nack)
    assert (result.status, result.retryable) == (413, False)


# Answers.


async def test_a_reply_is_the_event_that_the_peer_answers_with() -> None:
    """K-C4: 200 with an event, 204 without one, 500 with something else. RR-01."""
    reply = Event(type="com.example.order.taken", source="/shop", data="ok")
    script = [answer(200, STRUCTURED, wire(reply)), answer(204), answer(500, [("Content-Type", "text/plain")], b"no")]
    async with Peer(*script) as peer, Sender(peer.url, retry=NONE) as sender:
        results = [await sender.request(EVENT) for _ in range(3)]
    assert [bare(result) for result in results] == [
        Ack(status=200, reply=reply),
        Ack(status=204),
        Nack(status=500, reason="no", retryable=True),
    ]


@pytest.mark.parametrize(
    ("attributes", "belongs"),
    [
        ({"correlationid": "o-1", "causationid": "o-1"}, True),
        ({"correlationid": "o-1"}, True),
        ({"correlationid": "o-1", "causationid": "other"}, False),
        ({"correlationid": "other", "causationid": "o-1"}, False),
        ({"causationid": "o-1"}, False),
        ({}, False),
    ],
)
async def test_a_strict_request_takes_only_its_own_reply(attributes: dict[str, str], belongs: bool) -> None:
    """K-C4: design.md differs: the event was delivered, so it is an Ack that tells of the reply, not a Nack."""
    reply = Event(type="com.example.order.taken", source="/shop", **attributes)
    async with Peer(answer(200, STRUCTURED, wire(reply))) as peer, Sender(peer.url) as sender:
        strict, lax = await sender.request(EVENT, strict=True), await sender.request(EVENT)
    if belongs:
        assert bare(strict) == Ack(status=200, reply=reply)
    else:
        assert bare(strict) == Ack(status=200, reply_error="the reply does not belong to this event")
    assert bare(lax) == Ack(status=200, reply=reply)


async def test_a_strict_request_with_a_correlation_expects_it_in_the_reply() -> None:
    asked = EVENT.evolve(correlationid="c-1")
    script = [answer(200, STRUCTURED, wire(asked.reply(type="t.reply", source="/shop"))), answer(204)]
    async with Peer(*script) as peer, Sender(peer.url) as sender:
        first, second = await sender.request(asked, strict=True), await sender.request(asked, strict=True)
    assert isinstance(first, Ack)
    assert first.reply is not None
    assert bare(second) == Ack(status=204)


JSON = "application/json"


@pytest.mark.parametrize(
    ("content_type", "body", "reason"),
    [
        ("text/plain", b"out of stock\nand more", "out of stock"),
        ("text/plain", b"x" * 5000, "x" * 300),
        ("application/problem+json", b'{"title":"Unprocessable Content","detail":"no such order"}', "no such order"),
        (JSON, b'{"error":"bad"}', "bad"),
        (JSON, b'{"error":{"code":1}}', '{"error":{"code":1}}'),
        (JSON, b"{", "{"),
        ("text/plain", b"\xff\x00", "\N{REPLACEMENT CHARACTER}"),
        ("text/plain", b"", HTTPStatus(422).phrase),
    ],
)
async def test_a_refusal_says_why_in_one_line(content_type: str, body: bytes, reason: str) -> None:
    """K-C1: a bounded part of the body is the reason."""
    async with Peer(answer(422, [("Content-Type", content_type)], body)) as peer, Sender(peer.url) as sender:
        result = await sender.send(EVENT)
    assert bare(result) == Nack(status=422, reason=reason)


async def test_every_attempt_tells_how_long_it_took() -> None:
    """K-C1, on the machine's own clock."""
    async with Peer(answer(503), answer(204)) as peer, Sender(peer.url, retry=replace(STEADY, initial=0.01)) as sender:
        result = await sender.send(EVENT)
    assert isinstance(result, Ack)
    first, second = result.attempts
    assert (first.wait, second.wait) == (0, 0.01)
    assert 0 < first.elapsed + second.elapsed <= result.elapsed - 0.01


@pytest.mark.parametrize("result", [Ack(), Nack(), Undelivered(), Attempt()])
def test_a_result_built_without_arguments_can_be_shown(result: Any) -> None:
    """K-C1."""
    assert type(result).__name__ in str(result)


def bare(result: Result) -> Result:
    return replace(result, attempts=(), elapsed=0.0)


# Headers.


async def test_headers_of_the_sender_and_of_the_call_are_added() -> None:
    own = {"Authorization": "Bearer a", "X-Tenant": "t"}
    async with Peer(answer(204)) as peer, Sender(peer.url, headers=own) as sender:
        own.clear()  # it was copied
        await sender.send(EVENT, headers={"authorization": "Bearer b"})
        await sender.send(EVENT)
    assert [(r["Authorization"], r["X-Tenant"]) for r in peer.requests] == [("Bearer b", "t"), ("Bearer a", "t")]


@pytest.mark.parametrize("where", ["sender", "call"])
async def test_a_headers_function_is_asked_again_for_every_attempt(where: str, clock: ManualClock) -> None:
    tokens = iter("abc")

    async def token() -> Mapping[str, str]:
        await asyncio.sleep(0)
        return {"Authorization": next(tokens)}

    of_sender, of_call = (token, None) if where == "sender" else (None, token)
    async with (
        Peer(answer(503), answer(503), answer(204)) as peer,
        Sender(peer.url, headers=of_sender, retry=STEADY, clock=clock) as sender,
    ):
        assert await sender.send(EVENT, headers=of_call)
    assert [request["Authorization"] for request in peer.requests] == ["a", "b", "c"]


@pytest.mark.parametrize("where", ["sender", "call"])
async def test_a_headers_function_may_be_plain(where: str, clock: ManualClock) -> None:
    tokens = iter("abc")

    def token() -> Mapping[str, str]:
        return {"Authorization": next(tokens)}

    of_sender, of_call = (token, None) if where == "sender" else (None, token)
    async with (
        Peer(answer(503), answer(503), answer(204)) as peer,
        Sender(peer.url, headers=of_sender, retry=STEADY, clock=clock) as sender,
    ):
        assert await sender.send(EVENT, headers=of_call)
    assert [request["Authorization"] for request in peer.requests] == ["a", "b", "c"]


async def test_a_headers_function_that_fails_is_no_delivery(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked again like any other failure; its text stays in the log."""
    outcomes: list[Any] = [LookupError("secret"), {"ce-id": "other"}, ["no mapping"], {"X-Good": "y"}]

    async def token() -> Mapping[str, str]:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[no-any-return]

    async with Peer(answer(204)) as peer, Sender(peer.url, headers=token, retry=STEADY, clock=clock) as sender:
        with caplog.at_level(logging.ERROR, "cloudevents_kit"):
            result = await sender.send(EVENT)
        assert bare(result) == Undelivered(reason="headers", error="the headers function failed")
        assert [attempt.error for attempt in result.attempts] == ["headers"] * 3
        assert "LookupError: secret" in caplog.text
        assert peer.connections == 0
        assert await sender.send(EVENT)


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"Content-Type": "text/plain"}, ValueError),
        ({"content-encoding": "br"}, ValueError),
        ({"Host": "x"}, ValueError),
        ({"Expect": "100-continue"}, ValueError),
        ({"Ce-Id": "x"}, ValueError),
        ({"X": "a\r\nY: b"}, ValueError),
        ({"X": "a\x00"}, ValueError),
        ({"X": "\ud800"}, ValueError),
        ({"X\r\nY": "a"}, ValueError),
        ({"X Y": "a"}, ValueError),
        ({"": "a"}, ValueError),
        ({"X": 1}, TypeError),
        ({b"X": "a"}, TypeError),
        (["X"], TypeError),
    ],
)
async def test_headers_that_cannot_be_sent_are_refused_at_once(headers: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^headers: "):
        Sender("http://127.0.0.1/", headers=headers)
    async with Sender("http://127.0.0.1:1/") as sender:
        with pytest.raises(error, match=r"^headers: "):
            await sender.send(EVENT, headers=headers)


async def test_headers_may_hold_tabs_and_any_letters() -> None:
    async with Peer(answer(204)) as peer, Sender(peer.url, headers={"X-Name": "Zoë\t☃"}) as sender:
        assert await sender.send(EVENT)
    assert peer.requests[0]["X-Name"].encode("latin-1").decode() == "Zoë\t☃"


# Settings.


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "batch"},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"connect_timeout": -1},
        {"concurrency": 0},
        {"max_batch": 0},
        {"max_batch_bytes": 0},
        {"max_reply": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=f"^{name}: "):
        Sender("http://127.0.0.1/", **settings)


def test_a_url_that_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^url: "):
        Sender(8080)  # type: ignore[arg-type]


async def test_a_mode_that_does_not_exist_is_refused_at_the_call() -> None:
    async with Sender("http://127.0.0.1:1/") as sender:
        with pytest.raises(ValueError, match=r"^mode: "):
            await sender.send(EVENT, mode="batch")  # type: ignore[arg-type]


async def test_credentials_in_the_url_and_in_a_header_cannot_be_sent() -> None:
    url = f"http://user:secret@127.0.0.1:{unused_port()}/"
    async with Sender(url, headers={"Authorization": "Bearer x"}) as sender:
        result = await sender.send(EVENT)
    assert bare(result) == Undelivered(
        reason="invalid-url", error="no request can be made of this URL with these headers"
    )


async def test_a_network_that_cannot_be_reached_is_told_apart_from_a_refusal() -> None:
    async with Sender("http://255.255.255.255/", retry=NONE) as sender:
        result = await sender.send(EVENT)
    assert isinstance(result, Undelivered)
    assert (result.reason, result.possibly_delivered) == ("network", False)


def test_the_machines_clock_is_the_default() -> None:
    assert isinstance(Sender("http://127.0.0.1/")._clock, SystemClock)


async def test_zeros_are_zeros() -> None:
    """The bomb of the other tests is one."""
    assert gzip.decompress(zeros(2)) == bytes(2 * 2**20)
