"""Send events over HTTP and learn the truth about each.

    async with Sender("https://sink.example/") as sender:
        result = await sender.send(Event(type="com.example.order.created", source="/orders", data={"id": 1}))

`Sender` is a `Sink`: it never raises for a delivery problem. Retries are `_retry`'s, bytes are `_http`'s, sockets are
`_client`'s; here they meet.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from cloudevents_kit import _batching, _http
from cloudevents_kit._arguments import (
    check_choice,
    check_count,
    check_flag,
    check_kind,
    check_methods,
    check_positive,
)
from cloudevents_kit._client import Client
from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._correlation import inherit as inherit_from_current
from cloudevents_kit._errors import EventError
from cloudevents_kit._event import Event
from cloudevents_kit._http import Mode
from cloudevents_kit._outbound import Call, Destination, HeaderSource
from cloudevents_kit._result import Ack, Nack, Result, Undelivered
from cloudevents_kit._retry import RetryPolicy, run
from cloudevents_kit._tasks import run_bounded

if TYPE_CHECKING:
    import ssl as tls

    import aiohttp
    from cloudevents.core.base import BaseCloudEvent

E = TypeVar("E", bound="Event | BaseCloudEvent")


class Sender:
    """Delivers events to one URL. Durations are in seconds, sizes in bytes.

    Args:
        url: where to POST.
        mode: content mode, ``"binary"`` or ``"structured"``.
        headers: added to every request, or a function, best an async one, that returns them afresh for each attempt.
        retry: when to send again; `RetryPolicy.none` for a single attempt.
        timeout: for one attempt, from taking a connection to the end of the answer.
        connect_timeout: for opening a connection, within ``timeout``.
        concurrency: requests, and connections, at once.
        gzip_over: compress bodies larger than this; None never compresses.
        max_batch: events in one batch, which the destination must have asked for; None refuses `send_batch`.
        max_batch_bytes: size of one batch.
        max_reply: bytes of an answer that are read.
        ssl: context for https.
        session: aiohttp session to use instead of an own pool; it is never closed here.
        inherit: whether events sent inside a handler inherit correlationid, causationid and trace.
        clock: for waits.
    """

    def __init__(
        self,
        url: str,
        *,
        mode: Mode = "binary",
        headers: HeaderSource | None = None,
        retry: RetryPolicy | None = None,
        timeout: float = 10.0,
        connect_timeout: float = 5.0,
        concurrency: int = 100,
        gzip_over: int | None = None,
        max_batch: int | None = None,
        max_batch_bytes: int = 1_000_000,
        max_reply: int = 2**20,
        ssl: tls.SSLContext | None = None,
        session: aiohttp.ClientSession | None = None,
        inherit: bool = True,
        clock: Clock | None = None,
    ) -> None:
        """Check the settings; nothing is opened before ``async with``. Raises TypeError or ValueError naming one."""
        check_choice("mode", mode, ("binary", "structured"))
        check_positive("timeout", timeout)
        check_positive("connect_timeout", connect_timeout)
        counts = {"concurrency": concurrency, "max_batch_bytes": max_batch_bytes, "max_reply": max_reply}
        for name, count in (counts | ({} if max_batch is None else {"max_batch": max_batch})).items():
            check_count(name, count)
        if gzip_over is not None:
            check_count("gzip_over", gzip_over, least=0)
        check_flag("inherit", inherit)
        self._retry = RetryPolicy() if retry is None else retry
        check_kind("retry", self._retry, RetryPolicy, "a RetryPolicy, for example RetryPolicy(attempts=3)")
        self._clock: Clock = SystemClock() if clock is None else clock
        check_methods("clock", self._clock, "a Clock", "monotonic", "now", "sleep")
        self._client = Client(
            url,
            timeout=min(timeout, self._retry.deadline or timeout),
            connect_timeout=connect_timeout,
            concurrency=concurrency,
            max_reply=max_reply,
            ssl=ssl,
            session=session,
        )
        self._mode: Mode = mode
        self._url = str(url)
        self._destination = Destination(
            self._client,
            self._retry,
            self._clock,
            headers=headers,
            gzip_over=gzip_over,
            concurrency=concurrency,
        )
        self.concurrency = concurrency
        self.max_batch = max_batch
        self._max_batch_bytes = max_batch_bytes
        self._inherit = inherit

    @property
    def url(self) -> str:
        """Where events go, as it was given: it may hold secrets."""
        return self._url

    @property
    def is_open(self) -> bool:
        """Whether events can be sent; if not, each is `Undelivered` as ``closed``."""
        return self._client.is_open

    async def __aenter__(self) -> Self:
        """Open the pool."""
        await self._client.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the pool."""
        await self.close()

    async def close(self) -> None:
        """Close the pool; a send still waiting to retry ends with Undelivered(reason="closed")."""
        await self._client.close()

    async def send(
        self, event: Event | BaseCloudEvent, /, *, mode: Mode | None = None, headers: HeaderSource | None = None
    ) -> Result:
        """Deliver one event, retrying as the policy says. Events of the official SDK are taken as they are.

        Raises TypeError for something that is no event; never for a delivery problem.
        """
        return await self._send(event, mode, headers, wants_reply=False)

    async def request(
        self,
        event: Event | BaseCloudEvent,
        /,
        *,
        mode: Mode | None = None,
        headers: HeaderSource | None = None,
        strict: bool = False,
    ) -> Result:
        """Deliver one event and ask for a reply: ``Ack.reply``, or None if the peer has none to give.

        An answer 2xx whose reply is broken is an Ack with ``reply_error``. With ``strict``, so is a reply that does
        not name this event in causationid, or its correlation in correlationid.
        """
        if strict:
            with suppress(EventError):  # `_send` tells
                event = self._own(event)  # its correlation may be inherited
        result = await self._send(event, mode, headers, wants_reply=True)
        if strict and isinstance(result, Ack) and result.reply is not None and not _answers(result.reply, event):
            return replace(result, reply=None, reply_error="the reply does not belong to this event")
        return result

    async def send_batch(
        self, events: Iterable[Event | BaseCloudEvent], /, *, headers: HeaderSource | None = None
    ) -> list[Result]:
        """Deliver events in batches, split by count and size; return one result per event, in their order.

        Events that the peer took are not sent again when others of their batch are. Raises ValueError unless
        ``max_batch`` is set: batches must not be sent to a destination that did not ask for them (HTTP binding, 3).
        """
        if self.max_batch is None:
            raise ValueError("max_batch: is not set; set it for a destination that has asked for batches")
        _batching.check_many(events)
        batches, results = _batching.split(events, self._own, self.max_batch, self._max_batch_bytes)
        async for _ in run_bounded(batches, lambda batch: self._deliver_batch(batch, headers), self.concurrency):
            pass
        for batch in batches:
            results.update(batch.results)
        return [results[index] for index in range(len(results))]

    def send_all(
        self,
        events: AsyncIterable[E] | Iterable[E],
        /,
        *,
        concurrency: int | None = None,
        mode: Mode | None = None,
        headers: HeaderSource | None = None,
    ) -> AsyncGenerator[tuple[E, Result]]:
        """Deliver a stream of events, ``concurrency`` at a time; yield each with its result as it ends.

        No more events are taken from the source than are in flight. Leaving the loop early cancels what is.
        """
        _batching.check_many(events)
        limit = self.concurrency if concurrency is None else check_count("concurrency", concurrency)

        async def deliver(event: E) -> tuple[E, Result]:
            return event, await self.send(event, mode=mode, headers=headers)

        return run_bounded(events, deliver, limit)

    def _own(self, thing: Any) -> Event:
        event = thing if type(thing) is Event else Event.of(thing)
        return inherit_from_current(event) if self._inherit else event

    async def _send(self, thing: Any, mode: Mode | None, headers: HeaderSource | None, *, wants_reply: bool) -> Result:
        try:
            message = _http.encode(self._own(thing), mode or self._mode)
        except EventError as error:
            return Undelivered(reason="invalid-event", error=str(error))
        call = Call(self._destination, message, headers, wants_reply=wants_reply)
        return call.finish(await run(self._retry, call.attempt, self._destination.clock))

    async def _deliver_batch(self, batch: _batching.Batch, headers: HeaderSource | None) -> None:
        call = Call(self._destination, batch.message(), headers, heeds=False)

        async def attempt(number: int, wait: float) -> Result:
            if number > 1:
                call.message = batch.message()  # without the events that are done
            result = await call.attempt(number, wait)
            own_results = None if call.reply is None else batch.read(result, call.reply, self._retry.retryable)
            if isinstance(result, Nack) and (own_results is None or result.status != 410):
                self._destination.heed(result)  # a 410 among results is that of one event
            return batch.settle(call.finish(result), own_results)

        await run(self._retry, attempt, self._destination.clock)


def _answers(reply: Event, event: Any) -> bool:
    """Tell whether ``reply`` names ``event`` as its cause and shares its correlation."""
    caused = reply.get("causationid") in {None, event.id}
    return caused and reply.get("correlationid") == event.get("correlationid", event.id)
