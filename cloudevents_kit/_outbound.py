"""One destination as a sender sees it, and one call to it through all its attempts.

Between the retry engine above and the HTTP client below: slots, pauses, fresh headers, compression, and the reading
of answers. Knows nothing of how events are chosen or batched.
"""

from __future__ import annotations

import asyncio
import gzip
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from cloudevents_kit import _answer
from cloudevents_kit._client import STALE, Client, Reply
from cloudevents_kit._contract import log
from cloudevents_kit._errors import CloudEventsError
from cloudevents_kit._result import Ack, Attempt, Nack, Result, Undelivered

if TYPE_CHECKING:
    from cloudevents_kit._clock import Clock
    from cloudevents_kit._http import Message
    from cloudevents_kit._retry import RetryPolicy

HeaderSource = Mapping[str, str] | Callable[[], Awaitable[Mapping[str, str]] | Mapping[str, str]]
_OWN_HEADERS = frozenset(
    {"content-type", "content-length", "content-encoding", "transfer-encoding", "host", "prefer", "expect"}
)
_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_forbidden = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]").search
_UNREADABLE = {"limit": "the answer is too large", "coding": "the answer's Content-Encoding is corrupt"}
_NO_SLOT = Undelivered(reason="overload", error="no slot was free before the deadline")
_OVERLOADED = frozenset({429, 503})  # with these, Retry-After speaks for the destination, else for the event alone
_TAKEN = {status: Ack(status=status) for status in range(200, 300)}
_GONE = Undelivered(reason="gone", error="the destination answered 410 Gone; nothing is sent to it any more")


def check_headers(headers: HeaderSource | None) -> HeaderSource:
    """Return ``headers`` if they may be added to a request; raise TypeError or ValueError naming the header."""
    if headers is None:
        return {}
    if callable(headers):
        return headers
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers: must be a mapping or a function, not {type(headers).__name__}")
    for name, value in headers.items():
        if not (type(name) is type(value) is str):
            raise TypeError("headers: names and values must be str")
        if name.lower() in _OWN_HEADERS or name.lower().startswith("ce-"):
            raise ValueError(f"headers: {name} is set by the sender itself")
        if not _token(name):
            raise ValueError("headers: a name may hold letters, digits and !#$%&'*+.^_`|~- only")
        if _forbidden(value):
            raise ValueError(f"headers: the value of {name} holds a control character")
    return dict(headers)


class _UntilClosed:
    """The clock of a sender: its sleep ends when the sender is closed."""

    def __init__(self, clock: Clock, client: Client) -> None:
        self.monotonic = clock.monotonic
        self.now = clock.now
        self._sleep = clock.sleep
        self._client = client

    async def sleep(self, seconds: float) -> None:
        await self._client.pause(self._sleep(seconds))


class Destination:
    """What all calls to one URL share."""

    def __init__(
        self,
        client: Client,
        retry: RetryPolicy,
        clock: Clock,
        *,
        headers: HeaderSource | None,
        gzip_over: int | None,
        concurrency: int,
    ) -> None:
        """Nothing is paused yet."""
        self.client = client
        self.retry = retry
        self.clock = _UntilClosed(clock, client)
        self.headers = check_headers(headers)
        self.gzip_over = gzip_over
        self.slots = asyncio.Semaphore(concurrency)
        self.paused_until: float | None = None
        self.gone = False

    def heed(self, nack: Nack) -> None:
        """Let a refusal that speaks for the whole destination hold back every other call (webhooks, 2.2)."""
        if nack.status == 410:
            self.gone = True
        if nack.retry_after is not None and nack.status in _OVERLOADED:
            until = self.clock.monotonic() + min(nack.retry_after, self.retry.max_retry_after)
            self.paused_until = until if self.paused_until is None else max(self.paused_until, until)


class Call:
    """One event or batch on its way; collects its attempts."""

    __slots__ = (
        "_destination",
        "_headers",
        "_heeds",
        "_maybe",
        "_wants_reply",
        "attempts",
        "began",
        "message",
        "reply",
    )

    def __init__(
        self,
        destination: Destination,
        message: Message,
        headers: HeaderSource | None,
        *,
        wants_reply: bool = False,
        heeds: bool = True,
    ) -> None:
        """Begin now; without ``heeds`` the caller decides whether a refusal speaks for the whole destination."""
        self._destination = destination
        self._headers = None if headers is None else check_headers(headers)
        self._wants_reply = wants_reply
        self._heeds = heeds
        self._maybe = False  # whether an attempt so far may have delivered the event, whatever the last one says
        self.message = message
        self.reply: Reply | None = None  # the latest answer
        self.attempts: tuple[Attempt, ...] = ()
        self.began = destination.clock.monotonic()

    def finish(self, result: Result) -> Result:
        """Return ``result`` with its attempts and the time since the call began."""
        elapsed = self._destination.clock.monotonic() - self.began
        if type(result) is Ack:
            return Ack(result.status, result.reply, result.reply_error, self.attempts, elapsed)
        if isinstance(result, Undelivered):
            result = replace(result, possibly_delivered=self._maybe)
        return replace(result, attempts=self.attempts, elapsed=elapsed)

    async def attempt(self, number: int, wait: float) -> Result:
        """Send once: wait out a pause, take a slot, post, read the answer."""
        slots = self._destination.slots
        if slots.locked():
            return await self._queue(number, wait)
        await slots.acquire()
        return await self._attempt(number, wait, late=number > 1)

    async def _queue(self, number: int, wait: float) -> Result:
        """Wait for a slot, but not past the deadline."""
        left = self._time_left()
        try:
            async with asyncio.timeout(None if left == math.inf else max(0.0, left)):
                await self._destination.slots.acquire()
        except TimeoutError:
            return _NO_SLOT
        return await self._attempt(number, wait, late=True)

    async def _attempt(self, number: int, wait: float, *, late: bool) -> Result:
        """Use the slot that was taken, and release it; ``late``: time has passed since the call began."""
        destination = self._destination
        self.reply = None
        try:
            if destination.paused_until is not None:
                waited = await self._wait_out()
                if isinstance(waited, Undelivered):
                    return waited
                wait += waited
            if destination.gone:
                return _GONE
            late = late or wait > 0
            if late and self._time_left() <= 0:
                return _NO_SLOT
            found = await self._post(number, wait, late=late)
        finally:
            destination.slots.release()
        if isinstance(found, Undelivered):
            return found
        self.reply = found
        result = self._read(found)
        self._maybe = self._maybe or isinstance(result, Undelivered)
        if isinstance(result, Nack) and self._heeds:
            destination.heed(result)
        return result

    async def _wait_out(self) -> float | Undelivered:
        """Wait until the destination takes requests again; return the seconds that took, or why it is too late."""
        destination = self._destination
        waited = 0.0
        while destination.paused_until is not None and destination.client.is_open and not destination.gone:
            pause = destination.paused_until - destination.clock.monotonic()
            if pause <= 0:
                break
            if pause > self._time_left():
                return Undelivered(reason="overload", error=f"the destination asked for {pause:.0f} s of silence")
            await destination.clock.sleep(pause)
            waited += pause
        return waited

    def _time_left(self) -> float:
        """Return the seconds until the deadline over all attempts."""
        deadline = self._destination.retry.deadline
        return math.inf if deadline is None else deadline - (self._destination.clock.monotonic() - self.began)

    async def _post(self, number: int, wait: float, *, late: bool) -> Reply | Undelivered:
        message = self.message
        clock = self._destination.clock
        started = clock.monotonic()
        try:
            extended = self._headers or self._destination.headers or self._wants_reply
            headers = message.headers
            if extended:
                asked = callable(self._headers) or callable(self._destination.headers)
                late = late or asked
                added = self._all_headers(message)
                headers = await (self._destination.client.prepare(added, self._time_left()) if asked else added)
        except Exception:  # noqa: BLE001 - the caller's function; a sink never raises for a delivery problem
            log.exception("the headers function failed")
            return self._record(
                Undelivered(reason="headers", error="the headers function failed"), number, wait, started
            )
        body = message.body
        if self._destination.gzip_over is not None and len(body) > self._destination.gzip_over:
            body = gzip.compress(body, 6, mtime=0)
            headers = {**headers, "Content-Encoding": "gzip"}
        within = max(0.0, self._time_left()) if late else None
        found = await self._destination.client.post(headers, body, within=within)
        self._record(found, number, wait, started)
        again = found is STALE and self._destination.retry.retry_possibly_delivered
        return await self._post_again(number, headers, body, within) if again else found

    async def _post_again(
        self, number: int, headers: Mapping[str, str], body: bytes, within: float | None
    ) -> Reply | Undelivered:
        """Post over another connection, at once: that one which was kept alive had been closed is nobody's fault."""
        started = self._destination.clock.monotonic()
        found = await self._destination.client.post(headers, body, fresh=True, within=within)
        return self._record(found, number, 0.0, started)

    def _record(self, found: Reply | Undelivered, number: int, wait: float, started: float) -> Reply | Undelivered:
        elapsed = self._destination.clock.monotonic() - started
        if isinstance(found, Undelivered):
            self._maybe = self._maybe or found.possibly_delivered
            attempt = Attempt(number, None, found.reason, wait, elapsed)
        else:
            attempt = Attempt(number, found.status, None, wait, elapsed)
        self.attempts += (attempt,)
        return found

    async def _all_headers(self, message: Message) -> dict[str, str]:
        headers: dict[str, str] = {}
        for source in (self._destination.headers, self._headers):
            if source:
                found: Any = source() if callable(source) else source
                headers.update(check_headers(await found if isawaitable(found) else found))  # type: ignore[arg-type]
        if self._wants_reply:
            headers["Prefer"] = "reply"
        headers.update(message.headers)
        return headers

    def _read(self, reply: Reply) -> Result:
        """Turn an answer into a result without its attempts."""
        status = reply.status
        if 200 <= status < 300:
            empty = not (reply.body or reply.cut or self._wants_reply)
            if empty and (status == 204 or not reply.has_event_headers):
                return _TAKEN[status]
            return self._read_ack(reply)
        retryable = self._destination.retry.retryable(status)
        after = None
        if retryable or status in _OVERLOADED:
            after = _answer.parse_retry_after(reply.values(b"retry-after"), self._destination.clock.now())
        reason = _answer.parse_reason(status, reply.content_type, reply.body)
        return Nack(status=status, reason=reason, retryable=retryable, retry_after=after)

    def _read_ack(self, reply: Reply) -> Result:
        """Take the reply from a 2xx answer; 202 never has one, and an answer cut off may have had one."""
        if reply.status == 202:
            return Ack(status=202)
        if reply.cut:
            if reply.cut == "peer" and self._wants_reply:
                return Undelivered(reason="reset", error="the reply was cut off", possibly_delivered=True)
            return Ack(status=reply.status, reply_error=_UNREADABLE.get(reply.cut))
        try:
            return Ack(status=reply.status, reply=_answer.parse_reply(reply.headers, reply.body))
        except CloudEventsError as error:
            return Ack(status=reply.status, reply_error=f"the reply is no valid event: {error}")
