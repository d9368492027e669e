"""The truth table: what a peer does, and what the sender says about it, over real sockets."""

import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal
from unittest.mock import ANY

import pytest

from cloudevents_kit import Ack, Event, Nack, Result, RetryPolicy, Sender, Undelivered
from cloudevents_kit._result import Reason
from tests.support.clock import ManualClock
from tests.support.peer import (
    CLOSE,
    RESET,
    SILENCE,
    Certificates,
    Peer,
    Request,
    Script,
    Step,
    answer,
    chunked,
    full_backlog,
    half,
    unused_port,
    zeros,
)

POLICY = RetryPolicy(attempts=3, initial=0.2, factor=2, jitter=False, deadline=60, max_retry_after=20)
BACKOFF = (0.2, 0.4)
MAX_REPLY = 2000

EVENT = Event(type="com.example.order.created", source="/orders", id="o-1", data={"id": 1}, partitionkey="k")
REPLY = Event(type="com.example.order.taken", source="/shop", id="r-1", data={"ok": True})
STRUCTURED = [("Content-Type", "application/cloudevents+json")]
BINARY = [("Content-Type", "application/json")] + [
    (f"ce-{name}", str(REPLY[name])) for name in ("id", "source", "type")
]
JSON = json.dumps({name: REPLY[name] for name in REPLY.attributes} | {"data": {"ok": True}}).encode()
BAD_JSON = JSON.replace(b'"id"', b'"di"')

Place = Literal["peer", "untrusted", "refusing", "unresolvable", "backlog full", "no url", "no host", "bad host"]
URLS: dict[Place, str] = {
    "unresolvable": "http://nope.invalid/",
    "no url": "nonsense",
    "no host": "http:///in",
    "bad host": f"http://{'a' * 64}.invalid/",
}


@dataclass(frozen=True)
class Row:
    """What the peer does with each request, and what is told about it."""

    name: str
    script: Sequence[Script]
    ends: Result
    tries: Sequence[int | str]
    """The status or error of each attempt."""
    waits: Sequence[float] = ()
    """Seconds waited before the second attempt, the third..."""
    call: Literal["send", "request"] = "send"
    place: Place = "peer"
    arrived: int | None = None
    """Requests that reached the peer, if not one for each attempt."""
    timeout: float = 5.0
    warm: bool = False
    """Whether another event went over the same connection before."""


def kept(name: str, step: Script, ends: Result, **more: object) -> Row:
    """One attempt, acknowledged."""
    return replace(Row(name, [step], ends, tries=[ends.status if isinstance(ends, Ack) else 0]), **more)  # type: ignore[arg-type]


def refused(status: int, *headers: tuple[str, str]) -> Row:
    """One attempt, refused for good."""
    return Row(str(status), [answer(status, headers)], Nack(status=status, reason=ANY), tries=[status])


def refused_thrice(
    status: int, *headers: tuple[str, str], after: float | None = None, waits: Sequence[float] = BACKOFF, name: str = ""
) -> Row:
    """All attempts, refused each time."""
    ends = Nack(status=status, reason=ANY, retryable=True, retry_after=after)
    return Row(name or str(status), [answer(status, headers)], ends, tries=[status] * 3, waits=waits)


def retry_after(value: str, after: float | None, *waits: float) -> list[Row]:
    """The same for some of the statuses that are retried."""
    header = ("Retry-After", value)
    return [
        refused_thrice(s, header, after=after, waits=waits, name=f"{s}, Retry-After: {value}")
        for s in (409, 429, 500, 503)
    ]


def lost(name: str, step: Script, reason: Reason, *, maybe: bool = True, **more: object) -> Row:
    """All attempts, no answer to any."""
    ends = Undelivered(reason=reason, error=ANY, possibly_delivered=maybe)
    return replace(Row(name, [step], ends, tries=[reason] * 3, waits=BACKOFF), **more)  # type: ignore[arg-type]


NOWHERE = [
    lost("refused", SILENCE, "refused", maybe=False, place="refusing"),
    lost("unresolvable name", SILENCE, "dns", maybe=False, place="unresolvable"),
    lost("TLS failure", SILENCE, "tls", maybe=False, place="untrusted"),
    lost("connect time-out", SILENCE, "connect-timeout", maybe=False, place="backlog full"),
    lost("invalid URL", SILENCE, "invalid-url", maybe=False, place="no url", tries=["invalid-url"], waits=()),
    lost("URL without host", SILENCE, "invalid-url", maybe=False, place="no host", tries=["invalid-url"], waits=()),
    lost(
        "URL that no host has", SILENCE, "invalid-url", maybe=False, place="bad host", tries=["invalid-url"], waits=()
    ),
]

FLOOD = Step(data=b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 2000, piece=400, pause=0.01)
DRIP = replace(answer(200, STRUCTURED, JSON + b" " * 1500), piece=300, pause=0.05)
BROKEN_OFF = [
    lost("read time-out", SILENCE, "timeout", timeout=0.1),
    lost("flood of 1xx", FLOOD, "timeout", timeout=0.1),
    lost("closed before the answer", CLOSE, "reset"),
    lost("closed before the request is read", replace(CLOSE, at="connect"), "reset", arrived=0),
    lost("reset before the answer", RESET, "reset"),
    lost("reset in the status line", Step(data=b"HTTP/1.1 20", then="reset"), "reset"),
    lost("closed in the headers", Step(data=b"HTTP/1.1 200 OK\r\nContent-T", then="close"), "reset"),
    lost("no HTTP", Step(data=b"220 mail.example ESMTP\r\n\r\n", then="close"), "protocol"),
    lost(
        "broken chunks",
        Step(data=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", then="close"),
        "protocol",
    ),
    kept("half a body, send", half(200, STRUCTURED, JSON), Ack(status=200)),
    kept("slow body, send", DRIP, Ack(status=200), timeout=0.15),
    lost("half a body, request", half(200, STRUCTURED, JSON), "reset", call="request", tries=[200] * 3),
    lost("slow body, request", DRIP, "reset", call="request", tries=[200] * 3, timeout=0.15),
    Row("half a refusal", [half(400, (), b"no")], Nack(status=400, reason="no"), tries=[400]),
]

STALE = [
    Row(f"kept-alive connection {how}", [answer(204), step, answer(204)], Ack(), tries=["reset", 204], warm=True)
    for how, step in (("closed", CLOSE), ("reset", RESET), ("closed in the answer", Step(data=b"HTTP", then="close")))
]

STATUSES = [
    kept("200", answer(200), Ack(status=200)),
    kept("201", answer(201), Ack(status=201)),
    kept("202 with ce- headers", answer(202, BINARY, b"{}"), Ack(status=202), call="request"),
    kept("204", answer(204), Ack(status=204)),
    kept("299", answer(299), Ack(status=299)),
    kept("early hints, then 200", Step(data=FLOOD.data[:80] + answer(200).data), Ack(status=200)),
    *[refused(status, ("Location", "/elsewhere")) for status in (301, 302, 303, 304, 307, 308)],
    *[refused(status) for status in (101, 400, 401, 403, 405, 406, 410, 411, 412, 413, 414, 415, 417, 422, 431, 451)],
    *[refused_thrice(status) for status in (404, 408, 409, 425, 429, 500, 501, 502, 503, 504, 505, 599, 600, 999)],
    Row("404, 404, then 200", [answer(404), answer(404), answer(200)], Ack(status=200), [404, 404, 200], BACKOFF),
    Row("reset, 503, then 204", [RESET, answer(503), answer(204)], Ack(), ["reset", 503, 204], BACKOFF),
    Row(
        "silence, then 410",
        [SILENCE, answer(410)],
        Nack(status=410, reason=ANY),
        tries=["timeout", 410],
        waits=[0.2],
        timeout=0.1,
    ),
]

IN_5_SECONDS = ("Thu, 01 Jan 2026 00:00:05 GMT", "Thursday, 01-Jan-26 00:00:05 GMT", "Thu Jan  1 00:00:05 2026")
PAST = ("Fri, 31 Dec 1999 23:59:59 GMT", "Friday, 31-Dec-99 23:59:59 GMT", "Fri Dec 31 23:59:59 1999")
INVALID = ("-5", "+5", "1.5", "1_0", "\u0663", "", "soon", "Thu, 41 Jan 2026 00:00:05 GMT", "2026-01-01T00:00:05Z")
RETRY_AFTERS = [
    *retry_after("5", 5.0, 5.0, 5.0),
    *retry_after("0", 0.0, *BACKOFF),
    *[row for date in IN_5_SECONDS for row in retry_after(date, 0.0, 5.0, 0.4)],  # the second time it is the present
    *[row for date in PAST for row in retry_after(date, 0.0, *BACKOFF)],
    *retry_after("99999999999999999999", 1e9, 20.0, 20.0),
    *retry_after("Fri, 01 Jan 2100 00:00:00 GMT", ANY, 20.0, 20.0),
    *[row for value in INVALID for row in retry_after(value, None, *BACKOFF)],
    refused_thrice(429, ("Retry-After", "5"), ("Retry-After", "6"), name="429, two values"),
    refused_thrice(
        429, ("Retry-After", "5"), ("Retry-After", "5"), after=5.0, waits=[5, 5], name="429, one value twice"
    ),
]

GZIP = ("Content-Encoding", "gzip")
REPLIES = [
    kept(f"{name} reply to {call}", step, Ack(status=200, reply=REPLY), call=call)
    for call in ("send", "request")
    for name, step in (
        ("structured", answer(200, STRUCTURED, JSON)),
        ("chunked", chunked(200, STRUCTURED, JSON[:20], JSON[20:])),
        ("binary", answer(200, [*BINARY, ("ce-specversion", "1.0"), ("ce-time", str(REPLY["time"]))], b'{"ok":true}')),
    )
] + [
    kept(f"{name}, {call}", step, Ack(status=200, reply_error=error), call=call)
    for call in ("send", "request")
    for name, step, error in (
        ("text", answer(200, [("Content-Type", "text/plain")], b"thanks"), None),
        (
            "event without id",
            answer(200, STRUCTURED, BAD_JSON),
            "the reply is no valid event: id: is required (for example a UUID)",
        ),
        ("event that is no JSON", answer(200, STRUCTURED, b"{"), ANY),
        ("binary event without specversion", answer(200, BINARY, b"{}"), ANY),
        ("batch", answer(200, [("Content-Type", "application/cloudevents-batch+json")], b"[" + JSON + b"]"), ANY),
        ("event in another format", answer(200, [("Content-Type", "application/cloudevents+avro")], b"x"), ANY),
        ("too large", answer(200, STRUCTURED, JSON + b" " * MAX_REPLY), "the answer is too large"),
        ("too large, in pieces", chunked(200, STRUCTURED, *[b" " * 500] * 9), "the answer is too large"),
        ("gzip bomb", answer(200, [*STRUCTURED, GZIP], zeros(50)), "the answer is too large"),
        ("corrupt gzip", answer(200, [*STRUCTURED, GZIP], b"x" * 99), "the answer's Content-Encoding is corrupt"),
    )
]

ROWS = [*NOWHERE, *BROKEN_OFF, *STALE, *STATUSES, *RETRY_AFTERS, *REPLIES]


@contextlib.asynccontextmanager
async def destination(row: Row) -> AsyncIterator[tuple[str, list[Request]]]:
    async with contextlib.AsyncExitStack() as stack:
        if row.place == "backlog full":
            yield stack.enter_context(full_backlog()), []
        elif row.place == "refusing":
            yield f"http://127.0.0.1:{unused_port()}/", []
        elif row.place in URLS:
            yield URLS[row.place], []
        else:
            tls = Certificates().server if row.place == "untrusted" else None
            peer = await stack.enter_async_context(Peer(*row.script, tls=tls))
            yield peer.url, peer.requests


def bare(result: Result) -> Result:
    return replace(result, attempts=(), elapsed=0.0)


def only(values: Iterable[object]) -> object:
    (value,) = set(values)
    return value


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.name}" for row in ROWS])
async def test_the_result_tells_what_happened(row: Row, clock: ManualClock) -> None:
    """K-C1, K-C3; RT-01, RT-02, RT-03, RT-04, RT-05, RT-06, RT-09, RT-10; RR-01, RR-09, RR-15; WH-03.

    Hostile answers: 18.1-a, 18.1-b, 18.1-c, 18.1-d, 18.1-e, 18.1-f, 18.1-g, 18.1-h, 18.1-i, 18.1-l.
    """
    async with (
        destination(row) as (url, requests),
        Sender(url, retry=POLICY, clock=clock, timeout=row.timeout, connect_timeout=0.1, max_reply=MAX_REPLY) as sender,
    ):
        if row.warm:
            assert await sender.send(Event(type="com.example.warm", source="/orders"))
            requests.clear()
        result = await (sender.send if row.call == "send" else sender.request)(EVENT)

    assert bare(result) == row.ends
    assert [result.is_ack, result.is_nack, result.is_undelivered].count(True) == 1
    assert bool(result) is result.is_ack

    assert [attempt.status or attempt.error for attempt in result.attempts] == [*row.tries]
    assert [attempt.number for attempt in result.attempts] == ([1, 1] if row.warm else [*range(1, len(row.tries) + 1)])
    assert [attempt.wait for attempt in result.attempts] == pytest.approx([0.0, *row.waits] + [0.0] * row.warm)
    assert clock.waits == pytest.approx([*row.waits])
    assert result.elapsed == pytest.approx(sum(row.waits))

    came = len(row.tries) if row.arrived is None else row.arrived
    assert len(requests) == (came if row.place == "peer" else 0)
    if requests:
        assert only((request["ce-id"], request["ce-source"]) for request in requests) == ("o-1", "/orders")
        assert only(request.body for request in requests) == b'{"id":1}'
        assert only(tuple(h for h in request.headers if h[0] != "Host") for request in requests)
        assert only((request.method, request.target) for request in requests) == ("POST", "/in")
        assert all(request.values("Prefer") == (["reply"] if row.call == "request" else []) for request in requests)


async def test_a_bomb_is_not_inflated() -> None:
    """RR-15, 18.1-e: what is read of an answer stays near `max_reply`, whatever it inflates to."""
    import tracemalloc

    bomb = zeros(50)
    async with Peer(answer(200, [*STRUCTURED, GZIP], bomb)) as peer, Sender(peer.url, max_reply=MAX_REPLY) as sender:
        tracemalloc.start()
        try:
            result = await sender.request(EVENT)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert isinstance(result, Ack)
    assert peak < 10 * 2**20


async def test_the_rest_of_an_answer_that_is_too_large_is_not_waited_for() -> None:
    endless = replace(answer(200, STRUCTURED, b" " * 2 * MAX_REPLY, length=10**9), then="hang")
    async with Peer(endless, answer(204)) as peer, Sender(peer.url, max_reply=MAX_REPLY) as sender:
        assert await sender.send(EVENT) == Ack(
            status=200, reply_error="the answer is too large", attempts=ANY, elapsed=ANY
        )
        assert await sender.send(EVENT)
        assert peer.connections == 2
