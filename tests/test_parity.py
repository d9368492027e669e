"""The aiohttp receiver and the ASGI application give the same answer to the same request.

Requests are made up by Hypothesis: valid ones, nearly valid ones and hostile ones, as far as they are HTTP; what is
not is refused by the HTTP server before either of them sees it. The aiohttp receiver gets them over a socket, the
ASGI application as a server would hand them on.
"""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import hypothesis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudevents_kit import ACCEPTED, Event, Outcome, Receiver, Reject, Retry
from cloudevents_kit.asgi import AsgiReceiver, asgi_app
from tests.support import asgi, raw
from tests.support.raw import RawConnection

PATH = "/in"
LIMITS: dict[str, Any] = {"path": PATH, "max_body": 1500, "max_batch": 3, "body_timeout": 0.2}


# ------------------------------------------------------------------------------------------------- the receivers


@dataclass
class Order:
    """Data that some events have."""

    number: int


async def handler(event: Event) -> Outcome:
    """End in every way, as the event's type says."""
    match event.type.rpartition(".")[2]:
        case "reply":
            return event.reply(type="t", source="/answerer", id="2", time=None, data={"to": event.id})
        case "text":
            return Event(
                type="t", source="/s", id="2", time=None, subject="é %", data="to", datacontenttype="text/plain"
            )
        case "accepted":
            return ACCEPTED
        case "reject":
            raise Reject("no such order", 410)
        case "retry":
            raise Retry(after=7)
        case "busy":
            raise Retry(status=429)
        case "crash":
            raise RuntimeError("/etc/secret")
        case "time":
            raise TimeoutError
        case "misfit":
            event.as_type(Order)
        case "data":
            assert event.data is not event
        case "nonsense":
            return "OK"  # type: ignore[return-value]
    return None


ENDS = ("none", "reply", "text", "accepted", "reject", "retry", "busy", "crash", "time", "misfit", "data", "nonsense")


@dataclass(frozen=True)
class Request:
    """One request, as HTTP has it."""

    method: str
    target: str
    headers: tuple[tuple[str, bytes], ...]
    pieces: tuple[bytes, ...]
    chunked: bool

    @property
    def body(self) -> bytes:
        """The body in one piece."""
        return b"".join(self.pieces)

    def wire(self) -> bytes:
        """Write the request."""
        lines = [name.encode() + b": " + value for name, value in self.headers]
        if not self.chunked:
            return raw.request(*lines, method=self.method, path=self.target, body=self.body)
        chunks = [piece for piece in self.pieces if piece] + [b""]
        head = raw.request(*lines, "Transfer-Encoding: chunked", method=self.method, path=self.target, length=False)
        return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)

    def scope(self) -> asgi.Message:
        """Describe the request as an ASGI server does."""
        path, _, query = self.target.partition("?")
        headers = [(b"host", b"localhost"), *((name.lower().encode(), value.strip()) for name, value in self.headers)]
        headers.append(
            (b"transfer-encoding", b"chunked") if self.chunked else (b"content-length", b"%d" % len(self.body))
        )
        return asgi.http(
            method=self.method,
            path=unquote(path),
            raw_path=path.encode(),
            query_string=query.encode(),
            headers=headers,
        )


Answer = tuple[int, dict[str, str], bytes]


def comparable(status: int, headers: tuple[tuple[str, str], ...], body: bytes, method: str) -> Answer:
    """Leave out what is the server's own business, and the body that only a server keeps from HEAD."""
    kept = {name: value for name, value in headers if name not in {"date", "server"}}
    assert len(kept) == len([name for name, _ in headers if name not in {"date", "server"}]), "a header is repeated"
    return status, kept, b"" if method == "HEAD" else body


class Both:
    """Both receivers, and a connection to the one that has a socket."""

    def __init__(self, port: int, app: AsgiReceiver) -> None:
        self._port = port
        self._app = app
        self._connection: RawConnection | None = None

    async def close(self) -> None:
        """Leave the connection."""
        if self._connection is not None:
            await self._connection.__aexit__()
            self._connection = None

    async def aiohttp(self, sent: Request) -> Answer:
        """Ask the aiohttp receiver."""
        if self._connection is None:
            self._connection = await RawConnection(self._port).__aenter__()
        await self._connection.send(sent.wire())
        answer = await self._connection.answer(bodiless=sent.method == "HEAD")
        assert answer is not None
        if answer.header("connection") == "close" or not answer.text.startswith(b"HTTP/1.1"):
            await self.close()
        return comparable(answer.status, answer.headers, answer.body, sent.method)

    async def asgi(self, sent: Request) -> Answer:
        """Ask the ASGI application."""
        answer = await asgi.ask(self._app, sent.scope(), asgi.pieces(*(sent.pieces or (b"",))))
        return comparable(answer.status, answer.headers, answer.body, sent.method)


@asynccontextmanager
async def both() -> AsyncIterator[Both]:
    async with Receiver(handler, port=0, **LIMITS) as receiver:
        asked = Both(receiver.port, asgi_app(handler, **LIMITS))
        try:
            yield asked
        finally:
            await asked.close()


# -------------------------------------------------------------------------------------------------- the requests

names = st.sampled_from(["id", "source", "type", "specversion", "subject", "time", "dataschema", "x", "partitionkey"])
types = st.sampled_from(ENDS).map(lambda end: f"com.example.{end}")
odd_values = st.one_of(
    st.sampled_from(
        [
            b"",
            b"1.0",
            b"0.3",
            b"/s",
            b"1",
            b"2018-04-05T17:31:00Z",
            b"%C3%A9",
            b"%FF",
            b'"a b"',
            b'"a',
            b"\xc3\xa9",
            b"\xff",
        ]
    ),
    st.binary(max_size=12).map(lambda value: bytes(byte for byte in value if 0x20 <= byte != 0x7F).strip()),
)
extra_headers = st.one_of(
    st.tuples(names.map(lambda name: f"ce-{name}"), odd_values),
    st.tuples(st.sampled_from(["Ce-My_Ext", "ce-datacontenttype", "ce-", "CE-X", "ce-data", "X-Other"]), odd_values),
    st.tuples(
        st.just("Content-Encoding"),
        st.sampled_from([b"gzip", b"GZIP", b"deflate", b"identity", b"br", b"gzip, gzip", b""]),
    ),
    st.tuples(
        st.just("Content-Type"),
        st.sampled_from(
            [
                b"application/json", b"text/plain; charset=latin-1", b"garbage", b"", b"application/cloudevents",
                b"application/cloudevents+avro", b"APPLICATION/CloudEvents+JSON; charset=utf-8",
                b"application/cloudevents+json; charset=utf-16", b"application/cloudevents-batch+json ; x=y",
                b"application/cloudevents+json, text/plain", b"\xff",
            ]
        ),
    ),
)  # fmt: skip


def member_values() -> st.SearchStrategy[Any]:
    return st.one_of(
        st.sampled_from(["", "1.0", "1", None, 5, 1.5, True, 2**31, "é", "\x00", [1], {}, "2018-04-05T17:31:00Z"]),
        st.text(max_size=5),
    )


structured_events = st.builds(
    lambda type_, changes, data: {"specversion": "1.0", "id": "1", "source": "/s", "type": type_, **changes, **data},
    types,
    st.one_of(st.just({}), st.dictionaries(st.one_of(names, st.text(max_size=4)), member_values(), max_size=2)),
    st.one_of(
        st.just({}),
        st.sampled_from([{"data": {"number": 1}}, {"data": {"number": "x"}}, {"data": None}, {"data_base64": "!"}]),
        st.sampled_from([{"data_base64": "YWI="}, {"data": 1, "datacontenttype": "text/plain"}, {"data": "x" * 1600}]),
    ),
)
binary_bodies = st.one_of(
    st.sampled_from([b"", b'{"number": 1}', b'{"number": "x"}', b"{", b"null", b"x" * 1500, b"x" * 1501]),
    st.binary(max_size=40),
)


def drawn_content(draw: st.DrawFn) -> tuple[list[tuple[str, bytes]], bytes]:
    """Return headers and the body: an event in one of the modes, or something else."""
    match draw(st.sampled_from(["binary", "binary", "structured", "structured", "batch", "other"])):
        case "binary":
            end = draw(types).encode()
            head = [("ce-specversion", b"1.0"), ("ce-id", b"1"), ("ce-source", b"/s"), ("Ce-Type", end)]
            if draw(st.booleans()):
                head.append(("Content-Type", b"application/json"))
            return head, draw(binary_bodies)
        case "structured":
            event = json.dumps(draw(structured_events)).encode()
            broken = draw(st.sampled_from([event, event, event, event[:-1], event + b"x", b"[" + event + b"]"]))
            return [("Content-Type", b"application/cloudevents+json")], broken
        case "batch":
            events = json.dumps(draw(st.lists(structured_events, max_size=4))).encode()
            return [("content-type", b"application/cloudevents-batch+json")], events
        case _:
            return [], draw(binary_bodies)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    headers, body = drawn_content(draw)
    if draw(st.integers(0, 3)) == 0 and headers:
        del headers[draw(st.integers(0, len(headers) - 1))]
    if draw(st.integers(0, 2)) == 0:
        headers += draw(st.lists(extra_headers, max_size=3))
    if draw(st.integers(0, 5)) == 0:
        coding = draw(st.sampled_from([b"gzip", b"deflate"]))
        headers.append(("Content-Encoding", coding))
        body = gzip.compress(body) if coding == b"gzip" else zlib.compress(body)
        body = draw(st.sampled_from([body, body, body[:-4], body + b"x", b""]))
    if draw(st.booleans()):
        headers = draw(st.permutations(headers))
    chunked = draw(st.integers(0, 3)) == 0
    at = draw(st.integers(0, len(body))) if chunked else 0
    return Request(
        method=draw(st.sampled_from(["POST"] * 12 + ["GET", "HEAD", "PUT", "OPTIONS", "DELETE"])),
        target=draw(
            st.sampled_from(
                [PATH] * 12
                + [
                    "/in?token=1&x=%20",
                    "/%69n",
                    "/",
                    "/in/",
                    "/IN",
                    "//in",
                    "/healthz",
                    "/readyz",
                    "/readyz?x",
                    "/%C3%A9",
                ]
            )
        ),
        headers=tuple(headers),
        pieces=(body[:at], body[at:]),
        chunked=chunked,
    )


#: Headers that an HTTP server refuses to see twice, in words of its own.
SINGLE = {"content-type"}


def refused_by_the_server(sent: Request) -> bool:
    found = [name.lower() for name, _ in sent.headers]
    return any(found.count(name) > 1 for name in SINGLE)


async def compare(asked: Both, sent: Request) -> Answer:
    first, second = await asked.aiohttp(sent), await asked.asgi(sent)
    if refused_by_the_server(sent):
        assert first[0] == 400
        await asked.close()
        return second
    if first[0] == 413:  # whether a part is unread, so that the connection has to go, is a matter of time
        for _, headers, _ in (first, second):
            headers.pop("connection", None)
    assert first == second
    return second


def test_whatever_is_sent_both_answer_the_same() -> None:
    statuses: set[int] = set()

    async def search() -> None:
        loop = asyncio.get_running_loop()
        async with both() as asked:

            @settings(max_examples=1000, suppress_health_check=list(hypothesis.HealthCheck))
            @given(requests())
            def same(sent: Request) -> None:
                answer = asyncio.run_coroutine_threadsafe(compare(asked, sent), loop).result(10)
                statuses.add(answer[0])

            await asyncio.to_thread(same)

    asyncio.run(search())
    assert statuses >= {200, 204, 400, 404, 405, 413, 415, 422, 500}  # what a thousand requests cannot miss


@pytest.mark.parametrize("mode", ["binary", "structured", "batch"])
@pytest.mark.parametrize("end", ENDS)
async def test_every_end_of_a_handler_is_answered_the_same(end: str, mode: str) -> None:
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": f"com.example.{end}", "data": {"number": "x"}}
    match mode:
        case "binary":
            headers = {f"ce-{name}": value for name, value in event.items() if name != "data"}
            headers |= {"Content-Type": "application/json"}
            body = json.dumps(event["data"])
        case "structured":
            headers, body = {"Content-Type": "application/cloudevents+json"}, json.dumps(event)
        case _:
            headers, body = {"Content-Type": "application/cloudevents-batch+json"}, json.dumps([event, event])
    sent = Request(
        method="POST",
        target=PATH,
        headers=tuple((name, str(value).encode()) for name, value in headers.items()),
        pieces=(body.encode(),),
        chunked=False,
    )
    async with both() as asked:
        status, _, _ = await compare(asked, sent)
    wanted = {"none": 204, "data": 204, "reply": 200, "text": 200, "accepted": 202, "reject": 410, "misfit": 422}
    wanted |= {"retry": 503, "time": 503, "busy": 429}
    assert status == wanted.get(end, 500)
