"""Section 7 of the checklist: what a receiver answers, and how a sender reads it."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from cloudevents_kit import (
    ACCEPTED,
    Ack,
    Event,
    Receiver,
    Reject,
    Result,
    Retry,
    RetryPolicy,
    Sender,
    Undelivered,
    _http,
    forward,
)
from tests.spec.wire import HEADERS, MEMBERS, new, pairs, structured
from tests.support import peer
from tests.support.raw import Capture, RawAnswer, RawConnection, exchange, request, response

LINES = tuple(f"{name}: {value}" for name, value in HEADERS.items())
EVENT = request(*LINES)
JSON = "Content-Type: application/json"
STRUCTURED = "Content-Type: application/cloudevents+json"
Handler = Callable[[Event], Awaitable[Any]]


async def ask(handler: Handler, data: bytes = EVENT, **limits: Any) -> RawAnswer:
    """Return the answer of a receiver."""
    async with Receiver(handler, port=0, **limits) as receiver:
        answer = await exchange(receiver.port, data)
    assert answer is not None
    return answer


async def ignore(event: Event) -> None:
    """Handle anything."""


async def sent_to(*answers: bytes, wants_reply: bool = False, **settings: Any) -> Result:
    """Return the result of one event sent to a peer that gives ``answers``."""
    settings.setdefault("retry", RetryPolicy.none())
    async with Capture(*answers) as capture, Sender(capture.url, **settings) as sender:
        return await (sender.request(new()) if wants_reply else sender.send(new()))


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize("lines", [(*LINES, JSON), (STRUCTURED,)], ids=["binary", "structured"])
async def test_an_answer_is_read_like_a_request(status: int, lines: tuple[str, ...]) -> None:
    """RR-01."""
    body = json.dumps({**MEMBERS, "data": {"a": 1}}) if lines == (STRUCTURED,) else '{"a":1}'
    result = await sent_to(response(status, *lines, body=body), wants_reply=True)
    assert isinstance(result, Ack)
    assert result.status == status
    assert result.reply is not None
    assert (result.reply.key, result.reply.data) == (("/s", "1"), {"a": 1})
    _, events = _http.decode(pairs(dict(line.split(": ") for line in lines)), body.encode())
    assert events == [result.reply]


async def test_a_success_says_whether_the_event_was_handled_answered_or_stored() -> None:
    """RR-02, decision 0.1."""

    async def reply(event: Event) -> Event:
        return event.reply(type="answer", source="/r", data={"a": 1})

    async def store(event: Event) -> Any:
        return ACCEPTED

    handled, answered, stored = await ask(ignore), await ask(reply), await ask(store)
    assert (handled.status, handled.body) == (204, b"")
    assert (answered.status, answered.body) == (200, b'{"a":1}')
    assert answered.header("content-type") == "application/json"
    assert answered.header("ce-type") == "answer"
    assert (stored.status, stored.body) == (202, b"")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_receiver_never_redirects(status: int) -> None:
    """RR-03: not even when the next hop does."""
    async with Capture(response(status, "Location: /elsewhere")) as capture, Sender(capture.url) as onward:
        answer = await ask(forward(onward))
        assert len(capture.requests) == 1
    assert answer.status == 502
    assert answer.header("location") is None
    for refusal in (Reject, Retry):
        with pytest.raises(ValueError, match="status"):
            refusal(status=status)


async def test_unknown_formats_floods_and_retired_endpoints_have_their_statuses() -> None:
    """RR-04, decision 0.2."""

    async def busy(event: Event) -> None:
        raise Retry(status=429)

    async def busy_for(event: Event) -> None:
        raise Retry(status=429, after=7)

    async def retired(event: Event) -> None:
        raise Reject("retired", status=410)

    answer = await ask(ignore, request("Content-Type: application/cloudevents+avro", body="x"))
    assert answer.status == 415
    answer = await ask(ignore, request(STRUCTURED, body="x"))
    assert answer.status == 400
    answer = await ask(busy)
    assert (answer.status, answer.header("retry-after")) == (429, "1")
    answer = await ask(busy_for)
    assert (answer.status, answer.header("retry-after")) == (429, "7")
    assert (await ask(retired)).status == 410


async def test_nothing_is_acknowledged_before_it_was_handled() -> None:
    """RR-06."""
    began, finish = asyncio.Event(), asyncio.Event()

    async def handler(event: Event) -> None:
        began.set()
        await finish.wait()
        raise RuntimeError("broken")

    async with Receiver(handler, port=0) as receiver, RawConnection(receiver.port) as connection:
        await connection.send(EVENT)
        await began.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connection.answer()
        finish.set()
        answer = await connection.answer()
        assert answer is not None
        assert answer.status == 500


async def test_a_handler_runs_to_its_end_when_the_peer_leaves() -> None:
    """RR-06: work is never cut in half because nobody waits for the answer."""
    began, finish, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(event: Event) -> None:
        began.set()
        await finish.wait()
        ended.set()

    async with Receiver(handler, port=0) as receiver:
        async with RawConnection(receiver.port) as connection:
            await connection.send(EVENT)
            await began.wait()
        await exchange(receiver.port, request(method="GET", path="/healthz"))
        finish.set()
        await asyncio.wait_for(ended.wait(), 1)


async def test_a_duplicate_is_accepted() -> None:
    """RR-07."""
    seen = []

    async def handler(event: Event) -> None:
        seen.append(event.key)

    async with Receiver(handler, port=0) as receiver:
        for _ in range(2):
            answer = await exchange(receiver.port, EVENT)
            assert answer is not None
            assert answer.status == 204
    assert seen == [("/s", "1"), ("/s", "1")]


def raises(error: Exception) -> Handler:
    async def handler(event: Event) -> None:
        raise error

    return handler


async def read_data(event: Event) -> None:
    _ = event.data


async def hang(event: Event) -> None:
    await asyncio.Event().wait()


OUTCOMES: dict[str, tuple[Handler, int, str | None]] = {
    "Reject": (raises(Reject("no")), 422, None),
    "Reject with a status": (raises(Reject("no", status=403)), 403, None),
    "Retry": (raises(Retry()), 503, None),
    "Retry after": (raises(Retry(after=5)), 503, "5"),
    "Retry after a fraction": (raises(Retry(after=0.2)), 503, "1"),
    "Retry as busy": (raises(Retry(after=3, status=429)), 429, "3"),
    "broken data": (read_data, 422, None),
    "a time limit of its own": (raises(TimeoutError()), 503, None),
    "the time limit of the receiver": (hang, 503, None),
    "any other exception": (raises(ValueError("secret")), 500, None),
}


@pytest.mark.parametrize(("handler", "status", "after"), OUTCOMES.values(), ids=OUTCOMES)
async def test_the_end_of_a_handler_decides_the_status(handler: Handler, status: int, after: str | None) -> None:
    """RR-08."""
    answer = await ask(handler, request(*LINES, JSON, body='{"a":'), handler_timeout=0.1)
    assert (answer.status, answer.header("retry-after")) == (status, after)
    assert b"secret" not in answer.body


async def test_replies_are_asked_for_and_202_has_none() -> None:
    """RR-09, RT-09."""
    async with Capture() as capture, Sender(capture.url) as sender:
        await sender.request(new())
        await sender.send(new())
    assert [b"\r\nprefer: reply\r\n" in sent.lower() for sent in capture.requests] == [True, False]
    stored = await sent_to(response(202, *LINES, JSON, body="{}"), wants_reply=True)
    assert isinstance(stored, Ack)
    assert (stored.status, stored.reply, stored.reply_error) == (202, None, None)
    unasked = await sent_to(response(200, *LINES, JSON, body="{}"))
    assert isinstance(unasked, Ack)
    assert unasked.reply is not None
    assert unasked.reply.data == {}


async def test_options_is_answered_with_what_is_allowed_and_never_needed() -> None:
    """RR-10, RR-11."""
    for method in ("OPTIONS", "GET", "PUT"):
        answer = await ask(ignore, request(method=method))
        assert (answer.status, answer.header("allow")) == (405, "POST")
    answer = await ask(ignore, request(method="POST", path="/healthz"))
    assert (answer.status, answer.header("allow")) == (405, "GET, HEAD")
    async with Capture() as capture, Sender(capture.url) as sender:
        assert await sender.send(new())
    assert [sent.partition(b" ")[0] for sent in capture.requests] == [b"POST"]


BROKEN = [
    request(*LINES, "ce-subject: %00canary"),
    request(STRUCTURED, body='{"canary":'),
    request(STRUCTURED, body=json.dumps({**MEMBERS, "time": "canary"})),
    request(STRUCTURED, body=json.dumps({**MEMBERS, "CANARY<script>": 1})),
    request("Content-Type: application/cloudevents+canary", body="canary"),
    request("Content-Encoding: canary", *LINES, body="canary"),
    request(*LINES, path="/canary"),
    request(*LINES, method="CANARY"),
    request(*LINES, "ce-x: \x01canary"),
    request(*LINES, "Expect: canary"),
]


@pytest.mark.parametrize("data", BROKEN, ids=range(len(BROKEN)))
async def test_a_refusal_is_a_short_problem_without_anything_of_the_request(data: bytes) -> None:
    """RR-12."""
    answer = await ask(ignore, data)
    assert 400 <= answer.status < 500
    assert answer.header("content-type") == "application/problem+json"
    assert b"canary" not in answer.text.lower()
    assert len(answer.body) < 300
    assert json.loads(answer.body)["status"] == answer.status


async def test_a_body_has_a_limit_in_size_and_in_time() -> None:
    """RR-13."""
    assert (await ask(ignore, request(*LINES, body=bytes(4 * 2**20)))).status == 204
    for lines in ([f"Content-Length: {4 * 2**20 + 1}"], ["Content-Length: 99999999999999"]):
        assert (await ask(ignore, request(*LINES, *lines, length=False), body_timeout=0.1)).status == 413
    stalled = request(*LINES, "Content-Length: 10", length=False, body="12345")
    assert (await ask(ignore, stalled, body_timeout=0.1)).status == 408


async def test_compressed_bodies_are_read_and_corrupt_ones_refused() -> None:
    """RR-14."""
    seen = []

    async def handler(event: Event) -> None:
        seen.append(event.data)

    body = json.dumps({**MEMBERS, "data": [1, 2]}).encode()
    raw = zlib.compressobj(wbits=-15)
    codings = {
        "gzip": gzip.compress(body),
        "GZIP": gzip.compress(body),
        "deflate": zlib.compress(body),
        "Deflate": raw.compress(body) + raw.flush(),
        "identity": body,
    }
    for coding, coded in codings.items():
        answer = await ask(handler, request(STRUCTURED, f"Content-Encoding: {coding}", body=coded))
        assert answer.status == 204, coding
    assert seen == [[1, 2]] * 5
    for coding, coded in {
        "gzip": body,
        "deflate": b"\xff" + body,
        "GZIP": gzip.compress(body)[:-3],
        "gZip": b"",
    }.items():
        answer = await ask(handler, request(STRUCTURED, f"Content-Encoding: {coding}", body=coded))
        assert answer.status == 400, coding
    for coding in ("br", "zstd", "foo", "gzip, gzip", "gzip,deflate"):
        answer = await ask(handler, request(STRUCTURED, f"Content-Encoding: {coding}", body=body))
        assert answer.status == 415, coding
        assert answer.header("accept-encoding") == "gzip, deflate"
    assert len(seen) == 5


async def test_a_reply_is_read_up_to_a_limit_of_inflated_bytes() -> None:
    """RR-15."""
    bomb = response(200, JSON, "Content-Encoding: gzip", body=gzip.compress(bytes(50_000_000)))
    tracemalloc.start()
    try:
        result = await sent_to(bomb, wants_reply=True, max_reply=100_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(result, Ack)
    assert result.reply is None
    assert result.reply_error == "the answer is too large"
    assert peak < 10_000_000


async def test_a_peer_that_is_lost_after_its_headers_has_accepted_but_not_replied() -> None:
    """RT-10, 18.1-h."""
    step = replace(peer.answer(200, [("Content-Type", "application/cloudevents+json")], b"{", length=50), then="reset")
    async with peer.Peer(step) as lost, Sender(lost.url, retry=RetryPolicy.none()) as sender:
        assert (await sender.send(new())).is_ack
        asked = await sender.request(new())
    assert isinstance(asked, Undelivered)
    assert (asked.reason, asked.possibly_delivered) == ("reset", True)


async def test_a_reply_from_a_mounted_path_carries_the_same_event() -> None:
    """RR-01: what the receiver writes, the sender reads."""
    sent = structured({"subject": "é %", "data": [None, 1.5]})

    async def handler(event: Event) -> Event:
        return event.evolve(id="2")

    async with Receiver(handler, port=0, path="/deep/er") as receiver, Sender(receiver.url) as sender:
        for mode in ("binary", "structured"):
            result: Any = await sender.request(sent, mode=mode)
            assert result.reply == sent.evolve(id="2")
