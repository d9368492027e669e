"""Events to test with: one with every attribute, small ones, and ones as a careless peer sends them."""

from __future__ import annotations

from typing import Any

from cloudevents_kit import Event, _json

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


def new(**given: Any) -> Event:
    return Event(**{"type": "t", "source": "/s", "id": "1", "time": None, **given})


def read(**members: Any) -> Event:
    """An event as it comes from a peer, who need not obey the rules of documented extensions."""
    return _json.decode(_json._write({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", **members}))
