"""Ask by event and get the answer by event.

The direct form is `Sender.request`: the reply travels back in the answer to the request. `Requests` is for replies
that come later, as events of their own to our own receiver:

    requests = Requests(sender)
    async with Receiver(router, requests, port=8080):
        result = await requests.request(Event(type="com.example.price.asked", source="/shop", data={"sku": "A-1"}))

It is a stage: it keeps the replies that somebody waits for and lets every other event pass.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from cloudevents_kit._arguments import check_count, check_methods, check_positive
from cloudevents_kit._contract import Handler, Outcome, Sink
from cloudevents_kit._correlation import inherit
from cloudevents_kit._errors import EventError
from cloudevents_kit._event import Event
from cloudevents_kit._result import Ack, Result, Undelivered

if TYPE_CHECKING:
    from cloudevents.core.base import BaseCloudEvent


class Requests:
    """Sends requests to ``sink`` and matches the events that answer them.

    An answer names the request in causationid, or only shares its correlationid, which must then be that of no other
    request in flight. `Event.reply` does both.

    Args:
        sink: where requests go.
        timeout: seconds to wait for an answer, from when the request was acknowledged.
        limit: requests that may wait at once; more are Undelivered(reason="overload").
    """

    def __init__(self, sink: Sink, *, timeout: float = 30.0, limit: int = 1000) -> None:
        """Wait for nothing yet."""
        check_methods("sink", sink, "a Sink", "send")
        check_positive("timeout", timeout)
        check_count("limit", limit)
        self._sink = sink
        self._timeout = timeout
        self._limit = limit
        self._waiting: dict[str, tuple[Event, asyncio.Future[Event]]] = {}

    @property
    def waiting(self) -> int:
        """Number of requests without an answer yet."""
        return len(self._waiting)

    async def request(self, event: Event | BaseCloudEvent, /) -> Result:
        """Send ``event`` and wait for its answer: ``Ack.reply``, or ``Ack.reply_error`` if none came in time.

        A request that is not acknowledged is not waited for; its Nack or Undelivered is returned. Raises ValueError
        for the id of a request that is waiting already: answers to the two could not be told apart.
        """
        try:
            event = _correlated(Event.of(event))
        except EventError as error:
            return Undelivered(reason="invalid-event", error=str(error))
        if len(self._waiting) >= self._limit:
            return Undelivered(reason="overload", error=f"{self._limit} requests are waiting for their answers already")
        if event.id in self._waiting:
            raise ValueError("id: a request with this id is waiting for its answer already")
        answer: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._waiting[event.id] = (event, answer)
        try:
            return await self._send_and_wait(event, answer)
        finally:
            del self._waiting[event.id]

    async def _send_and_wait(self, event: Event, answer: asyncio.Future[Event]) -> Result:
        result = await self._sink.send(event)
        if not isinstance(result, Ack):  # an answer that came all the same proves that the request arrived
            if not answer.done():
                return result
            return Ack(reply=answer.result(), attempts=result.attempts, elapsed=result.elapsed)
        if result.reply is not None:
            return result
        now = asyncio.get_running_loop().time
        began = now()
        await asyncio.wait({answer}, timeout=self._timeout)
        elapsed = result.elapsed + now() - began
        if answer.done():
            return replace(result, reply=answer.result(), reply_error=None, elapsed=elapsed)
        return replace(result, reply_error=f"no answer within {self._timeout:g} s", elapsed=elapsed)

    async def __call__(self, event: Event, call_next: Handler) -> Outcome:
        """Keep ``event`` if it answers a waiting request, else pass it on."""
        answer = self._match(event)
        if answer is None:
            return await call_next(event)
        if not answer.done():
            answer.set_result(event)
        return None

    def _match(self, event: Event) -> asyncio.Future[Event] | None:
        correlation, cause = event.get("correlationid"), event.get("causationid")
        if cause is not None:
            asked, answer = self._waiting.get(cause, (None, None))
            return answer if asked is not None and correlation in {None, asked["correlationid"]} else None
        if correlation is None:
            return None
        same = [
            answer
            for asked, answer in self._waiting.values()
            if asked["correlationid"] == correlation and asked.key != event.key  # a broker may return the request
        ]
        return same[0] if len(same) == 1 else None


def _correlated(event: Event) -> Event:
    """Return ``event`` with a correlationid: its own, that of the event being handled, or its id."""
    if "correlationid" not in event:
        event = inherit(event)
    return event if "correlationid" in event else event.evolve(correlationid=event.id)
