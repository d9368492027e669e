"""From outcomes to HTTP answers, and from answers back to outcomes: both ends of the contract, sans-IO.

A receiver answers 204 to an event that was handled, 202 to one that was stored, 200 with the reply, and otherwise the
refusal's status with one short line of problem+json (RFC 9457). A sender reads the same answers back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

from cloudevents_kit import _http, _json
from cloudevents_kit._contract import DONE, log
from cloudevents_kit._errors import RETRYABLE_4XX, BindingError, CloudEventsError, EventError, UnsupportedVersion
from cloudevents_kit._event import Event
from cloudevents_kit._result import Ack, Nack, Result

PROBLEM = "application/problem+json"
_LINE = 300
_HUGE = 10.0**9
_digits = re.compile("[0-9]+").fullmatch
_http_date = re.compile(
    r"(?:[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
    r"|[A-Z][a-z]{5,8}, [0-9]{2}-[A-Z][a-z]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
    r"|[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9][0-9] [0-9]{2}:[0-9]{2}:[0-9]{2} [0-9]{4})"
).fullmatch


class Answer(NamedTuple):
    """An HTTP response to be."""

    status: int
    headers: dict[str, str]
    body: bytes
    close: bool = False
    """Whether the connection cannot be used again, because part of the request was not read."""


NO_CONTENT = Answer(204, {}, b"")
STORED = Answer(202, {}, b"")


def problem(
    status: int, reason: str, *, headers: dict[str, str] | None = None, close: bool = False, **more: Any
) -> Answer:
    """Build a refusal: one line that a person can read, and nothing of what was received."""
    body = {"title": phrase(status), "status": status, "detail": one_line(reason), **more}
    return Answer(status, {"Content-Type": PROBLEM, **(headers or {})}, msgspec.json.encode(body), close)


def phrase(status: int) -> str:
    """Return the standard phrase of ``status``."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"


def one_line(text: str) -> str:
    """Cut ``text`` to one short line of printable characters."""
    line = text.strip().partition("\n")[0]
    return "".join(char if char.isprintable() else " " for char in line[:_LINE]).strip()


def refuse(error: EventError) -> Answer:
    """Answer a message that held no readable event."""
    if isinstance(error, UnsupportedVersion):
        return problem(error.status, str(error), code="unsupported-version")
    unknown_coding = error.status == 415 and "Content-Encoding" in error.rule
    headers = {"Accept-Encoding": ", ".join(_http.ENCODINGS)} if unknown_coding else {}
    return problem(error.status, str(error), headers=headers)


def respond(result: Result, mode: _http.Mode) -> Answer:
    """Answer one event; a reply travels in ``mode``, the mode of the request."""
    if result is DONE:
        return NO_CONTENT
    if isinstance(result, Ack):
        if result.reply is not None:
            return _reply(_encode_reply(result.reply, mode))
        return STORED if result.status == 202 else NO_CONTENT
    assert isinstance(result, Nack)  # noqa: S101 - a handler has no way to be undelivered
    status = _wire_status(result)
    return problem(status, result.reason or phrase(status), headers=_retry_after(status, result.retry_after))


def respond_batch(results: Sequence[Result]) -> Answer:
    """Answer a batch: 2xx if every event was acknowledged, else the worst status and what became of each."""
    if all(result is DONE for result in results):
        return NO_CONTENT
    nacks = [result for result in results if isinstance(result, Nack)]
    if not nacks:
        replies = [result.reply for result in results if isinstance(result, Ack) and result.reply is not None]
        if replies:
            return _reply(_http.encode_batch(replies))
        return STORED if any(result.status == 202 for result in results if isinstance(result, Ack)) else NO_CONTENT
    worst = max(nacks, key=lambda nack: (nack.retryable, _wire_status(nack)))
    status = _wire_status(worst)
    after = max((nack.retry_after for nack in nacks if nack.retry_after is not None), default=None)
    reason = f"{len(nacks)} of {len(results)} events were refused"
    listed = [_listed(index, result) for index, result in enumerate(results)]
    return problem(status, reason, headers=_retry_after(status, after), results=listed)


def _encode_reply(reply: Event, mode: _http.Mode) -> _http.Message:
    try:
        message = _http.encode(reply, mode)
    except EventError:
        return _http.encode(reply, "structured")
    if message.body and "Content-Type" not in message.headers:
        # Servers add a Content-Type to such a body, which would become the event's datacontenttype.
        return _http.encode(reply, "structured")
    return message


def _reply(message: _http.Message) -> Answer:
    return Answer(200, message.headers, message.body)


def _listed(index: int, result: Result) -> dict[str, Any]:
    if isinstance(result, Nack):
        return {"index": index, "status": _wire_status(result), "reason": one_line(result.reason)}
    if isinstance(result, Ack) and result.reply is not None:
        return {"index": index, "status": 200, "reply": msgspec.Raw(_json.encode(result.reply))}
    return {"index": index, "status": 202 if isinstance(result, Ack) and result.status == 202 else 204}


def _wire_status(nack: Nack) -> int:
    """Return the status that makes any sender do what ``nack`` says: never a 3xx, and never a final one for a retry."""
    if not 400 <= nack.status <= 599:
        return 502
    return 503 if nack.retryable and nack.status < 500 and nack.status not in RETRYABLE_4XX else nack.status


def _retry_after(status: int, seconds: float | None) -> dict[str, str]:
    if seconds is None and status != 429:
        return {}
    return {"Retry-After": str(math.ceil(seconds or 0) or (1 if status == 429 else 0))}


# The sender's side.


def parse_retry_after(values: Sequence[str], now: datetime) -> float | None:
    """Read Retry-After: seconds or any of the three HTTP-date forms (RFC 9110, 10.2.3); None if it says nothing.

    A date in the past is 0. Fields that contradict one another, signs, fractions and other digits are ignored.
    """
    if len(set(values)) != 1:
        return None
    text = values[0].strip()
    if _digits(text) and text.isascii():
        return float(text) if len(text) < 10 else _HUGE
    if not _http_date(text):
        return None
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=UTC) - now).total_seconds())


def parse_reply(headers: _http.Headers, body: bytes) -> Event | None:
    """Return the event that a 2xx answer holds, None if it holds something else or nothing. Raises CloudEventsError."""
    kinds = [value.lower() for name, value in headers if name.lower() == b"content-type"]
    formatted = any(kind.startswith(b"application/cloudevents") for kind in kinds)
    if not formatted and not any(name[:3].lower() == b"ce-" for name, _ in headers):
        return None
    kind, events = _http.decode(headers, body)
    if kind == "batch":
        raise BindingError(400, "the answer holds a batch where one event was expected")
    return events[0]


def parse_reason(status: int, content_type: str, body: bytes) -> str:
    """Return the line of a refusal's body that says why."""
    if "json" in content_type.lower():
        try:
            said = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            said = {}
        for name in ("detail", "reason", "message", "error", "title"):
            if isinstance(said.get(name), str) and said[name].strip():
                return one_line(said[name])
    return one_line(body[: 4 * _LINE].decode("utf-8", "replace")) or phrase(status)


class _Listed(msgspec.Struct):
    index: int
    status: int
    reason: str = ""
    reply: msgspec.Raw = msgspec.Raw()


class _BatchProblem(msgspec.Struct):
    results: list[_Listed]


_batch_problem = msgspec.json.Decoder(_BatchProblem)


def parse_batch_results(content_type: str, body: bytes, count: int) -> list[tuple[int, str, Event | None]] | None:
    """Return (status, reason, reply) of each event in a refused batch, or None if the answer does not list them all."""
    if content_type.partition(";")[0].strip().lower() != PROBLEM:
        return None
    try:
        listed = _batch_problem.decode(body).results
        found = {one.index: (one.status, one_line(one.reason), _listed_reply(one.reply)) for one in listed}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, CloudEventsError):
        log.debug("a refused batch came without readable results")
        return None
    return [found[index] for index in range(count)] if found.keys() == set(range(count)) else None


def _listed_reply(raw: msgspec.Raw) -> Event | None:
    return _json.decode(bytes(raw)) if bytes(raw) else None
