"""The corners of one HTTP exchange: URLs that are none, bodies that come in pieces, sessions that do more than post."""

import hashlib
from dataclasses import replace

import aiohttp
import pytest

from cloudevents_kit import Ack, Event, Result, RetryPolicy, Sender, Undelivered
from tests.support.peer import Peer, answer

NONE = RetryPolicy.none()
EVENT = Event(type="com.example.order.created", source="/orders", id="o-1", data=b"\xff\x00\xfe")
REPLY = b'{"specversion":"1.0","id":"r","source":"/p","type":"t"}'
needs_middlewares = pytest.mark.skipif(not hasattr(aiohttp, "ClientHandlerType"), reason="aiohttp before 3.12")


def bare(result: Result) -> Result:
    return replace(result, attempts=(), elapsed=0.0)


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://x:port/", "http://x:99999/", "//x/", "/in", "", "mailto:a@b", "http:///in", "http:"]
)
async def test_a_url_that_is_none_makes_no_request(url: str) -> None:
    async with Sender(url, retry=NONE) as sender:
        result = await sender.send(EVENT)
    assert bare(result) == Undelivered(
        reason="invalid-url", error="url: must begin with http:// or https:// and name a host", possibly_delivered=False
    )


async def test_an_answer_that_comes_in_pieces_is_read_to_its_end() -> None:
    pieces = replace(answer(200, [("Content-Type", "application/cloudevents+json")], REPLY), piece=60, pause=0.005)
    async with Peer(pieces) as peer, Sender(peer.url, retry=NONE) as sender:
        result = await sender.request(EVENT)
    assert isinstance(result, Ack)
    assert result.reply is not None
    assert (result.reply.id, result.reply_error) == ("r", None)


@needs_middlewares
async def test_a_middleware_of_the_callers_session_can_sign_the_body() -> None:
    async def sign(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        assert isinstance(request.body, aiohttp.Payload)
        request.headers["X-Digest"] = hashlib.sha256(await request.body.as_bytes()).hexdigest()
        return await send(request)

    async with (
        Peer(answer(204)) as peer,
        aiohttp.ClientSession(middlewares=[sign]) as session,
        Sender(peer.url, session=session) as sender,
    ):
        assert await sender.send(EVENT)
    assert peer.requests[0].body == EVENT.raw
    assert peer.requests[0]["X-Digest"] == hashlib.sha256(b"\xff\x00\xfe").hexdigest()


@needs_middlewares
async def test_a_middleware_that_gives_up_is_no_delivery() -> None:
    async def give_up(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        raise aiohttp.ClientError("no token")

    async with (
        Peer(answer(204)) as peer,
        aiohttp.ClientSession(middlewares=[give_up]) as session,
        Sender(peer.url, session=session, retry=NONE) as sender,
    ):
        assert bare(await sender.send(EVENT)) == Undelivered(reason="network", error="ClientError")
    assert peer.connections == 0


async def test_a_large_body_is_sent_without_a_warning() -> None:
    """aiohttp warns of bytes above 1 MiB; here they are one event, which somebody wanted to send."""
    large = Event(type="t", source="/s", data=bytes(2 * 2**20))
    async with Peer(answer(204)) as peer, Sender(peer.url, retry=NONE) as sender:
        assert await sender.send(large)
    assert len(peer.requests[0].body) == 2 * 2**20
