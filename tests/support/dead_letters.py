"""Dead letters to test with, events of every form, and a store and a sink that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cloudevents_kit import Ack, Event, Result, from_http, from_json
from cloudevents_kit.dead_letter import DeadLetter, DeadLetterStore, Tried
from cloudevents_kit.stores.memory_dead_letters import MemoryDeadLetterStore
from tests.support.events import FULL, new

AT = datetime(2025, 12, 31, 23, 0, 0, 123456, tzinfo=UTC)
HEADERS = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}


def by_http(body: bytes, **headers: str) -> Event:
    given = {**HEADERS, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return from_http(given, body)[0]


#: Events in every form in which they come, with what a careless store would change.
EVENTS = {
    "all attributes": new(**FULL),
    "no data": new(),
    "JSON null": new(data=None),
    "JSON text": new(data="text"),
    "empty bytes": new(data=b""),
    "bytes": new(data=bytes(range(256)), datacontenttype="application/octet-stream"),
    "bytes without a type": new(data=b"\x00\xff"),
    "text in another charset": new(data="\u00e4\u20ac", datacontenttype="text/plain; charset=utf-16"),
    "types of extensions": new(number=5, flag=True, text="5", word="true", low=-(2**31), umlaut="\u00e4\U0001f600"),
    "spelling of JSON": from_json(
        b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"b" : 1.0,  "a":"\\u00e4\\/", "b2":1e2}}'
    ),
    "spelling of the type": by_http(b"{}", content_type='Application/JSON ;Charset="UTF-8"'),
    "white space around JSON": by_http(b' \n{"a": 1}\r\n ', content_type="application/json"),
    "what is no JSON": by_http(b'{"a": ', content_type="application/json"),
    "a body without a type": by_http(b"\xef\xbb\xbf{}"),
    "headers as text": by_http(b"", ce_number="5", ce_flag="true", ce_subject="%F0%9F%98%80%20x"),
    "digits of the time": new(time="2018-04-05T17:31:00.123456789+05:30"),
}  # fmt: skip


def exact(event: Event) -> tuple[Any, ...]:
    """Return everything there is in an event, with the types and the order of its attributes."""
    values = [(name, type(value), value) for name, value in event.attributes.items()]
    return values, event.raw, event.has_data, event._form, event == event  # noqa: PLR0124 - it can be compared


def letter(event: Event | None = None, **given: Any) -> DeadLetter:
    about_event = {name: given.pop(name) for name in ("id", "source") if name in given}
    if event is None:
        event = new(data={"a": 1}, **about_event)
    fields: dict[str, Any] = {
        "event": event,
        "direction": "inbound",
        "destination": "orders",
        "status": 500,
        "reason": "broken",
        "error": "ValueError",
        "attempts": 1,
        "tries": (Tried(AT, 500, "ValueError", 0.25),),
        "first_at": AT,
        "last_at": AT + timedelta(seconds=0.25),
    }
    return DeadLetter(**{**fields, **given})


async def stored(store: DeadLetterStore) -> Sequence[DeadLetter]:
    return await store.read(0, 10_000)


class Crash(BaseException):
    """The process is gone."""


class Dying:
    """A store, or a sink, of a process that dies at its ``last``-th step: before or after a call took effect.

    Each call is two steps. Once it is dead, it does nothing any more.
    """

    def __init__(self, last: int, store: MemoryDeadLetterStore, sink: Callable[[Event], None]) -> None:
        self.left = last
        self._store = store
        self._sink = sink

    def _step(self) -> None:
        self.left -= 1
        if self.left <= 0:
            raise Crash

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*given: Any) -> Any:
            await asyncio.sleep(0)
            self._step()
            found = await method(*given)
            self._step()
            return found

        return call

    async def send(self, event: Event) -> Result:
        self._step()
        self._sink(event)
        self._step()
        return Ack()
