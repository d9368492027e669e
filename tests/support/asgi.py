"""An ASGI server without sockets: hands one connection to an application and keeps what that sends."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cloudevents_kit.asgi import AsgiReceiver

Message = dict[str, Any]

#: A binary event without data, as servers hand its headers on.
HEAD: tuple[tuple[bytes, bytes], ...] = (
    (b"ce-specversion", b"1.0"),
    (b"ce-id", b"1"),
    (b"ce-source", b"/tests"),
    (b"ce-type", b"com.example.tested"),
)


@dataclass(frozen=True, slots=True)
class AsgiAnswer:
    """An answer, whole."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the first header ``name``."""
        return next((value for field, value in self.headers if field == name), None)


def pieces(*bodies: bytes) -> list[Message]:
    """Return the messages of a body that comes in pieces."""
    last = len(bodies) - 1
    return [{"type": "http.request", "body": body, "more_body": at < last} for at, body in enumerate(bodies)]


async def exchange(app: AsgiReceiver, scope: Message, messages: Sequence[Message]) -> list[Message]:
    """Serve one connection: ``messages`` one after the other, then silence; return what the application sent."""
    left = list(messages)
    sent: list[Message] = []

    async def receive() -> Message:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def http(
    *, method: str = "POST", path: str = "/", headers: Sequence[tuple[bytes, bytes]] = HEAD, **more: Any
) -> Message:
    """Return the scope of a request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        **more,
    }


def read(sent: Sequence[Message]) -> AsgiAnswer:
    """Put the messages of one answer together."""
    start, *rest = sent
    assert start["type"] == "http.response.start"
    assert {message["type"] for message in rest} == {"http.response.body"}
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"])
    assert all(name == name.lower() for name, _ in headers)
    return AsgiAnswer(start["status"], headers, b"".join(message.get("body", b"") for message in rest))


async def ask(app: AsgiReceiver, scope: Message | None = None, messages: Sequence[Message] | None = None) -> AsgiAnswer:
    """Send one request, by default one binary event; there must be an answer."""
    return read(await exchange(app, scope or http(), pieces(b"") if messages is None else messages))
