"""JSON event format (CloudEvents JSON Format 1.0): bytes to events and back, one or a batch.

The fast path decodes an envelope straight into a dict of attributes and leaves ``data`` as the bytes that
came. What is left to prove is that no member was repeated or skipped, and a count of quotation marks does that: a
decoded string member accounts for four, a number and the name of ``data`` for two, and any further member or escaped
quote would add to them. Whatever does not add up, a null, an extension met for the first time, a mistake, takes the
slow path, which looks at each member and can name the one that is wrong. Both paths take the same events.
"""

from __future__ import annotations

import base64
import binascii
import threading
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Required, TypedDict, TypeVar

import msgspec
from msgspec import Raw

from cloudevents_kit import _payload
from cloudevents_kit._arguments import check_kind
from cloudevents_kit._errors import BindingError, EventError
from cloudevents_kit._event import Event
from cloudevents_kit._values import (
    CORE_NAMES,
    INT_MAX,
    INT_MIN,
    Value,
    check_attributes,
    check_name,
    check_value,
    is_absolute_uri,
    is_media_type,
    is_timestamp,
    is_uri_reference,
)

CONTENT_TYPE = "application/cloudevents+json"
BATCH_CONTENT_TYPE = "application/cloudevents-batch+json"

_LEARNED_NAMES = 32
_LONGEST_NAME = 64
T = TypeVar("T")
_Members = dict[str, Any]
_Scalar = str | int | float | bool | None
make = Event._checked


class _Envelope:
    """The decoders of the fast path, and the extensions they know, each with the type it had when first met.

    Extensions are learned from traffic, at most `_LEARNED_NAMES` of them: beyond that, events with others keep to the
    slow path, so that hostile names cost nothing more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._types: dict[str, Any] = dict.fromkeys(
            ("partitionkey", "traceparent", "correlationid", "causationid"), str
        )
        self._build()

    def _build(self) -> None:
        make: Any = TypedDict
        shape: Any = make("shape", {**_CORE, **self._types, "data": Raw}, total=False)
        one: Callable[[bytes], _Members] = msgspec.json.Decoder(shape).decode
        many: Callable[[bytes], list[_Members]] = msgspec.json.Decoder(types.GenericAlias(list, (shape,))).decode
        # One tuple, so that a decoder is never used with the names of another. Numbers and Booleans have no quotes.
        self.current = (one, many, frozenset(name for name, kind in self._types.items() if kind is not str))

    def learn(self, attributes: Mapping[str, Value]) -> None:
        """Take the extensions among ``attributes`` onto the fast path."""
        with self._lock:
            new = {name: _TYPES[type(value)] for name, value in attributes.items() if name not in CORE_NAMES}
            known = len(new.keys() | self._types.keys())
            if len(self._types) < known <= _LEARNED_NAMES and max(map(len, new)) <= _LONGEST_NAME:
                self._types = {**new, **self._types}
                self._build()


_Text = Annotated[str, msgspec.Meta(min_length=1)]
_CORE: dict[str, Any] = {
    "specversion": Required[Literal["1.0"]],
    "id": Required[_Text],
    "source": Required[str],
    "type": Required[_Text],
    "subject": _Text,
    "time": str,
    "datacontenttype": str,
    "dataschema": str,
}
_TYPES: dict[type, Any] = {str: str, bool: bool, int: Annotated[int, msgspec.Meta(ge=INT_MIN, le=INT_MAX)]}
_envelope = _Envelope()
_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def is_utf8(text: bytes) -> bool:
    """Tell whether ``text`` is UTF-8."""
    try:
        return text.isascii() or bool(text.decode())
    except UnicodeDecodeError:
        return False


def decode(body: bytes) -> Event:
    """Read one event; raise EventError."""
    one, _, unquoted = _envelope.current
    body = body if type(body) is bytes else _to_bytes(body)
    try:
        members = one(body)
    except _MALFORMED:
        return _decode_slowly(body)
    raw = bytes(members.pop("data", b""))
    head = body
    quotes = 4 * len(members)
    if raw:
        quotes += 2
        if body.endswith(raw, 0, -1):
            head = body[: -len(raw) - 1]
        else:
            quotes += raw.count(b'"')
    if unquoted:
        quotes -= 2 * len(unquoted & members.keys())
    if head.count(b'"') == quotes and (_is_clean(head) or _are_printable(members)):
        return _assemble(members, raw) or _decode_slowly(body)
    return _decode_slowly(body)


def decode_batch(body: bytes) -> list[Event]:
    """Read a batch; raise BindingError whose message begins with the index of the broken member."""
    _, many, unquoted = _envelope.current
    body = body if type(body) is bytes else _to_bytes(body)
    try:
        batch = many(body)
    except _MALFORMED:
        return _decode_batch_slowly(body)
    quotes, clean = body.count(b'"'), _is_clean(body)
    events: list[Event] = []
    for members in batch:
        raw = bytes(members.pop("data", b""))
        quotes -= 4 * len(members)
        if raw:
            quotes -= 2 + raw.count(b'"')
        event = _assemble(members, raw) if clean or _are_printable(members) else None
        if event is None:
            return _decode_batch_slowly(body)
        events.append(event)
    for name in unquoted:
        quotes += 2 * len([members for members in batch if name in members])
    return _decode_batch_slowly(body) if quotes else events


def _to_bytes(body: bytes) -> bytes:
    check_kind("body", body, (bytes, bytearray, memoryview), "bytes")
    return bytes(body)


def _is_clean(text: bytes) -> bool:
    """Tell whether no string in this JSON text can hold a forbidden character: it is ASCII without escapes or DEL."""
    return text.isascii() and 92 not in text and 127 not in text


def _are_printable(members: _Members) -> bool:
    return "".join([value for value in members.values() if type(value) is str]).isprintable()


def _assemble(members: _Members, raw: bytes) -> Event | None:
    """Build the event of an envelope that `_CORE` has let through, or return None where anything is unusual."""
    if not is_uri_reference(members["source"]) or ("time" in members and not is_timestamp(members["time"])):
        return None
    if "dataschema" in members and not is_absolute_uri(members["dataschema"]):
        return None
    content_type = members.get("datacontenttype", _payload.JSON_TYPE)
    if raw:
        is_json = _payload.holds_json[content_type] and (raw.isascii() or is_utf8(raw))
        return make(members, raw, _payload.JSON) if is_json else None
    return make(members, b"", _payload.ABSENT) if is_media_type(content_type) else None


def _decode_slowly(body: bytes) -> Event:
    event = _from_members(_members(body))
    _envelope.learn(event.attributes)
    return event


def _decode_batch_slowly(body: bytes) -> list[Event]:
    events = []
    members = _parse(body, _split_array, "an array")
    for index, member in enumerate(members):
        try:
            events.append(_decode_slowly(bytes(member)))
        except EventError as error:
            raise BindingError(error.status, f"event {index}: {error}") from error
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
    try:
        form = event._form
    except AttributeError:
        way_out = "Event.of takes those of the official SDK"
        raise TypeError(f"event: must be an Event, not {type(event).__name__} ({way_out})") from None
    if form == _payload.ABSENT:
        return event._attributes
    if form == _payload.JSON:
        return {**event._attributes, "data": Raw(event._raw)}
    return {**event._attributes, **_data_member(event)}


def _data_member(event: Event) -> dict[str, Any]:
    """Write what is no proven JSON: text as a string, an HTTP body as what it claims and proves to be, else base64.

    Text whose bytes would come back otherwise, a UTF-16 of the other byte order, counts as bytes.
    """
    if event._form != _payload.BYTES:
        try:
            value = event.data
        except EventError:
            value = event._raw
        if _payload.is_json(event._form, event.datacontenttype) and value is not event._raw:
            return {"data": Raw(event._raw)}
        if isinstance(value, str) and _payload.write(value, event.datacontenttype)[0] == event._raw:
            return {"data": value}
    return {"data_base64": base64.b64encode(event._raw).decode("ascii")}
