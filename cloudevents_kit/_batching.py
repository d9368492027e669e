"""Batches on the sending side: split events by count and size, and tell what became of each from one answer.

Pure state; the sender moves the bytes. Knows nothing of sockets or waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

from cloudevents_kit import _answer, _http, _json
from cloudevents_kit._errors import CloudEventsError, EventError
from cloudevents_kit._event import Event
from cloudevents_kit._result import Ack, Attempt, Nack, Result, Undelivered

_HEADERS = {"Content-Type": _json.BATCH_CONTENT_TYPE}


class Batch:
    """Events that travel together, and what became of each of them so far."""

    def __init__(self) -> None:
        """Start empty."""
        self.results: dict[int, Result] = {}
        self._pending: dict[int, tuple[str, bytes]] = {}
        self._attempts: dict[int, list[Attempt]] = {}
        self._noted = 0
        self._size = 2

    def add(self, index: int, event_id: str, body: bytes, max_count: int, max_bytes: int) -> bool:
        """Take one encoded event unless that would pass a limit; an event larger than the limit travels alone."""
        full = len(self._pending) >= max_count or self._size + len(body) + 1 > max_bytes
        if full and self._pending:
            return False
        self._pending[index] = (event_id, body)
        self._attempts[index] = []
        self._size += len(body) + 1
        return True

    def message(self) -> _http.Message:
        """Write what is still to be sent."""
        return _http.Message(_HEADERS, b"[" + b",".join([body for _, body in self._pending.values()]) + b"]")

    def settle(self, result: Result, own_results: list[Result] | None) -> Result:
        """Note the end of one attempt for every event that was in it, and return what decides about the next one.

        ``own_results`` is for an answer that told the events apart. What was acknowledged, or refused for good, does
        not travel again.
        """
        new = result.attempts[self._noted :]
        self._noted = len(result.attempts)
        for position, index in enumerate(list(self._pending)):
            own = result if own_results is None else own_results[position]
            self._attempts[index] += _own_attempts(new, own)
            self.results[index] = replace(own, attempts=tuple(self._attempts[index]), elapsed=result.elapsed)
            if own or (isinstance(own, Nack) and not own.retryable):
                del self._pending[index]
        if isinstance(result, Nack) and own_results is not None:
            return replace(result, retryable=True) if self._pending else Ack(attempts=result.attempts)
        return result

    def read(self, result: Result, reply: Reply, retryable: Callable[[int], bool]) -> list[Result] | None:
        """Return one result per event if the answer tells them apart, in the order of `message`."""
        if isinstance(result, Ack):
            return self._with_replies(result, reply)
        assert isinstance(result, Nack)  # noqa: S101 - only a request for a reply can be undelivered once answered
        listed = _answer.parse_batch_results(reply.content_type, reply.body, len(self._pending))
        return None if listed is None else [_own_result(result, *one, retryable) for one in listed]

    def _with_replies(self, ack: Ack, reply: Reply) -> list[Result] | None:
        """Match a batch of replies to the events that caused them, by causationid."""
        if not reply.body or ack.status == 202:
            return None
        try:
            kind, events = _http.decode(reply.headers, reply.body)
        except CloudEventsError:
            return None
        caused = {event.get("causationid"): event for event in events} if kind == "batch" else {}
        return [replace(ack, reply=caused.get(event_id), reply_error=None) for event_id, _ in self._pending.values()]


class Reply(Protocol):
    """The parts of an HTTP answer that matter here."""

    @property
    def headers(self) -> _http.Headers:
        """Pairs of name and value."""
        ...

    @property
    def body(self) -> bytes:
        """The body."""
        ...

    @property
    def content_type(self) -> str:
        """The Content-Type, or an empty text."""
        ...


def _own_attempts(attempts: tuple[Attempt, ...], own: Result) -> list[Attempt]:
    """Return the batch's latest attempts as the event saw them: the last of them ended with its own status."""
    if not attempts or isinstance(own, Undelivered):
        return [*attempts]
    return [*attempts[:-1], replace(attempts[-1], status=own.status)]


def _own_result(
    result: Nack, status: int, reason: str, reply: Event | None, retryable: Callable[[int], bool]
) -> Result:
    if 200 <= status < 300:
        return Ack(status=status, reply=reply)
    return Nack(status=status, reason=reason, retryable=retryable(status), retry_after=result.retry_after)


def split(
    events: Iterable[Any], own: Callable[[Any], Event], max_count: int, max_bytes: int
) -> tuple[list[Batch], dict[int, Result]]:
    """Pack ``events`` into batches in their order; what is no valid event has its result at once."""
    batches: list[Batch] = []
    results: dict[int, Result] = {}
    for index, thing in enumerate(events):
        try:
            event = own(thing)
        except EventError as error:
            results[index] = Undelivered(reason="invalid-event", error=str(error))
            continue
        body = _json.encode(event)
        if not (batches and batches[-1].add(index, event.id, body, max_count, max_bytes)):
            batches.append(Batch())
            batches[-1].add(index, event.id, body, max_count, max_bytes)
    return batches, results


def check_many(events: object) -> None:
    """Raise TypeError for a single event, which would be iterated over."""
    if isinstance(events, Event):
        raise TypeError("events: must be an iterable of events, not one Event (use send for one)")
