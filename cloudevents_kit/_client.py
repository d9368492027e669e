"""One HTTP exchange through aiohttp: what was answered, or exactly what went wrong and whether bytes had left.

Knows nothing of events and retries. Redirects are never followed.
"""

from __future__ import annotations

import ssl as tls
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import aiohttp
from yarl import URL

from cloudevents_kit._deadline import Deadlines
from cloudevents_kit._result import Reason, Undelivered

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from aiohttp.abc import AbstractStreamWriter

_NO_AUTO_HEADERS = frozenset({"Content-Type"})


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    cut: Literal["", "peer", "limit"]
    """Who cut the body off, if it is not complete."""

    def values(self, name: bytes) -> list[str]:
        """Return the values of every header ``name`` (lower case)."""
        return [value.decode("latin-1") for field, value in self.headers if field.lower() == name]

    @property
    def content_type(self) -> str:
        """The Content-Type, or an empty text."""
        return next(iter(self.values(b"content-type")), "")


STALE = Undelivered(reason="reset", error="the kept-alive connection was closed", possibly_delivered=True)


class _Body(aiohttp.Payload):
    """Request bytes that remember whether, and over which connection, they began to leave."""

    began = False
    transport: asyncio.Transport | None = None

    def __init__(self, value: bytes) -> None:
        super().__init__(value)
        self._bytes = value

    @property
    def size(self) -> int:
        return len(self._bytes)

    @property
    def autoclose(self) -> bool:
        return True

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._bytes.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        self.began = True
        self.transport = getattr(writer, "transport", None)
        await writer.write(self._bytes)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:  # noqa: ARG002
        await self.write(writer)


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
        self._max_reply = max_reply
        self._concurrency = concurrency
        self._session = session
        self._owned = session is None
        self._deadlines = Deadlines(timeout)
        self._warm: set[Any] = set()
        self._options: dict[str, Any] = {
            "allow_redirects": False,
            "timeout": aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout),
        }
        if ssl is not None:
            self._options["ssl"] = ssl
        if session is not None:
            self._options["skip_auto_headers"] = _NO_AUTO_HEADERS

    async def open(self) -> None:
        """Open the pool, unless the session is the caller's."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._concurrency),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=_NO_AUTO_HEADERS,
            )

    async def close(self) -> None:
        """Close the pool, unless the session is the caller's."""
        self._deadlines.close()
        self._warm.clear()
        session, self._session = self._session, self._session if not self._owned else None
        if self._owned and session is not None:
            await session.close()

    @property
    def is_open(self) -> bool:
        """Tell whether `post` can be called."""
        return self._session is not None

    async def post(self, headers: Mapping[str, str], body: bytes, *, fresh: bool = False) -> Reply | Undelivered:
        """Send one request; return the answer, or why there is none.

        `STALE` says that the peer had closed a kept-alive connection that was used once more: repeat the request at
        once, with ``fresh``, over another one.
        """
        if self._url is None:
            return Undelivered(reason="invalid-url", error="the URL must be http:// or https:// and name a host")
        if self._session is None:
            return Undelivered(reason="closed", error="the sender is closed")
        payload = _Body(body)
        try:
            with self._deadlines.start():
                async with self._session.post(self._url, data=payload, headers=headers, **self._options) as response:
                    content, cut = await _read(response, self._max_reply)
                    self._remember(payload.transport)
                    return Reply(response.status, response.raw_headers, content, cut)
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            if not fresh and payload.transport in self._warm and isinstance(error, _BROKEN):
                self._warm.discard(payload.transport)
                return STALE
            return _diagnose(error, began=payload.began, closed=self._session.closed)

    def _remember(self, transport: Any) -> None:
        """Note that ``transport`` has carried an answer: should it break before the next one, it was stale."""
        if transport not in self._warm:
            if len(self._warm) > 2 * self._concurrency:
                self._warm = {one for one in self._warm if not one.is_closing()}
            self._warm.add(transport)


_BROKEN = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError)


def _parse(url: str) -> URL | None:
    if not isinstance(url, str | URL):
        raise TypeError(f"url: must be a str, not {type(url).__name__}")
    try:
        parsed = URL(url)
    except ValueError:
        return None
    return parsed if parsed.scheme in {"http", "https"} and parsed.host else None


async def _read(response: aiohttp.ClientResponse, limit: int) -> tuple[bytes, Literal["", "peer", "limit"]]:
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
    except (aiohttp.ClientError, OSError):
        return b"".join(chunks), "peer"
    return b"".join(chunks), ""


def _diagnose(error: Exception, *, began: bool, closed: bool) -> Undelivered:
    reason, text = _classify(error, began=began, closed=closed)
    return Undelivered(reason=reason, error=text, possibly_delivered=began)


def _classify(error: Exception, *, began: bool, closed: bool) -> tuple[Reason, str]:
    if isinstance(error, aiohttp.InvalidURL):
        return "invalid-url", "the URL is not valid"
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
    if isinstance(error, RuntimeError):
        if not closed:
            raise error
        return "closed", "the session is closed"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionError | aiohttp.ClientOSError):
        return "reset", "the connection was closed before the answer"
    return "network", _short(error)


def _short(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or type(error).__name__)[:200]
