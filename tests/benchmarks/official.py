"""What the official SDK leaves to its user: batches, and building the sample event."""

from __future__ import annotations

import json
from typing import Any

from cloudevents.core.bindings.http import HTTPMessage
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from dateutil.parser import isoparse  # type: ignore[import-untyped, unused-ignore]


def build(sample: dict[str, Any]) -> CloudEvent:
    """An SDK event from a JSON object; the same steps its JSON format takes after parsing."""
    attributes = dict(sample)
    data = attributes.pop("data", None)
    attributes["time"] = isoparse(attributes["time"])
    return CloudEvent(attributes, data)


def decode_batch(body: bytes) -> list[CloudEvent]:
    """The quick way by hand: parse the array once, then make an event of every member."""
    return [build(member) for member in json.loads(body)]


def decode_batch_by_format(body: bytes) -> list[Any]:
    """The way with its public JSON format, which takes text: every member is written again and read."""
    form = JSONFormat()
    return [form.read(None, json.dumps(member)) for member in json.loads(body)]


def encode_batch(events: list[CloudEvent]) -> bytes:
    """Write every member with its JSON format and join them."""
    form = JSONFormat()
    return b"[" + b",".join(form.write(event) for event in events) + b"]"


def message(headers: dict[str, str], body: bytes) -> HTTPMessage:
    """The SDK's own message, with the headers copied as a handler has to."""
    return HTTPMessage(dict(headers), body)
