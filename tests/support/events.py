"""Events to test with: one with every attribute, small ones, and ones as a careless peer sends them."""

from __future__ import annotations

from typing import Any

from cloudevents_kit import Event, _json
from cloudevents_kit.testing._events import FULL, new

__all__ = ["FULL", "new", "read"]


def read(**members: Any) -> Event:
    """An event as it comes from a peer, who need not obey the rules of documented extensions."""
    return _json.decode(_json._write({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", **members}))
