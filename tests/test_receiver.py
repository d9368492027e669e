"""The receiver's limits, probes and HTTP manners, on the wire; `kind` says which of the two receivers."""

import asyncio
import gzip
import json
import logging
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from cloudevents_kit import Event, Receiver, Router
from tests.support.raw import RawAnswer, RawConnection, request
from tests.support.servers import (
    HEAD,
    KINDS,
    STRUCTURED,
    Kind,
    ask,
    batch,
    binary,
    event_json,
    ignore,
    problem,
    replying,
    returning,
    served,
    structured,
    tls_contexts,
)

both = pytest.mark.parametrize("kind", KINDS)


class Collect:
    """A handler that keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def __call__(self, event: Event) -> None:
        self.events.append(event)


def chunked(*lines: str, body: bytes, size: int = 1000) -> bytes:
    """Write a request with a chunked body."""
    head = request(*HEAD, *lines, "Transfer-Encoding: chunked", length=False)
    parts = [body[at : at + size] for at in range(0, len(body), size)] + [b""]
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


async def answer_of(connection: RawConnection) -> RawAnswer:
    answer = await connection.answer()
    assert answer is not None
    return answer


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# ---------------------------------------------------------------------------------------------- paths and methods


@both
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_events_come_by_post_only(kind: Kind, method: str) -> None:
    """K-E2, RR-11: 405 says what is allowed."""
    handler = Collect()
    async with served(kind, handler) as port:
        answer = await ask(port, request(*HEAD, method=method))
        assert (answer.status, answer.header("allow")) == (405, "POST")
    assert not handler.events


@both
async def test_events_come_to_one_path_whatever_the_query(kind: Kind) -> None:
    handler = Collect()
    async with served(kind, handler, path="/in-box") as port:
        for path, status in (
            ("/in-box", 204),
            ("/in-box?token=1&x", 204),
            ("/in%2Dbox", 204),
            ("/", 404),
            ("/in-box/", 404),
            ("/IN-BOX", 404),
            ("//in-box", 404),
            ("/in-box/more", 404),
        ):
            answer = await ask(port, request(*HEAD, path=path))
            assert answer.status == status, path
    assert len(handler.events) == 3


@both
async def test_probes_are_read_with_get_and_head(kind: Kind) -> None:
    async with served(kind, ignore) as port:
        for path in ("/healthz", "/readyz"):
            for method, status, body in (("GET", 200, b"ok\n"), ("HEAD", 200, b""), ("POST", 405, None)):
                answer = await ask(port, request(method=method, path=path))
                assert answer.status == status
                assert body is None or answer.body == body
                assert answer.header("allow") == ("GET, HEAD" if status == 405 else None)


async def test_the_path_of_events_comes_before_the_probes() -> None:
    async with Receiver(ignore, port=0, path="/healthz") as receiver:
        assert (await ask(receiver.port, binary().replace(b" / ", b" /healthz "))).status == 204


def test_wrong_arguments_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="path: must begin with /, not 'events'"):
        Receiver(ignore, path="events")
    for name in ("max_body", "max_in_flight", "body_timeout", "handler_timeout"):
        for value in (0, -1, float("inf"), float("nan")):
            options: dict[str, Any] = {name: value}
            with pytest.raises(ValueError, match=f"{name}: must be above 0 and finite, not {value}"):
                Receiver(ignore, **options)
    with pytest.raises(TypeError, match="handler: must be callable, not NoneType"):
        Receiver(None)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ bodies


@both
async def test_a_body_over_the_limit_is_413_and_at_the_limit_is_taken(kind: Kind) -> None:
    """K-E2, K-S6."""
    handler = Collect()
    async with served(kind, handler, max_body=3000) as port:
        assert (await ask(port, binary(body="x" * 3000))).status == 204
        assert (await ask(port, chunked(body=b"x" * 3000))).status == 204
        for data in (binary(body="x" * 3001), chunked(body=b"x" * 3001)):
            answer = await ask(port, data)
            assert (answer.status, problem(answer)["detail"]) == (413, "the body is larger than 3000 bytes")
    assert [event.raw for event in handler.events] == [b"x" * 3000] * 2


@both
async def test_a_body_announced_too_large_is_refused_before_it_is_sent(kind: Kind) -> None:
    async with served(kind, ignore, max_body=3000) as port, RawConnection(port) as connection:
        await connection.send(request(*HEAD, "Content-Length: 3001", length=False))
        answer = await answer_of(connection)
        assert (answer.status, answer.header("connection")) == (413, "close")


@both
async def test_a_compressed_body_is_read(kind: Kind) -> None:
    """K-C8, the receiver's half."""
    handler = Collect()
    text = json.dumps(event_json(data="x" * 2000)).encode()
    raw_deflate = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(text),
        "GZIP": gzip.compress(text),
        "deflate": zlib.compress(text),
        " deflate ": raw_deflate.compress(text) + raw_deflate.flush(),
        "identity": text,
    }
    async with served(kind, handler) as port:
        for coding, body in packed.items():
            assert (await ask(port, request(STRUCTURED, f"Content-Encoding: {coding}", body=body))).status == 204
    assert [event.data for event in handler.events] == ["x" * 2000] * len(packed)


@both
async def test_a_compressed_body_that_grows_over_the_limit_is_413(kind: Kind) -> None:
    """K-C8: a bomb is refused without being inflated fully."""
    handler = Collect()
    async with served(kind, handler, max_body=100_000) as port:
        answer = await ask(port, binary("Content-Encoding: gzip", body=gzip.compress(bytes(20_000_000))))
        assert (answer.status, problem(answer)["detail"]) == (413, "the body inflates to more than 100000 bytes")
        assert (await ask(port, binary("Content-Encoding: gzip", body=gzip.compress(bytes(100_000))))).status == 204
    assert len(handler.events) == 1


@both
async def test_a_compressed_body_that_is_broken_is_400(kind: Kind) -> None:
    handler = Collect()
    good = gzip.compress(b"hello")
    async with served(kind, handler) as port:
        for body in (b"plain", good[:-4], good + b"more", good + good, b""):
            answer = await ask(port, binary("Content-Encoding: gzip", body=body))
            assert (answer.status, "compressed body" in problem(answer)["detail"]) == (400, True)
    assert not handler.events


@both
async def test_an_unknown_content_encoding_is_415_and_tells_the_known_ones(kind: Kind) -> None:
    async with served(kind, ignore) as port:
        for coding in ("br", "gzip, gzip", "x-gzip"):
            answer = await ask(port, binary(f"Content-Encoding: {coding}", body=b"x"))
            assert (answer.status, answer.header("accept-encoding")) == (415, "gzip, deflate")


@both
async def test_a_body_that_comes_too_late_is_408(kind: Kind) -> None:
    handler = Collect()
    async with served(kind, handler, body_timeout=0.05) as port:
        for start in (binary(body="12345")[:-3], chunked(body=b"12345")[:-9]):
            async with RawConnection(port) as connection:
                await connection.send(start)
                answer = await answer_of(connection)
                assert (answer.status, problem(answer)["detail"]) == (408, "the body did not arrive in time")
                assert answer.header("connection") == "close"
    assert not handler.events


@both
async def test_a_body_in_many_pieces_is_put_together(kind: Kind) -> None:
    handler = Collect()
    async with served(kind, handler) as port, RawConnection(port) as connection:
        data = chunked("Content-Type: text/plain", body=bytes(range(32, 127)) * 20, size=7)
        for at in range(0, len(data), 100):
            await connection.send(data[at : at + 100])
            await asyncio.sleep(0)
        assert (await answer_of(connection)).status == 204
    assert handler.events[0].raw == bytes(range(32, 127)) * 20


@both
async def test_half_a_body_and_then_silence_for_ever_is_no_event(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """The handler does not run, and an impolite peer is no error of ours."""
    handler = Collect()
    async with served(kind, handler) as port:
        for start in (binary(body="12345")[:-3], chunked(body=b"12345")[:-9], binary(body="12345")[:-5]):
            async with RawConnection(port) as connection:
                await connection.send(start)
        assert (await ask(port, binary(body="12345"))).status == 204
    assert len(handler.events) == 1
    assert not errors(caplog)


@both
async def test_half_a_body_and_then_an_orderly_end_is_no_event(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    handler = Collect()
    async with served(kind, handler, body_timeout=0.05) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(binary(body="12345")[:-3])
        writer.write_eof()
        assert (await reader.read())[9:12] in {b"", b"400", b"408"}
        writer.close()
    assert not handler.events
    assert not errors(caplog)


@both
async def test_a_batch_over_the_limit_is_413_before_any_handler_runs(kind: Kind) -> None:
    handler = Collect()
    async with served(kind, handler, max_batch=2) as port:
        answer = await ask(port, batch({}, {}, {}))
        assert (answer.status, problem(answer)["detail"]) == (413, "the batch has more than 2 events")
        assert not handler.events
        assert (await ask(port, batch({}, {}))).status == 204


@both
async def test_batches_can_be_refused_altogether(kind: Kind) -> None:
    async with served(kind, ignore, max_batch=0) as port:
        for data in (batch({}), batch()):
            answer = await ask(port, data)
            assert (answer.status, "batches are not taken here" in problem(answer)["detail"]) == (415, True)
        assert (await ask(port, structured())).status == 204


@both
async def test_requests_over_the_limit_are_503_with_retry_after_and_never_reach_the_handler(kind: Kind) -> None:
    """K-S6, the part of it that is in this round."""
    entered, leave, seen = asyncio.Semaphore(0), asyncio.Event(), []

    async def handler(event: Event) -> None:
        seen.append(event.id)
        entered.release()
        await leave.wait()

    async with served(kind, handler, max_in_flight=2) as port:
        first = [asyncio.ensure_future(ask(port, structured(id=name))) for name in ("a", "b")]
        for _ in first:
            await entered.acquire()
        refused = await ask(port, structured(id="c"))
        assert (refused.status, refused.header("retry-after")) == (503, "1")
        assert problem(refused)["detail"] == "too many requests in flight"
        assert (await ask(port, request(method="GET", path="/healthz"))).status == 200
        leave.set()
        assert [answer.status for answer in await asyncio.gather(*first)] == [204, 204]
        assert (await ask(port, structured(id="d"))).status == 204
    assert sorted(seen) == ["a", "b", "d"]


async def test_outcomes_are_counted() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()
    router = Router()
    router.on("com.example.tested")(replying)

    @router.on("slow")
    async def slow(event: Event) -> None:
        entered.set()
        await leave.wait()

    async with Receiver(router, port=0, max_in_flight=1) as receiver:
        waiting = asyncio.ensure_future(ask(receiver.port, structured(type="slow")))
        await entered.wait()
        assert (await ask(receiver.port, structured())).status == 503
        leave.set()
        await waiting
        await ask(receiver.port, structured())
        await ask(receiver.port, batch({}, {"type": "unknown"}))
        await ask(receiver.port, structured(id=""))
        assert receiver.counts == {"ack": 3, "nack": 1, "unreadable": 1, "refused_busy": 1}


# ------------------------------------------------------------------------------------------------ connections


@asynccontextmanager
async def connected(handler: Any = ignore, **options: Any) -> AsyncIterator[RawConnection]:
    """A connection to a receiver of our own."""
    async with Receiver(handler, port=0, **options) as receiver, RawConnection(receiver.port) as connection:
        yield connection


async def test_a_connection_is_used_again_whatever_the_answer_was() -> None:
    async with connected() as connection:
        for data, status in ((binary(), 204), (binary("ce-id: 2"), 400), (structured(), 204), (request(), 415)):
            await connection.send(data)
            assert (await answer_of(connection)).status == status


async def test_pipelined_requests_are_answered_in_order() -> None:
    handler = Collect()
    async with connected(handler) as connection:
        await connection.send(structured(id="a") + request(method="GET", path="/healthz") + structured(id="b") * 2)
        assert [(await answer_of(connection)).status for _ in range(4)] == [204, 200, 204, 204]
    assert [event.id for event in handler.events] == ["a", "b", "b"]


@pytest.mark.parametrize("handler", [ignore, replying])
async def test_connection_close_is_obeyed(handler: Any) -> None:
    async with connected(handler) as connection:
        await connection.send(binary("Connection: close"))
        answer = await answer_of(connection)
        assert answer.status in {200, 204}
        assert answer.header("connection") == "close"
        assert await connection.ended()


async def test_http_1_0_gets_its_answer_and_the_end_of_the_connection() -> None:
    async with connected() as connection:
        await connection.send(binary().replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = await answer_of(connection)
        assert (answer.status, answer.text[:8]) == (204, b"HTTP/1.0")
        assert await connection.ended()


async def test_http_1_0_may_keep_the_connection() -> None:
    async with connected() as connection:
        for _ in range(2):
            await connection.send(binary("Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"))
            answer = await answer_of(connection)
            assert (answer.status, answer.text[:8]) == (204, b"HTTP/1.0")
            assert answer.header("connection") == "keep-alive"


async def test_half_a_head_is_closed_after_the_idle_timeout() -> None:
    """K-S6: headers slower than the limit; RR-13."""
    async with connected(idle_timeout=0.1) as connection:
        await connection.send(binary()[:60])
        assert await connection.ended()


async def test_an_idle_connection_is_closed_after_the_idle_timeout() -> None:
    async with connected(idle_timeout=0.1) as connection:
        await connection.send(binary())
        assert (await answer_of(connection)).status == 204
        assert await connection.ended()


async def test_a_client_that_waits_for_100_continue_gets_it_unless_the_answer_is_final() -> None:
    """RFC 9110, 10.1.1."""
    handler = Collect()
    async with connected(handler, max_body=10) as connection:
        data = binary("Expect: 100-Continue", body="12345")
        await connection.send(data[:-5])
        assert (await answer_of(connection)).text == b"HTTP/1.1 100 Continue\r\n\r\n"
        await connection.send(data[-5:])
        assert (await answer_of(connection)).status == 204
        await connection.send(binary("Expect: 100-continue", body="x" * 11)[:-11])
        assert (await answer_of(connection)).status == 413
    assert len(handler.events) == 1


@both
async def test_a_peer_that_has_gone_does_not_stop_its_handler(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """RR-06: half-done work is not cancelled; the answer finds nobody and that is no error."""
    for end in (None, Event(type="com.example.answered", source="/s", data="x" * 100_000)):
        entered, leave, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def handler(
            event: Event,
            *,
            waits: tuple[asyncio.Event, asyncio.Event, asyncio.Event] = (entered, leave, done),
            end: Event | None = end,
        ) -> Event | None:
            waits[0].set()
            await waits[1].wait()
            waits[2].set()
            return end

        async with served(kind, handler) as port:
            async with RawConnection(port) as connection:
                await connection.send(binary())
                await entered.wait()
            for _ in range(20):
                await asyncio.sleep(0)  # the server learns that the connection is gone
            leave.set()
            async with asyncio.timeout(1):
                await done.wait()
            assert (await ask(port, request(method="GET", path="/healthz"))).status == 200
    assert not errors(caplog)


async def test_a_client_that_does_not_read_its_answers_is_waited_for() -> None:
    """The lean answers respect the connection's flow control."""
    big = Event(type="com.example.answered", source="/s", data="x" * 3_000_000)
    async with Receiver(returning(big), port=0) as receiver:
        reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port, limit=2**16)
        writer.write(binary() * 4)
        for _ in range(4):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK")
            assert len(await reader.readexactly(3_000_002)) == 3_000_002
        writer.close()


async def test_a_reply_that_fails_while_it_is_written_is_500_and_one_line(caplog: pytest.LogCaptureFixture) -> None:
    odd = Event(type="t", source="/s")
    odd._attributes["subject"] = "\ud800 secret"  # no event can be made so, but stages may do what they should not
    async with connected(returning(odd)) as connection:
        await connection.send(binary())
        answer = await answer_of(connection)
        assert answer.status == 500
        assert problem(answer)["detail"] == "the receiver failed"
        assert await connection.ended()
    assert "UnicodeEncodeError" in caplog.text


# --------------------------------------------------------------------------------------------------- addresses


async def test_the_url_is_where_events_are_taken() -> None:
    receiver = Receiver(ignore, port=0, path="/in")
    for name in ("url", "port"):
        with pytest.raises(RuntimeError, match="the receiver is not started"):
            getattr(receiver, name)
    async with receiver:
        assert receiver.url == f"http://127.0.0.1:{receiver.port}/in"
        async with aiohttp.ClientSession() as session, session.post(receiver.url, json=event_json()) as answer:
            assert answer.status == 415


async def test_an_ipv6_host_is_written_in_brackets() -> None:
    async with Receiver(ignore, host="::1", port=0) as receiver:
        assert receiver.url == f"http://[::1]:{receiver.port}/"
        headers = dict(line.split(": ", 1) for line in HEAD)
        async with aiohttp.ClientSession() as session, session.post(receiver.url, headers=headers) as answer:
            assert answer.status == 204


async def test_https_is_served_with_a_context() -> None:
    server, client = tls_contexts()
    async with Receiver(ignore, port=0, ssl=server) as receiver:
        assert receiver.url == f"https://127.0.0.1:{receiver.port}/"
        headers = dict(line.split(": ", 1) for line in HEAD)
        async with (
            aiohttp.ClientSession() as session,
            session.post(receiver.url, headers=headers, ssl=client) as answer,
        ):
            assert answer.status == 204
