"""The events every benchmark uses, as JSON objects, as bodies and as headers."""

from __future__ import annotations

import json
from typing import Any, Final

EVENT_TYPE: Final = "com.example.order.created"
STRUCTURED_TYPE: Final = "application/cloudevents+json"
BATCH_TYPE: Final = "application/cloudevents-batch+json"
SMALL_BYTES: Final = 465
LARGE_BYTES: Final = 64 * 1024
BATCH_SIZE: Final = 100
POOL_SIZE: Final = 64

_ORDER: Final[dict[str, Any]] = {
    "order": 48213,
    "currency": "EUR",
    "total": 129.95,
    "lines": [{"sku": "A-1009", "count": 2}, {"sku": "B-4410", "count": 1}],
}


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def small(number: int) -> dict[str, Any]:
    """Event `number` as a JSON object: 465 bytes on the wire, two custom extensions, a String and an Integer."""
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": f"{number:08x}-5c1d-4f0a-9b52-7d1f3c2a9e10",
        "source": "https://shop.example.com/orders",
        "type": EVENT_TYPE,
        "subject": f"orders/{number:08d}",
        "time": f"2026-11-03T10:{number // 60 % 60:02d}:{number % 60:02d}.123456Z",
        "datacontenttype": "application/json",
        "tenantid": "acme-eu-1",
        "shardnumber": 7,
        "data": {**_ORDER, "note": ""},
    }
    event["data"]["note"] = "x" * (SMALL_BYTES - len(_compact(event)))
    return event


def large(number: int) -> dict[str, Any]:
    """Event `number` with a 64 KiB body: rows of a few short fields and one longer text."""
    event = small(number)
    row = {"sku": "A-1009", "count": 2, "price": 64.975, "tags": ["new", "blue"], "title": "a thing of some kind " * 8}
    rows = (LARGE_BYTES - len(_compact({**event, "data": {"rows": [], "note": ""}}))) // (len(_compact(row)) + 1)
    event["data"] = {"rows": [row] * rows, "note": ""}
    event["data"]["note"] = "x" * (LARGE_BYTES - len(_compact(event)))
    return event


def structured(number: int) -> bytes:
    """Event `number` as a structured body."""
    return _compact(small(number))


def structured_texts(number: int) -> bytes:
    """Event `number` as a structured body whose extensions are Strings alone."""
    event = small(number)
    return _compact({"shardname": str(event.pop("shardnumber")), **event})


def structured_large(number: int) -> bytes:
    """Event `number` as a structured body of 64 KiB."""
    return _compact(large(number))


def batch(number: int) -> bytes:
    """A batch of 100 events that starts with event `number`."""
    return _compact([small(number + index) for index in range(BATCH_SIZE)])


def binary(number: int) -> tuple[dict[str, str], bytes]:
    """Event `number` in binary mode: seven ce- headers, content type, and the payload."""
    event = small(number)
    names = ("specversion", "id", "source", "type", "time", "tenantid", "shardnumber")
    headers = {f"ce-{name}": str(event[name]) for name in names}
    return {**headers, "content-type": event["datacontenttype"]}, _compact(event["data"])


def wire_headers(headers: dict[str, str], body: bytes) -> dict[str, str]:
    """The headers a client sends: its own first, then those of the event."""
    client = {"Host": "127.0.0.1", "User-Agent": "benchmark/1.0", "Accept": "*/*"}
    return {**client, **headers, "Content-Length": str(len(body))}


def request(headers: dict[str, str], body: bytes) -> bytes:
    """A whole HTTP/1.1 POST, ready to be written to a socket."""
    lines = [f"{name}: {value}\r\n" for name, value in wire_headers(headers, body).items()]
    return ("POST / HTTP/1.1\r\n" + "".join(lines) + "\r\n").encode() + body
