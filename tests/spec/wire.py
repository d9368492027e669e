"""Events as they stand on the wire, and short ways to read and write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from cloudevents_kit import Event, EventError, _http
from cloudevents_kit._http import Mode

MEMBERS = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
HEADERS = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
MODES: tuple[Mode, ...] = ("binary", "structured")

Text = str | bytes
#: The headers of a message: by name, or in their order where a name may be repeated.
Fields = Mapping[str, Text] | Sequence[tuple[Text, Text]]


def to_bytes(text: Text) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def pairs(headers: Fields) -> list[tuple[bytes, bytes]]:
    """Write headers as servers hand them on."""
    items = headers.items() if isinstance(headers, Mapping) else headers
    return [(to_bytes(name), to_bytes(value)) for name, value in items]


def read(headers: Fields, body: Text = b"") -> Event:
    """Read the one event of a message."""
    _, (event,) = _http.decode(pairs(headers), to_bytes(body))
    return event


def binary(headers: Mapping[str, Text] | None = None, body: Text = b"", *, drop: str | None = None) -> Event:
    """Read a binary event with more or other headers than the required ones."""
    kept = {name: value for name, value in HEADERS.items() if name != drop}
    return read({**kept, **(headers or {})}, body)


def parse(text: Text, content_type: str = STRUCTURED) -> Event:
    """Read a structured event."""
    return read({"Content-Type": content_type}, text)


def structured(members: dict[str, Any] | None = None, *, drop: str | None = None, **more: Any) -> Event:
    """Read a structured event with more or other members than the required ones."""
    every = {name: value for name, value in {**MEMBERS, **(members or {}), **more}.items() if name != drop}
    return parse(json.dumps(every))


def plus(text: str) -> Event:
    """Read a structured event of the required members and ``text``, JSON as it stands."""
    return parse(json.dumps(MEMBERS)[:-1] + f",{text}}}")


def batch(text: Text) -> list[Event]:
    """Read a batch."""
    kind, events = _http.decode(pairs({"Content-Type": BATCH}), to_bytes(text))
    assert kind == "batch"
    return events


def new(**attributes: Any) -> Event:
    """Build an event."""
    return Event(**{"type": "t", "source": "/s", "id": "1", "time": None, **attributes})


def again(event: Event, mode: Mode) -> Event:
    """Write ``event`` and read it back."""
    message = _http.encode(event, mode)
    return read(message.headers, message.body)


def members_of(event: Event) -> dict[str, Any]:
    """Return the members of the structured event."""
    found: dict[str, Any] = json.loads(_http.encode(event, "structured").body)
    return found


def headers_of(event: Event) -> dict[str, str]:
    """Return the headers of the binary event."""
    return _http.encode(event, "binary").headers


def body_of(event: Event) -> bytes:
    """Return the body of the binary event."""
    return _http.encode(event, "binary").body


def refused(read_it: Callable[[], object], *, attribute: str | None = None) -> int:
    """Check that a message or event is refused with one of our errors; return the status of the answer."""
    with pytest.raises(EventError) as caught:
        read_it()
    assert attribute in {None, caught.value.attribute}, caught.value
    return caught.value.status
