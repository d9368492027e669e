"""The receiver without a server: decide whether to take a request, run the handler, say what to answer.

The aiohttp and the ASGI receiver are thin adapters around one `Inbound`, so that both give the same answers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from itertools import takewhile
from types import MappingProxyType
from typing import Any, Final

from cloudevents_kit import _answer, _endpoints, _http
from cloudevents_kit._answer import Answer
from cloudevents_kit._arguments import check_count, check_kind, check_methods, check_positive
from cloudevents_kit._contract import (
    DONE,
    Handler,
    Middleware,
    SyncHandler,
    as_handler,
    log,
    settle_each,
    wrap,
)
from cloudevents_kit._deadline import Deadlines
from cloudevents_kit._endpoints import PROBES, Endpoints
from cloudevents_kit._errors import BindingError, EventError
from cloudevents_kit._event import Event
from cloudevents_kit._lifecycle import Lifecycle
from cloudevents_kit._result import Nack, Result
from cloudevents_kit._tasks import is_cancelled

ALLOW: Final = {"Allow": "POST"}
ALLOW_PROBE: Final = {"Allow": "GET, HEAD"}
_FAILED = Nack(status=500, reason="the handler failed", retryable=True)
_OUT_OF_TIME = Nack(status=503, reason="the handler ran out of time", retryable=True)
_STOPPING = Nack(status=503, reason="the receiver is stopping", retryable=True, retry_after=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a receiver takes at most. Durations are in seconds, sizes in bytes."""

    max_body: int = 4 * 2**20
    """Larger bodies, inflated or not, are answered 413."""
    max_batch: int = 1000
    """Events in a batch; more are answered 413. 0: no batches, which are answered 415."""
    batch_concurrency: int = 1
    """Events of one batch handled at once."""
    max_in_flight: int = 1000
    """Requests handled at once; more are answered 503 with Retry-After before their body is read."""
    body_timeout: float = 10.0
    """For a body to arrive; later ones are answered 408."""
    handler_timeout: float = 30.0
    """For a request to be handled; then its handler is cancelled and the answer is 503."""

    def __post_init__(self) -> None:
        """Raise TypeError or ValueError for a limit that is not above 0, where 0 means nothing."""
        for name in self.__slots__:
            if "batch" in name:
                check_count(name, getattr(self, name), least=0 if name == "max_batch" else 1)
                continue
            check_positive(name, getattr(self, name))
            if name.startswith("max_"):
                check_count(name, getattr(self, name))


class Inbound:
    """One handler behind its stages and limits."""

    def __init__(
        self,
        handler: Handler | SyncHandler,
        stages: tuple[Middleware, ...],
        limits: Limits,
        resources: Sequence[AbstractAsyncContextManager[Any]] = (),
        endpoints: Endpoints = MappingProxyType({}),
    ) -> None:
        """Compose the chain; it stays as it is from now on. Raises TypeError naming the argument that is wrong."""
        check_kind("resources", resources, (tuple, list), "a tuple of async context managers")
        for resource in resources:
            check_methods("resources", resource, "async context managers", "__aenter__", "__aexit__")
        self.limits = limits
        self.endpoints = endpoints
        self.lifecycle = Lifecycle((*stages, handler), resources)
        self.counts: Counter[str] = Counter()
        self.in_flight = 0
        self.stopping = False
        self._handler = wrap(as_handler(handler), *stages)
        self._handling = Deadlines(limits.handler_timeout)
        self._arriving = Deadlines(limits.body_timeout)
        self._idle: asyncio.Event | None = None
        self._hurry = asyncio.Event()

    async def probe(self, method: str, path: str, *, ready: bool, query: str = "") -> Answer | None:
        """Answer the health and readiness probes, and what ``endpoints`` has; None for any other path.

        ``query`` is what follows the question mark, as it came.
        """
        if path not in PROBES and path not in self.endpoints:
            return None
        if method not in {"GET", "HEAD"}:
            return _answer.problem(405, "this path is read with GET", headers=ALLOW_PROBE)
        if path in self.endpoints:
            answer = await _endpoints.read(self.endpoints[path], query, self.limits.handler_timeout)
            return answer._replace(body=b"") if method == "HEAD" else answer
        if path == "/readyz" and not (ready and not self.stopping):
            return _answer.problem(503, "not ready")
        return Answer(200, {"Content-Type": "text/plain"}, b"" if method == "HEAD" else b"ok\n")

    def admit(self, method: str) -> Answer | None:
        """Refuse a request before its body is read, or count it in and return None: then `leave` must follow."""
        if method != "POST":
            return _answer.problem(405, "events are sent with POST", headers=ALLOW)
        if self.in_flight >= self.limits.max_in_flight:
            self.counts["refused_busy"] += 1
            return _answer.problem(503, "too many requests in flight", headers={"Retry-After": "1"}, close=True)
        self.in_flight += 1
        return None

    def leave(self) -> None:
        """Count a request out."""
        self.in_flight -= 1
        if self._idle is not None and not self.in_flight:
            self._idle.set()

    def reopen(self) -> None:
        """Begin anew after a stop."""
        self.stopping = False
        self._hurry = asyncio.Event()

    async def wait_idle(self, seconds: float) -> bool:
        """Wait until no request is in flight, at most ``seconds`` and not past `hurry`; tell whether that came true."""
        self._idle = asyncio.Event()
        if not self.in_flight:
            return True
        if self._hurry.is_set():
            return False
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return not self._hurry.is_set()

    async def pause(self, seconds: float) -> None:
        """Wait ``seconds``, but not past `hurry`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()

    def hurry(self) -> None:
        """Let nobody wait here any more, until `reopen`."""
        self._hurry.set()
        if self._idle is not None:
            self._idle.set()

    def cut_off(self) -> int:
        """Give up what is still handled or arriving, which answers 503; return the number of requests in flight."""
        self._handling.expire_all()
        self._arriving.expire_all()
        self._hurry.clear()  # the answers that this makes are waited for
        return self.in_flight

    def close(self) -> None:
        """Let go of the timers."""
        self._handling.close()
        self._arriving.close()

    async def collect(self, announced: int, read: Callable[[], Awaitable[bytes]]) -> bytes | Answer:
        """Gather a body that is still arriving, or say why not.

        Args:
            announced: its size, as far as the peer told.
            read: returns what has arrived next, nothing at the end.
        """
        limit = self.limits.max_body
        chunks: list[bytes] = []
        size = 0
        try:
            with self._arriving:
                while max(size, announced) <= limit:
                    chunk = await read()
                    if not chunk:
                        return b"".join(chunks)
                    chunks.append(chunk)
                    size += len(chunk)
        except TimeoutError:
            if self.stopping:
                return _answer.problem(503, _STOPPING.reason, headers={"Retry-After": "1"}, close=True)
            return self._unreadable(BindingError(408, "the body did not arrive in time"), close=True)
        return self._unreadable(BindingError(413, self._too_large()), close=True)

    def _unreadable(self, error: EventError, *, close: bool = False) -> Answer:
        """Count and log a request that holds no event which could be read, and answer it."""
        self.counts["unreadable"] += 1
        log.warning("request refused: %s", error)
        return _answer.refuse(error)._replace(close=close)

    def _too_large(self) -> str:
        return f"the body is larger than {self.limits.max_body} bytes"

    async def answer(self, headers: _http.Headers, body: bytes, content_type: str | None = None) -> Answer:
        """Read the events of a request, run the handler for each, and build the answer; see `_http.decode`."""
        try:
            if len(body) > self.limits.max_body:
                raise BindingError(413, self._too_large())
            kind, events = _http.decode(headers, body, self._inflate, content_type)
            if kind == "batch":
                self._check_batch(len(events))
        except EventError as error:
            return self._unreadable(error)
        results = await self._settle(events, headers)
        if kind == "batch":
            return _answer.respond_batch(results)
        return _answer.respond(results[0], kind)

    def _check_batch(self, count: int) -> None:
        limit = self.limits.max_batch
        if not limit:
            raise BindingError(415, "batches are not taken here: send one event per request")
        if count > limit:
            raise BindingError(413, f"the batch has more than {limit} events")

    async def _settle(self, events: list[Event], headers: _http.Headers) -> list[Result]:
        """Handle ``events`` one after the other, within one time limit; those it cuts off are to be sent again."""
        if len(events) > 1 and self.limits.batch_concurrency > 1:
            return await self._settle_at_once(events, headers)
        results: list[Result] = []
        cut: Nack | None = None
        timely = events if len(events) == 1 else takewhile(self._handling.in_time, events)
        try:
            await self._handling.limit(settle_each(self._handler, timely, results, headers))
        except TimeoutError:
            pass
        except asyncio.CancelledError as error:
            cut = _stray(error)
        if len(results) < len(events):
            results += [self._cut(len(events) - len(results), cut)] * (len(events) - len(results))
        return self._counted(results)

    async def _settle_at_once(self, events: list[Event], headers: _http.Headers) -> list[Result]:
        """Do what `_settle` does with several events at a time, which begin in their order."""
        settled: list[list[Result]] = [[] for _ in events]
        waiting = zip(events, settled, strict=True)

        async def settle_some() -> None:
            for event, result in takewhile(lambda _: not is_cancelled(), waiting):  # a handler may end all the same
                try:
                    await settle_each(self._handler, (event,), result, headers)
                except asyncio.CancelledError as error:
                    result.append(_stray(error))

        async def settle_all() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.limits.batch_concurrency, len(events))):
                    group.create_task(settle_some())

        with suppress(TimeoutError):
            await self._handling.limit(settle_all())
        left = settled.count([])
        cut = self._cut(left, None) if left else DONE
        return self._counted([result[0] if result else cut for result in settled])

    def _cut(self, left: int, why: Nack | None) -> Nack:
        """Return the result of the events that are ``left``."""
        if why is None:
            why = _STOPPING if self.stopping else _OUT_OF_TIME
        log.warning("%d events cut off: %s", left, why.reason)
        return why

    def _counted(self, results: list[Result]) -> list[Result]:
        done = results.count(DONE)
        self.counts["ack"] += done
        if done < len(results):
            self.counts.update([result.outcome for result in results if result is not DONE])
        return results

    def _inflate(self, body: bytes, coding: str) -> bytes:
        return _http.inflate(body, coding, self.limits.max_body)


def _stray(error: asyncio.CancelledError) -> Nack:
    """Return the result of a handler that let out the cancellation of something else; raise the request's own."""
    if is_cancelled():
        raise error
    log.error("a handler ended as if it had been cancelled", exc_info=error)
    return _FAILED
