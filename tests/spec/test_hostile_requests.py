"""Section 18 of the checklist: what a receiver shows to hostile and malformed requests, over raw sockets."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import pytest

from cloudevents_kit import DataError, Event, Receiver, Reject
from tests.spec.hostile import BATCH, CASES, JSON, MAX_BATCH, MAX_BODY, ONE, Case, binary, structured
from tests.support.raw import RawAnswer, RawConnection, exchange, request
from tests.support.servers import KINDS, Kind, served


def check_refusal(answer: RawAnswer, status: int) -> dict[str, object]:
    """Check that a refusal is one short line that repeats nothing of the request; return its members."""
    assert answer.status == status
    assert answer.header("content-type") == "application/problem+json"
    assert b"canary" not in answer.text.lower()
    assert b"\n" not in answer.body
    assert len(answer.body) < 400
    said: dict[str, object] = json.loads(answer.body)
    assert said["status"] == status
    assert said["title"]
    assert said["detail"]
    return said


@pytest.fixture
def seen() -> list[Event]:
    """The events that reached the handler."""
    return []


@pytest.fixture
async def receiver(seen: list[Event]) -> AsyncIterator[Receiver]:
    async def handler(event: Event) -> None:
        seen.append(event)

    async with Receiver(
        handler, port=0, max_body=MAX_BODY, max_batch=MAX_BATCH, body_timeout=0.1, idle_timeout=0.1
    ) as running:
        yield running


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
async def test_a_hostile_request_gets_its_answer(case: Case, receiver: Receiver, seen: list[Event]) -> None:
    answer = await exchange(receiver.port, case.data)
    assert answer is not None
    assert len(seen) == case.calls
    for name, value in case.headers.items():
        assert answer.header(name) == value
    if case.status < 300:
        assert answer.status == case.status
        assert answer.body == b""
        for event in seen:
            assert {name: event.get(name) for name in case.seen} == case.seen
    else:
        said = check_refusal(answer, case.status)
        assert case.names in str(said["detail"])
        assert said.get("code") == case.code


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "value",
    [b'text/plain; x="\xc3\xa9"', b'text/plain; x="\xe9"', b"a/b" + b"; " * 2000 + b"@"],
    ids=["UTF-8", "Latin-1", "separators"],
)
async def test_a_hostile_content_type_is_refused_by_either_server(kind: Kind, value: bytes, seen: list[Event]) -> None:
    """Beyond the rows of the table: whatever bytes it holds, and however many separators."""

    async def handler(event: Event) -> None:
        seen.append(event)

    async with served(kind, handler) as port:
        answer = await exchange(port, binary(b"Content-Type: " + value))
    assert answer is not None
    assert str(check_refusal(answer, 400)["detail"]).startswith("datacontenttype: must be a media type")
    assert seen == []


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(case.data, id=case.name)
        for case in CASES
        if case.number in {"30", "31"} or (case.number == "40" and "chunked" not in case.what)
    ],
)
async def test_nothing_more_is_read_from_a_connection_whose_framing_is_in_doubt(
    data: bytes, receiver: Receiver, seen: list[Event]
) -> None:
    async with RawConnection(receiver.port) as connection:
        await connection.send(data + binary())
        answer = await connection.answer()
        assert answer is not None
        assert answer.status in {400, 413}
        assert await connection.ended()
    assert seen == []


async def test_a_body_that_stalls_is_answered_408_and_the_connection_closed(
    receiver: Receiver, seen: list[Event]
) -> None:
    """18-45."""
    async with RawConnection(receiver.port) as connection:
        await connection.send(binary("Content-Length: 10", length=False, body="canary"))
        answer = await connection.answer()
        assert answer is not None
        check_refusal(answer, 408)
        assert await connection.ended()
    assert seen == []


@pytest.mark.parametrize("before", [b"", binary()], ids=["first request", "second request"])
async def test_headers_that_stall_end_the_connection(before: bytes, receiver: Receiver) -> None:
    """18-46."""
    async with RawConnection(receiver.port) as connection:
        if before:
            await connection.send(before)
            assert await connection.answer() is not None
        await connection.send(binary()[:-10])
        assert await connection.ended()


async def test_a_peer_that_leaves_in_the_middle_of_a_body_gets_nothing_handled(
    receiver: Receiver, seen: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    """18-47."""
    async with RawConnection(receiver.port) as connection:
        await connection.send(binary("Content-Length: 10", length=False, body="canary"))
    answer = await exchange(receiver.port, request(method="GET", path="/healthz"))
    assert answer is not None
    assert answer.status == 200
    await receiver.stop()
    assert seen == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info] == []


async def test_a_request_that_is_no_http_leaves_neither_its_text_nor_a_traceback_in_the_log(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """18-25."""
    await exchange(receiver.port, binary("Authorization: Bearer canary\x00"))
    assert "canary" not in caplog.text
    assert [record.levelname for record in caplog.records if record.name != "asyncio"] == ["WARNING"]


async def test_a_peer_that_waits_for_100_continue_gets_it(receiver: Receiver, seen: list[Event]) -> None:
    """18-48: the expectation that HTTP knows is met."""
    async with RawConnection(receiver.port) as connection:
        await connection.send(binary(JSON, "Expect: 100-Continue", "Content-Length: 2", length=False))
        answer = await connection.answer()
        assert answer is not None
        assert answer.text == b"HTTP/1.1 100 Continue\r\n\r\n"
        await connection.send(b"{}" + binary())
        for _ in range(2):
            answer = await connection.answer()
            assert answer is not None
            assert answer.status == 204
    assert seen[0].data == {}


async def test_a_peer_that_waits_for_100_continue_is_refused_before_it_sends_too_much(receiver: Receiver) -> None:
    """18-40."""
    async with RawConnection(receiver.port) as connection:
        await connection.send(binary("Expect: 100-continue", f"Content-Length: {MAX_BODY + 1}", length=False))
        answer = await connection.answer()
        assert answer is not None
        check_refusal(answer, 413)
        assert await connection.ended()


async def test_data_that_is_malformed_surfaces_when_it_is_read(seen: list[Event]) -> None:
    """18-85, 18-58, 18-60: the payload is kept as it came; a handler that reads it answers 422."""

    async def handler(event: Event) -> None:
        seen.append(event)
        _ = event.data

    async with Receiver(handler, port=0) as receiver:
        for body in ('{"canary":', '{"canary": NaN}', "[1e400]", "9" * 5000):
            answer = await exchange(receiver.port, binary(JSON, body=body))
            assert answer is not None
            assert "data: " in str(check_refusal(answer, 422)["detail"])
            assert seen[-1].raw == body.encode()
            with pytest.raises(DataError):
                _ = seen[-1].data


async def test_batches_are_refused_where_batching_is_off(seen: list[Event]) -> None:
    """18-79."""

    async def handler(event: Event) -> None:
        seen.append(event)

    async with Receiver(handler, port=0, max_batch=0) as receiver:
        for body in ("[]", f"[{ONE}]"):
            answer = await exchange(receiver.port, request(BATCH, body=body))
            assert answer is not None
            check_refusal(answer, 415)
        assert seen == []
        answer = await exchange(receiver.port, structured(ONE))
        assert answer is not None
        assert answer.status == 204


async def test_a_callback_url_in_a_handshake_is_never_called(receiver: Receiver) -> None:
    """18-89."""
    called = asyncio.Event()

    async def callback(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.set()
        writer.close()

    server = await asyncio.start_server(callback, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        lines = ("WebHook-Request-Origin: canary.example", f"WebHook-Request-Callback: {url}")
        answer = await exchange(receiver.port, request(*lines, method="OPTIONS"))
        assert answer is not None
        check_refusal(answer, 405)
        await receiver.stop()
    assert not called.is_set()


async def test_a_duplicate_is_taken_like_the_first(receiver: Receiver, seen: list[Event]) -> None:
    """18-96, RR-07: telling duplicates apart is a stage's work; the receiver itself never answers 409."""
    for _ in range(2):
        answer = await exchange(receiver.port, binary())
        assert answer is not None
        assert answer.status == 204
    assert seen[0].key == seen[1].key


async def test_a_handler_that_raises_is_answered_500_without_a_trace() -> None:
    """18-97."""

    async def handler(event: Event) -> None:
        raise RuntimeError("canary: " + event.id)

    async with Receiver(handler, port=0) as receiver:
        answer = await exchange(receiver.port, binary())
    assert answer is not None
    check_refusal(answer, 500)
    assert b"RuntimeError" not in answer.body


async def test_an_overloaded_receiver_answers_503_with_retry_after() -> None:
    """18-98."""
    busy, go_on = asyncio.Event(), asyncio.Event()

    async def handler(event: Event) -> None:
        busy.set()
        await go_on.wait()

    async with Receiver(handler, port=0, max_in_flight=1) as receiver, RawConnection(receiver.port) as first:
        await first.send(binary())
        await busy.wait()
        answer = await exchange(receiver.port, binary())
        assert answer is not None
        check_refusal(answer, 503)
        assert answer.header("retry-after") == "1"
        go_on.set()
        answer = await first.answer()
        assert answer is not None
        assert answer.status == 204


async def test_a_retired_endpoint_answers_410() -> None:
    """18-99."""

    async def handler(event: Event) -> None:
        raise Reject("this endpoint is retired", status=410)

    async with Receiver(handler, port=0) as receiver:
        answer = await exchange(receiver.port, binary())
    assert answer is not None
    assert check_refusal(answer, 410)["detail"] == "this endpoint is retired"


def test_no_row_of_the_section_gives_a_5xx() -> None:
    """RR-05: an answer 5xx would make the sender repeat what can never be accepted."""
    assert {case.status for case in CASES} == {204, 400, 405, 413, 415, 417}
