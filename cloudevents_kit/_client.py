"""One HTTP exchange through aiohttp: what was answered, or exactly what went wrong and whether bytes had left.

Knows nothing of events and retries. Redirects are never followed.
"""

from __future__ import annotations

import asyncio
import ssl as tls
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import aiohttp
from aiohttp.hdrs import CONTENT_ENCODING
from aiohttp.http_exceptions import ContentEncodingError
from yarl import URL

from cloudevents_kit._arguments import check_kind
from cloudevents_kit._contract import log
from cloudevents_kit._deadline import Deadlines
from cloudevents_kit._result import Reason, Undelivered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from aiohttp.abc import AbstractStreamWriter

_NO_AUTO_HEADERS = frozenset({"Content-Type"})
_LONG = 10_000_000.0
_UNDONE = {"gzip", "deflate", "br", "zstd"}


#: "peer": it ended too early; "limit": it is too large; "coding": its Content-Encoding is corrupt.
Cut = Literal["", "peer", "limit", "coding"]


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    cut: Cut
    """Why the body is not complete, if it is not."""

    def values(self, name: bytes) -> list[str]:
        """Return the values of every header ``name`` (lower case)."""
        return [value.decode("latin-1") for field, value in self.headers if field.lower() == name]

    @property
    def has_event_headers(self) -> bool:
        """Tell whether a header holds an attribute of an event."""
        return any(name[:3].lower() == b"ce-" for name, _ in self.headers)

    @property
    def content_type(self) -> str:
        """The Content-Type, or an empty text."""
        return next(iter(self.values(b"content-type")), "")


STALE = Undelivered(reason="reset", error="the kept-alive connection was closed", possibly_delivered=True)


class _Body(aiohttp.BytesPayload):
    """Request bytes that remember whether, and over which connection, they began to leave."""

    began = False
    transport: asyncio.Transport | None = None

    def __init__(self, value: bytes) -> None:
        aiohttp.Payload.__init__(self, value)  # that of BytesPayload warns of large bodies
        self._size = len(value)

    async def write(self, writer: AbstractStreamWriter) -> None:
        self.began = True
        self.transport = getattr(writer, "transport", None)
        await writer.write(self._value)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:  # noqa: ARG002
        await self.write(writer)


def _decoded(answered: aiohttp.ClientResponse) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers without a Content-Encoding that aiohttp has undone."""
    headers = answered.raw_headers
    if answered.headers.get(CONTENT_ENCODING, "").lower() in _UNDONE:
        return tuple([(name, value) for name, value in headers if name.lower() != b"content-encoding"])
    return headers


class Client:
    """Posts to one URL, through its own pool or the caller's session."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        connect_timeout: float,
        concurrency: int,
        max_reply: int,
        ssl: tls.SSLContext | None,
        session: aiohttp.ClientSession | None,
    ) -> None:
        """Keep the settings; nothing is opened yet."""
        self._url: URL | None = _parse(url)
        if ssl is not None:
            check_kind("ssl", ssl, tls.SSLContext, "an SSLContext, for example ssl.create_default_context()")
        if session is not None:
            check_kind("session", session, aiohttp.ClientSession, "an aiohttp.ClientSession")
            _check_defaults(session)
        self._max_reply = max_reply
        self._concurrency = concurrency
        self._session = session
        self._given = session
        self._why_not_open = "the sender is not open; use it inside `async with`"
        self._deadlines = Deadlines(timeout)
        self._pauses = Deadlines(_LONG)  # they end by themselves, or by `close`
        self._warm: set[Any] = set()
        self._options: dict[str, Any] = {
            "allow_redirects": False,
            "raise_for_status": False,  # whatever the caller's session says
            "timeout": aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout),
        }
        if ssl is not None:
            self._options["ssl"] = ssl
        # Without data there is no content type, and aiohttp must not make one up.
        self._untyped = {**self._options, "skip_auto_headers": _NO_AUTO_HEADERS}

    async def open(self) -> None:
        """Open the pool, unless the session is the caller's."""
        if self._session is None:
            self._session = self._given or aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._concurrency),
                cookie_jar=aiohttp.DummyCookieJar(),
            )

    async def close(self) -> None:
        """End what is in flight, and close the pool unless the session is the caller's."""
        session, self._session = self._session, None
        self._why_not_open = "the sender is closed"
        for waits in (self._deadlines, self._pauses):
            waits.expire_all()
            waits.close()
        self._warm.clear()
        if session is not None and session is not self._given:
            await session.close()

    @property
    def is_open(self) -> bool:
        """Tell whether requests can be made."""
        return self._session is not None

    async def pause(self, sleep: Awaitable[None]) -> None:
        """Await ``sleep``, but not past `close`."""
        with suppress(TimeoutError), self._pauses:
            await sleep

    async def prepare(self, headers: Awaitable[dict[str, str]], within: float) -> dict[str, str]:
        """Await ``headers`` as long as a request may take, and not past `close`. Raises TimeoutError."""
        with self._deadlines:
            self._deadlines.shorten(within)
            found: dict[str, str] = await headers
            return found

    async def post(
        self, headers: Mapping[str, str], body: bytes, *, fresh: bool = False, within: float | None = None
    ) -> Reply | Undelivered:
        """Send one request; return the answer, or why there is none.

        `STALE` says that the peer had closed a kept-alive connection that was used once more: repeat the request at
        once, with ``fresh``, over another one. ``within`` limits the seconds further.
        """
        if self._url is None:
            return Undelivered(reason="invalid-url", error="url: must begin with http:// or https:// and name a host")
        session = self._session
        if session is None:
            return Undelivered(reason="closed", error=self._why_not_open)
        payload = _Body(body)
        answered: aiohttp.ClientResponse | None = None
        try:
            with self._deadlines:
                if within is not None:
                    self._deadlines.shorten(within)
                options = self._options if "Content-Type" in headers else self._untyped
                answered = await session.post(self._url, data=payload, headers=headers, **options)
                try:
                    content, cut = await _read(answered, self._max_reply)
                finally:
                    answered.release()  # back to the pool if it was read to its end, else closed
                self._remember(payload.transport)
                found = _decoded(answered) if content else answered.raw_headers
                return Reply(answered.status, found, content, cut)
        except Exception as error:  # noqa: BLE001 - resolvers and middlewares of the caller's session raise anything
            if answered is not None:  # the time was over before the body was; the status stands
                return Reply(answered.status, answered.raw_headers, b"", "peer")
            if session.closed or self._session is not session:
                return Undelivered(reason="closed", error="the sender was closed", possibly_delivered=payload.began)
            if not fresh and payload.transport in self._warm and isinstance(error, _BROKEN):
                self._warm.discard(payload.transport)
                return STALE
            reason, text = _classify(error, began=payload.began)
            return Undelivered(reason=reason, error=text, possibly_delivered=payload.began)

    def _remember(self, transport: Any) -> None:
        """Note that ``transport`` has carried an answer: should it break before the next one, it was stale."""
        if transport not in self._warm:
            if len(self._warm) > 2 * self._concurrency:
                self._warm = {one for one in self._warm if not one.is_closing()}
            self._warm.add(transport)


_BROKEN = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError)


def _check_defaults(session: aiohttp.ClientSession) -> None:
    """Raise ValueError if requests of ``session`` carry headers that belong to the event."""
    for name in session.headers:
        if name.lower() == "content-type" or name.lower().startswith("ce-"):
            raise ValueError(f"session: its default header {name} would change every event (leave it out)")


def _parse(url: str) -> URL | None:
    if not isinstance(url, str | URL):
        raise TypeError(f"url: must be a str, not {type(url).__name__}")
    try:
        parsed = URL(url)
        return parsed if parsed.scheme in {"http", "https"} and parsed.host else None
    except ValueError:
        return None


async def _read(response: aiohttp.ClientResponse, limit: int) -> tuple[bytes, Cut]:
    """Read the body, up to ``limit`` inflated bytes; an answer's status stands even if its body breaks off."""
    content = response.content
    if content.is_eof() and content.exception() is None:
        body = content.read_nowait(-1)
        return body[:limit], "limit" if len(body) > limit else ""
    chunks: list[bytes] = []
    size = 0
    try:
        while chunk := await content.readany():
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                return b"".join(chunks)[:limit], "limit"
    except (aiohttp.ClientError, OSError) as error:
        return b"".join(chunks), "coding" if isinstance(error.__cause__, ContentEncodingError) else "peer"
    return b"".join(chunks), ""


def _classify(error: Exception, *, began: bool) -> tuple[Reason, str]:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "dns", "the host name could not be resolved"
    if isinstance(error, aiohttp.ClientSSLError | aiohttp.ServerFingerprintMismatch | tls.SSLError):
        return "tls", f"the TLS handshake failed: {_short(error)}"
    if isinstance(error, TimeoutError):
        return ("timeout", "no answer in time") if began else ("connect-timeout", "no connection in time")
    if isinstance(error, aiohttp.ClientConnectorError):
        refused = isinstance(error.os_error, ConnectionRefusedError)
        return ("refused" if refused else "network"), _short(error.os_error)
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.ClientPayloadError):
        return "protocol", "the answer is not valid HTTP"
    if isinstance(error, ValueError):
        return "invalid-url", "no request can be made of this URL with these headers"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionError | aiohttp.ClientOSError):
        return "reset", "the connection was closed before the answer"
    if isinstance(error, aiohttp.ClientError | OSError):
        return "network", _short(error)
    log.error("sending failed", exc_info=error)
    return "unknown", f"sending failed: {_short(error)}"


def _short(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or type(error).__name__)[:200]
