"""Events to test with: in every form in which they come, and with what a careless store would change."""

from __future__ import annotations

from typing import Any

from cloudevents_kit._event import Event
from cloudevents_kit._http import from_http
from cloudevents_kit._json import decode

FULL: dict[str, Any] = {
    "type": "com.example.order.created",
    "source": "/orders",
    "id": "A-1",
    "subject": "order/1",
    "time": "2018-04-05T17:31:00.1234567Z",
    "datacontenttype": "application/json",
    "dataschema": "https://example.com/order.json",
    "data": {"items": [{"sku": "x"}]},
    "partitionkey": "k",
    "number": 5,
    "flag": True,
}
"""Every attribute, and extensions of every type."""

HEADERS = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}


def new(**given: Any) -> Event:
    """Return a small event, the same each time."""
    return Event(**{"type": "t", "source": "/s", "id": "1", "time": None, **given})


def by_http(body: bytes, **headers: str) -> Event:
    """Return an event as it comes in the binary mode."""
    given = {**HEADERS, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return from_http(given, body)[0]


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
    "spelling of JSON": decode(
        b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"b" : 1.0,  "a":"\\u00e4\\/", "b2":1e2}}'
    ),
    "spelling of the type": by_http(b"{}", content_type='Application/JSON ;Charset="UTF-8"'),
    "white space around JSON": by_http(b' \n{"a": 1}\r\n ', content_type="application/json"),
    "what is no JSON": by_http(b'{"a": ', content_type="application/json"),
    "a body without a type": by_http(b"\xef\xbb\xbf{}"),
    "headers as text": by_http(b"", ce_number="5", ce_flag="true", ce_subject="%F0%9F%98%80%20x"),
    "digits of the time": new(time="2018-04-05T17:31:00.123456789+05:30"),
}  # fmt: skip
"""Events in every form, by what is special about each."""


def exact(event: Event) -> tuple[Any, ...]:
    """Return everything there is in an event, with the types and the order of its attributes."""
    values = [(name, type(value), value) for name, value in event.attributes.items()]
    return values, event.raw, event.has_data, event._form, event == event  # noqa: PLR0124 - it can be compared
