"""What a receiver takes at once, and when it acknowledges: a slot comes back whatever became of its request."""

import asyncio
import gzip
import logging
import socket
from typing import Any

import pytest

from cloudevents_kit import ACCEPTED, Ack, Event, Nack, Outcome, Receiver, RetryPolicy, Sender
from tests.support.parts import Gate
from tests.support.raw import RawConnection, exchange, request
from tests.support.servers import (
    HEAD,
    KINDS,
    STRUCTURED,
    Kind,
    ask,
    batch,
    binary,
    ignore,
    problem,
    raising,
    served,
    structured,
)

both = pytest.mark.parametrize("kind", KINDS)
BUSY = 503


@both
async def test_a_request_that_was_refused_gives_its_slot_back(kind: Kind) -> None:
    """K-S6."""
    chunked = request(*HEAD, "Transfer-Encoding: chunked", length=False)
    async with served(kind, ignore, max_in_flight=1, max_body=100, body_timeout=0.05) as port:
        for refused, status in (
            (binary(body="x" * 101), 413),
            (request(*HEAD, "Content-Length: 101", length=False), 413),
            (chunked + b"65\r\n" + b"x" * 101 + b"\r\n0\r\n\r\n", 413),
            (binary("Content-Encoding: gzip", body=gzip.compress(bytes(101))), 413),
            (request(*HEAD, "Content-Length: 2", length=False), 408),
            (request(STRUCTURED, body="{"), 400),
            (request(), 415),
            (request(*HEAD, method="GET"), 405),
        ):
            assert (await ask(port, refused)).status == status
            assert (await ask(port, binary())).status == 204, "the slot is still taken"


@both
async def test_a_request_that_was_cut_off_gives_its_slot_back(kind: Kind) -> None:
    """K-S6."""
    async with served(kind, Gate(), max_in_flight=1, handler_timeout=0.05) as port:
        for _ in range(3):
            assert problem(await ask(port, binary()))["detail"] == "the handler ran out of time"
    async with served(kind, raising(asyncio.CancelledError()), max_in_flight=1) as port:
        for _ in range(3):
            answer = await exchange(port, binary())
            assert answer is None or answer.status != BUSY


@both
async def test_a_body_that_is_still_arriving_takes_a_slot_and_gives_it_back_when_its_sender_leaves(kind: Kind) -> None:
    """K-S6: a slow sender counts like a slow handler."""
    async with served(kind, ignore, max_in_flight=1) as port:
        async with RawConnection(port) as slow:
            await slow.send(binary(body="12345")[:-3])
            while (await ask(port, binary())).status != BUSY:
                pass
        while (await ask(port, binary())).status == BUSY:
            pass


@both
async def test_a_batch_takes_one_slot(kind: Kind) -> None:
    async with served(kind, ignore, max_in_flight=1) as port:
        assert (await ask(port, batch({}, {}, {}))).status == 204


@both
async def test_a_busy_receiver_refuses_without_reading_the_body(kind: Kind) -> None:
    """K-S6: nothing but the head was sent."""
    gate = Gate()
    async with served(kind, gate, max_in_flight=1) as port:
        first = asyncio.ensure_future(ask(port, binary()))
        await gate.wait()
        async with RawConnection(port) as connection:
            await connection.send(request(*HEAD, "Content-Length: 1000", length=False))
            answer = await connection.answer()
            assert answer is not None
            assert (answer.status, answer.header("connection")) == (BUSY, "close")
        gate.leave.set()
        assert (await first).status == 204


async def test_a_sender_is_told_to_come_again_by_a_busy_receiver_and_never_that_all_is_well() -> None:
    gate = Gate()
    async with (
        Receiver(gate, port=0, max_in_flight=1) as receiver,
        Sender(receiver.url, retry=RetryPolicy.none()) as sender,
    ):
        first = asyncio.ensure_future(sender.send(Event(type="t", source="/s")))
        await gate.wait()
        refused = await sender.send(Event(type="t", source="/s"))
        assert isinstance(refused, Nack)
        assert (refused.status, refused.retryable, refused.retry_after) == (BUSY, True, 1.0)
        gate.leave.set()
        assert await first


# ------------------------------------------------------------------------------------- acknowledged, and when


async def test_a_handler_that_fails_is_a_nack_for_the_sender() -> None:
    """K-S3."""
    async with (
        Receiver(raising(ValueError("no")), port=0) as receiver,
        Sender(receiver.url, retry=RetryPolicy.none()) as sender,
    ):
        result = await sender.send(Event(type="t", source="/s"))
    assert isinstance(result, Nack)
    assert (result.status, result.reason, result.retryable) == (500, "the handler failed", True)


async def test_accepted_is_answered_only_when_the_event_is_in_the_queue() -> None:
    """K-S3."""
    queue = asyncio.Queue[Event](1)

    async def enqueue(event: Event) -> Outcome:
        await queue.put(event)
        return ACCEPTED

    async with Receiver(enqueue, port=0) as receiver, Sender(receiver.url) as sender:
        first = await sender.send(Event(type="t", source="/s", id="1"))
        assert isinstance(first, Ack)
        assert first.status == 202
        waiting = asyncio.ensure_future(sender.send(Event(type="t", source="/s", id="2")))
        await asyncio.wait({waiting}, timeout=0.05)
        assert not waiting.done()
        assert queue.get_nowait().id == "1"
        second = await waiting
        assert isinstance(second, Ack)
        assert second.status == 202
    assert queue.get_nowait().id == "2"


# ------------------------------------------------------------------------------------------ broken connections


async def test_a_body_whose_framing_breaks_on_the_way_is_refused_and_not_handled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[Event] = []
    async with Receiver(seen.append, port=0, body_timeout=0.05) as receiver, RawConnection(receiver.port) as connection:
        await connection.send(request(*HEAD, "Transfer-Encoding: chunked", length=False, body=b"2\r\n"))
        assert (await ask(receiver.port, request(method="GET", path="/healthz"))).status == 200
        await connection.send(b"{}\r\nzz\r\n")
        answer = await connection.answer()
        assert answer is not None
        assert answer.status in {400, 408}
        assert await connection.ended()
    assert not seen
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_an_answer_to_a_peer_that_is_known_to_be_gone_is_dropped_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate()
    async with Receiver(gate, port=0) as receiver:
        async with RawConnection(receiver.port) as connection:
            await connection.send(structured())
            await gate.wait()
        for _ in range(3):  # by then the receiver has noticed
            await ask(receiver.port, request(method="GET", path="/healthz"))
        gate.leave.set()
        assert (await ask(receiver.port, structured())).status == 204
        assert receiver.counts == {"ack": 2}
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_answers_that_nobody_reads_hold_up_the_next_requests_of_their_connection() -> None:
    """A client that sends on and on and never reads cannot fill the memory with answers."""
    seen: list[str] = []
    count = 3000

    async def handler(event: Event) -> Outcome:
        seen.append(event.id)
        if len(seen) > 1:
            return None
        return Event(type="t", source="/s", id="2", time=None, data=b"x" * 200_000, datacontenttype="image/png")

    async with Receiver(handler, port=0, max_body=100) as receiver:
        listener: Any = receiver._site
        for listening in listener._server.sockets:  # accepted connections get what the listener has
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        narrow.connect(("127.0.0.1", receiver.port))
        reader, writer = await asyncio.open_connection(sock=narrow, limit=1024)
        writer.write(binary() * count)
        received = b""
        while len(seen) < 2:  # the large answer has left, but for what the network holds
            received += await reader.read(1024)
        handled = -1
        while handled < len(seen):
            handled = len(seen)
            await asyncio.sleep(0.02)
        assert handled < count
        while received.count(b"HTTP/1.1 204") < count - 1:
            received += await reader.read(65536)
        assert received.startswith(b"HTTP/1.1 200 OK")
        assert len(seen) == count
        writer.close()
