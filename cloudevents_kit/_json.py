"""JSON event format (CloudEvents JSON Format 1.0): bytes to events and back, one or a batch.

The fast path decodes an envelope straight into a dict of attributes and leaves ``data`` as the bytes that came. What
is left to prove is that no member was repeated or skipped, and a count of quotation marks does that: the decoded
members account for a number of quotes, and any further member adds to it. Whatever does not add up, an escaped quote
in an attribute, an extension met for the first time, a null, a mistake, takes the slow path, which looks at each
member and can name the one that is wrong. Both paths accept the same events.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypedDict, TypeVar

import msgspec
from msgspec import Raw

from cloudevents_kit import _payload
from cloudevents_kit._errors import BindingError, EventError
from cloudevents_kit._event import Event
from cloudevents_kit._values import (
    CORE_NAMES,
    INT_MAX,
    INT_MIN,
    Value,
    are_plain,
    check_attributes,
    check_name,
    check_value,
)

CONTENT_TYPE = "application/cloudevents+json"
BATCH_CONTENT_TYPE = "application/cloudevents-batch+json"

_LEARNED_NAMES = 32
T = TypeVar("T")
_Members = dict[str, Any]
_Scalar = str | int | float | bool | None


class _Envelope:
    """The decoders of the fast path, and the extension names they know.

    Names are learned from traffic, at most `_LEARNED_NAMES` of them: beyond that, events with other extensions keep
    to the slow path, so that hostile names cost nothing more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: tuple[str, ...] = ("partitionkey", "traceparent", "correlationid", "causationid", "sequence")
        self._build()

    def _build(self) -> None:
        fields = dict.fromkeys((*CORE_NAMES, *self._names), _Scalar)
        make: Any = TypedDict
        shape = make("shape", {**fields, "data": Raw, "data_base64": _Scalar}, total=False)
        self.one: Callable[[bytes], _Members] = msgspec.json.Decoder(shape).decode
        self.many: Callable[[bytes], list[_Members]] = msgspec.json.Decoder(list[shape]).decode

    def learn(self, names: Iterable[str]) -> None:
        """Take further extension names onto the fast path."""
        with self._lock:
            new = [name for name in names if name not in CORE_NAMES and name not in self._names]
            if new and len(self._names) + len(new) <= _LEARNED_NAMES:
                self._names += tuple(new)
                self._build()


_envelope = _Envelope()
_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def is_utf8(text: bytes) -> bool:
    """Tell whether ``text`` is UTF-8."""
    try:
        return text.isascii() or bool(text.decode())
    except UnicodeDecodeError:
        return False


def decode(body: bytes) -> Event:
    """Read one event; raise EventError, or BindingError if ``body`` is no JSON object at all."""
    try:
        members = _envelope.one(body)
    except _MALFORMED:
        return _decode_slowly(body)
    raw = bytes(members.pop("data", b""))
    if raw and body.endswith(raw, 0, -1):
        head = body[: -len(raw) - 1]
        quotes, clean = head.count(b'"'), b"\\" not in head
    else:
        quotes, clean = body.count(b'"') - raw.count(b'"'), False
    found = _assemble(members, raw, clean=clean)
    if found is None or quotes != found[1]:
        return _decode_slowly(body)
    return found[0]


def decode_batch(body: bytes) -> list[Event]:
    """Read a batch; raise BindingError whose message begins with the index of the broken member."""
    try:
        batch = _envelope.many(body)
    except _MALFORMED:
        return _decode_batch_slowly(body)
    quotes, clean = body.count(b'"'), b"\\" not in body
    events: list[Event] = []
    for members in batch:
        raw = bytes(members.pop("data", b""))
        found = _assemble(members, raw, clean=clean)
        if found is None:
            return _decode_batch_slowly(body)
        quotes -= found[1] + raw.count(b'"')
        events.append(found[0])
    return _decode_batch_slowly(body) if quotes else events


def _assemble(members: _Members, raw: bytes, *, clean: bool) -> tuple[Event, int] | None:
    """Build the event of an envelope and tell its number of quotation marks; None where anything is unusual.

    ``clean``: the envelope has no escapes, so that an ASCII string in it can hold no control character but DEL.
    """
    count = 4 * len(members) + (2 if raw else 0)
    try:
        text = "".join(members.values())
    except TypeError:
        others = [name for name, value in members.items() if type(value) is not str]
        if not all(_is_number(name, members[name]) for name in others):
            return None
        count -= 2 * len(others)
        text = "".join([value for value in members.values() if type(value) is str])
    if not ((clean and text.isascii() and "\x7f" not in text) or text.isprintable()) or not are_plain(members):
        return None
    form = _form_of(members, raw)
    return None if form is None else (Event._checked(members, raw, form), count)


def _is_number(name: str, value: object) -> bool:
    """Tell whether an extension's value is a Boolean or an Integer."""
    return name not in CORE_NAMES and (type(value) is bool or (type(value) is int and INT_MIN <= value <= INT_MAX))


def _form_of(members: _Members, raw: bytes) -> int | None:
    """Return the form of an envelope's data, or None if it needs decoding."""
    if "data_base64" in members:
        return None
    if not raw:
        return _payload.ABSENT
    content_type = members.get("datacontenttype")
    is_json = content_type is None or _payload.media_of(content_type).kind == "json"
    return _payload.JSON if is_json and is_utf8(raw) else None


def _decode_slowly(body: bytes) -> Event:
    event = _from_members(_members(body))
    _envelope.learn(event.attributes)
    return event


def _decode_batch_slowly(body: bytes) -> list[Event]:
    events = []
    for index, member in enumerate(_parse(body, _split_array, "an array")):
        try:
            events.append(_decode_slowly(bytes(member)))
        except EventError as error:
            raise BindingError(400, f"event {index}: {error}") from None
        except BindingError as error:
            raise BindingError(error.status, f"event {index}: {error.reason}") from None
    return events


def _members(body: bytes) -> dict[str, Raw]:
    """Split an object into its members, each with the bytes of its value; refuse bad and repeated names."""
    members: dict[str, Raw] = _parse(body, _split_object, "an object")
    for name in members:
        if name not in {"data", "data_base64"}:
            check_name(name)
    if body.count(b'"') != sum(2 + bytes(value).count(b'"') for value in members.values()):
        raise BindingError(400, "a member is repeated")
    return members


_split_object = msgspec.json.Decoder(dict[str, Raw])
_split_array: msgspec.json.Decoder[list[Raw]] = msgspec.json.Decoder(list[Raw])
_scalar = msgspec.json.Decoder(_Scalar)


def _parse(body: bytes, decoder: msgspec.json.Decoder[T], wanted: str) -> T:
    try:
        if not is_utf8(body):
            raise BindingError(400, "the body is not UTF-8")
        return decoder.decode(body)
    except RecursionError:
        reason = "the JSON is nested too deeply"
    except msgspec.ValidationError:
        reason = f"the JSON is not {wanted}"
    except msgspec.DecodeError:
        reason = "the body is not valid JSON"
    raise BindingError(400, reason)


def _from_members(members: dict[str, Raw]) -> Event:
    data = members.pop("data", None)
    coded = members.pop("data_base64", None)
    attributes: dict[str, Value] = {}
    for name, raw in members.items():
        value = _attribute(name, raw)
        if value is not None:
            attributes[name] = value
    check_attributes(attributes)
    if coded is not None and bytes(coded) != b"null":
        if data is not None:
            raise EventError("data", "stands beside data_base64", hint="an event has one of them")
        return Event._checked(attributes, _decode_base64(coded), _payload.BYTES)
    if data is None:
        return Event._checked(attributes, b"", _payload.ABSENT)
    return Event._checked(attributes, *_decode_data(bytes(data), attributes.get("datacontenttype")))


def _attribute(name: str, raw: Raw) -> Value | None:
    try:
        value = _scalar.decode(raw)
    except _MALFORMED:
        raise EventError(name, "must be a string, a boolean or an integer of 32 bits") from None
    if isinstance(value, float):
        raise EventError(name, "must be an Integer: no fraction, no exponent")
    return None if value is None else check_value(name, value)


def _decode_data(raw: bytes, content_type: Any) -> tuple[bytes, int]:
    media = _payload.media_of(content_type)
    if content_type is None or media.kind == "json":
        return raw, _payload.JSON
    text = _payload.decode_json(raw)
    if not isinstance(text, str):
        raise EventError("data", "must be a string for this datacontenttype", value_type=type(text))
    return _payload.encode_text(text, media.charset), _payload.TEXT


def _decode_base64(raw: Raw) -> bytes:
    text = _attribute("data_base64", raw)
    if isinstance(text, str) and text.isascii():
        try:
            decoded = base64.b64decode(text, validate=True)
        except binascii.Error:
            decoded = None
        if decoded is not None and base64.b64encode(decoded).decode("ascii") == text:
            return decoded
    raise EventError("data_base64", "is not base64 (RFC 4648, with padding)")


def encode(event: Event) -> bytes:
    """Write one event."""
    return _write(_object(event))


def encode_batch(events: Iterable[Event]) -> bytes:
    """Write a batch; an empty one is valid."""
    return _write([_object(event) for event in events])


_write = msgspec.json.Encoder().encode


def _object(event: Event) -> dict[str, Any]:
    form = event._form
    if form == _payload.ABSENT:
        return event._attributes
    if form == _payload.JSON:
        return {**event._attributes, "data": Raw(event._raw)}
    return {**event._attributes, **_data_member(event)}


def _data_member(event: Event) -> dict[str, Any]:
    """Write what is no proven JSON: text as a string, an HTTP body as what it claims and proves to be, else base64."""
    if event._form != _payload.BYTES:
        try:
            value = event.data
        except EventError:
            value = event._raw
        if _payload.is_json(event._form, event.datacontenttype) and value is not event._raw:
            return {"data": Raw(event._raw)}
        if isinstance(value, str):
            return {"data": value}
    return {"data_base64": base64.b64encode(event._raw).decode("ascii")}
