"""HTTP binding (CloudEvents HTTP Protocol Binding 1.0), sans-IO: header pairs and a body to events, and back.

The content mode comes from Content-Type alone. Header pairs are bytes as servers have them; names in any case.
Knows nothing of servers, clients or statuses, beside the 4xx that an `EventError` carries.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol
from urllib.parse import quote, unquote_to_bytes

from cloudevents_kit import _json, _payload
from cloudevents_kit._arguments import check_kind
from cloudevents_kit._errors import BindingError, EventError
from cloudevents_kit._event import Event
from cloudevents_kit._values import are_plain, check_attributes, check_name, check_string, remember, shown

Mode = Literal["binary", "structured"]
Kind = Literal["binary", "structured", "batch"]
Headers = Sequence[tuple[bytes, bytes]]

ENCODINGS = ("gzip", "deflate")
_MAX_HEADER_TEXT = 7000
_MAX_HEADER_COUNT = 100
_REMEMBERED = 1024

# Text that stands in a header as itself: printable ASCII but for space, percent sign and quotation mark (3.1.3.2).
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '%"')
_SAFE_BYTES = _SAFE.encode()
_PLAIN = (_SAFE + " ").encode()
_quoted = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL).fullmatch


class Message(NamedTuple):
    """An event as HTTP carries it."""

    headers: dict[str, str]
    body: bytes


#: What an HTTP message turned out to hold: its content mode and its event or events.
Received = tuple[Kind, list[Event]]


class _Names(dict[bytes, str]):
    """From a header's name, as spelled by the peer, to the attribute it holds; "" for a header that holds none."""

    def __missing__(self, name: bytes) -> str:
        lower = name.lower()
        if lower == b"content-type":
            attribute = "datacontenttype"
        elif lower == b"content-encoding":
            attribute = _CODING
        else:
            attribute = lower[3:].decode("latin-1") if lower.startswith(b"ce-") else ""
            attribute = _FORBIDDEN.get(lower, attribute)
        if len(self) >= _REMEMBERED:
            self.clear()
        if len(name) <= 64:
            self[name] = attribute
        return attribute


# Stand-ins that are no attribute names, so that no header of the peer can be taken for them.
_CODING = "content-encoding"
_FORBIDDEN = {b"ce-datacontenttype": "ce-datacontenttype", b"ce-": "ce-", b"ce-content-encoding": "ce-content-encoding"}
_attribute_of = _Names()


class _Kinds(dict[str | None, Kind]):
    """From a Content-Type to the content mode (3), for those that were seen."""

    def __missing__(self, content_type: str | None) -> Kind:
        kind = _kind(content_type or "")
        remember(self, content_type, kind)
        return kind


def _kind(content_type: str) -> Kind:
    media, _, parameters = content_type.lower().partition(";")
    media = media.strip()
    if not media.startswith("application/cloudevents"):
        return "binary"
    if media not in {_json.CONTENT_TYPE, _json.BATCH_CONTENT_TYPE}:
        raise BindingError(415, "this event format is not supported: use application/cloudevents+json")
    charset = re.search(r'(?:^|;)[ \t]*charset="?([^";\s]*)', parameters)
    if charset and charset[1] not in {"utf-8", "utf8", "us-ascii"}:
        raise BindingError(415, "this charset is not supported: use UTF-8")
    return "batch" if media == _json.BATCH_CONTENT_TYPE else "structured"


_kind_of = _Kinds()


def decode(
    headers: Headers,
    body: bytes,
    inflate: Callable[[bytes, str], bytes] | None = None,
    content_type: str | None = None,
) -> Received:
    """Read the event or events of an HTTP message.

    Args:
        headers: pairs of name and value, as they came.
        body: the body, complete.
        inflate: undoes a Content-Encoding, given the body and the coding; None if the server did that already.
        content_type: the only Content-Type among ``headers``, from a server that has it at hand and knows that there
            is no Content-Encoding; spares the search.

    Raises:
        EventError: an event breaks a rule, or there is none that can be read; its ``status`` is the answer.
    """
    if content_type is not None and (kind := _kind_of[content_type]) != "binary":
        return kind, _formatted(kind, body)
    attributes: dict[str, Any] = {}
    count = 0
    for name, value in headers:
        attribute = _attribute_of[name]
        if attribute:
            attributes[attribute] = value
            count += 1
    if len(attributes) != count or _CODING in attributes or b"".join(attributes.values()).translate(None, _PLAIN):
        return _decode_unusual(headers, body, inflate)
    for attribute, value in attributes.items():
        attributes[attribute] = value.decode()
    kind = _kind_of[attributes.get("datacontenttype")]
    return kind, [_binary(attributes, body)] if kind == "binary" else _formatted(kind, body)


def _decode_unusual(headers: Headers, body: bytes, inflate: Callable[[bytes, str], bytes] | None) -> Received:
    """Read a message that has escapes, repeated headers or a Content-Encoding."""
    found = [(attribute, value) for name, value in headers if (attribute := _attribute_of[name])]
    content_type = _only(found, "datacontenttype")
    coding = _only(found, _CODING)
    kind = _kind_of[content_type]
    if coding is not None and coding.strip().lower() != "identity":
        if coding.strip().lower() not in ENCODINGS:
            raise BindingError(415, "this Content-Encoding is not supported: use gzip or deflate")
        body = inflate(body, coding.strip().lower()) if inflate is not None else body
    if kind != "binary":
        return kind, _formatted(kind, body)
    attributes = {}
    for name, value in found:
        if name == _CODING:
            continue
        if name in attributes:
            raise EventError(shown(name), "is repeated")
        attributes[name] = content_type or "" if name == "datacontenttype" else decode_value(shown(name), value)
    return kind, [_binary(attributes, body)]


def _only(found: list[tuple[str, bytes]], wanted: str) -> str | None:
    values = [value for name, value in found if name == wanted]
    if len(values) > 1:
        raise BindingError(400, "Content-Type or Content-Encoding is repeated")
    # HTTP takes a tab for a space between parameters (RFC 9110, 5.6.3); the String type of an attribute has no tab.
    return values[0].decode("latin-1").replace("\t", " ") if values else None


def _formatted(kind: Kind, body: bytes) -> list[Event]:
    return [_json.decode(body)] if kind == "structured" else _json.decode_batch(body)


def _binary(attributes: dict[str, str], body: bytes) -> Event:
    form = _payload.BODY if body else _payload.ABSENT
    if are_plain(attributes) and _valid_names(attributes):
        return Event._checked(attributes, body, form)  # type: ignore[arg-type]
    if not attributes.keys() & {"id", "source", "specversion", "type"}:
        raise BindingError(415, "this is no CloudEvent: neither its Content-Type nor ce- headers say so")
    for name in attributes:
        if name == "ce-datacontenttype":
            raise EventError("datacontenttype", "travels as Content-Type only")
        check_name(name)
    return Event._checked(check_attributes({**attributes}), body, form)


_valid = set[str]()


def _valid_names(attributes: Iterable[str]) -> bool:
    if _valid.issuperset(attributes):
        return True
    try:
        checked = [check_name(name) for name in attributes]
    except EventError:
        return False
    if len(_valid) >= _REMEMBERED:
        _valid.clear()
    _valid.update([name for name in checked if len(name) <= 64])
    return True


def decode_value(name: str, value: bytes) -> str:
    """Undo the encoding of an attribute in a header (3.1.3.2): a quoted string, then one round of percent-decoding.

    A percent sign that begins no escape is kept; invalid UTF-8 and forbidden characters raise EventError.
    """
    try:
        text = value.strip(b" \t").decode()
    except UnicodeDecodeError:
        raise EventError(name, "is not UTF-8") from None
    if text.startswith('"'):
        if not _quoted(text):
            raise EventError(name, "is an unterminated quoted string")
        text = re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
    if "%" in text:
        try:
            text = unquote_to_bytes(text).decode()
        except UnicodeDecodeError:
            raise EventError(name, "is not UTF-8 after percent-decoding") from None
    return check_string(name, text)


def encode(event: Event, mode: Mode = "binary") -> Message:
    """Write one event; see `to_http`."""
    if mode == "structured":
        return Message({"Content-Type": _json.CONTENT_TYPE}, _json.encode(event))
    if mode != "binary":
        raise ValueError(f"mode: must be 'binary' or 'structured', not {mode!r}")
    attributes = event._attributes
    texts = [value if type(value) is str else str(value).lower() for value in attributes.values()]
    block = "".join(texts)
    if block.encode().translate(None, _SAFE_BYTES):  # something needs percent-encoding (3.1.3.2)
        texts = [quote(text, safe=_SAFE) for text in texts]
        block = "".join(texts)
    if len(block) + len("".join(attributes)) > _MAX_HEADER_TEXT or len(texts) > _MAX_HEADER_COUNT:
        return encode(event, "structured")
    headers = dict(zip(map(_header_of, attributes), texts, strict=True))
    content_type = attributes.get("datacontenttype")
    if content_type is not None:
        if content_type[:23].lower() == "application/cloudevents":  # type: ignore[index]
            raise EventError("datacontenttype", "names an event format", hint="send a nested event structured")
        headers["Content-Type"] = content_type  # type: ignore[assignment]
    elif event._form == _payload.JSON:
        headers["Content-Type"] = _payload.JSON_TYPE
    return Message(headers, event._raw)


class _HeaderNames(dict[str, str]):
    def __missing__(self, name: str) -> str:
        header = "Content-Type" if name == "datacontenttype" else f"ce-{name}"
        remember(self, name, header)
        return header


_header_of = _HeaderNames().__getitem__


class HeaderItems(Protocol):
    """A mapping of headers, or anything else that lists its pairs of name and value."""

    def items(self) -> Iterable[tuple[str | bytes, str | bytes]]:
        """List the pairs; a name may occur more than once."""
        ...


def from_http(headers: HeaderItems | Iterable[tuple[str | bytes, str | bytes]], body: bytes) -> list[Event]:
    """Read the event, or the batch of events, of any HTTP request or response.

    ``headers`` is whatever a framework has: a mapping, or pairs of name and value, str or bytes. A Content-Encoding
    must have been undone. Raises EventError; its ``status`` is what to answer.
    """
    if not isinstance(body, bytes | bytearray | memoryview):
        raise TypeError(f"body: must be bytes, not {type(body).__name__}")
    if hasattr(headers, "items"):
        headers = headers.items()
    check_kind("headers", headers, Iterable, "a mapping, or pairs of name and value", "give those of the request")
    return decode([(_octets(name), _octets(value)) for name, value in headers], bytes(body))[1]


def _octets(text: str | bytes) -> bytes:
    check_kind("headers", text, (str, bytes), "pairs of str or bytes", "a value of None or a number needs str(...)")
    # A surrogate, by which frameworks show bytes that are not UTF-8, becomes bytes that are not UTF-8 either.
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text


def to_http(event: Event | Sequence[Event], mode: Mode = "binary") -> Message:
    """Write one event, or a list of them as a batch, for any HTTP library.

    An event whose attributes are too large for HTTP headers goes structured in any case. Raises EventError if the
    mode cannot carry the event.
    """
    if isinstance(event, Event):
        return encode(event, mode)
    wanted = "an Event, or a list of them"
    check_kind("event", event, Sequence, wanted, "Event.of takes those of the official SDK")
    return encode_batch(event)


def encode_batch(events: Iterable[Event]) -> Message:
    """Write a batch."""
    return Message({"Content-Type": _json.BATCH_CONTENT_TYPE}, _json.encode_batch(events))


def inflate(body: bytes, coding: str, limit: int) -> bytes:
    """Undo gzip or deflate; raise BindingError 413 above ``limit`` bytes, having inflated no more than that."""
    window = 31 if coding == "gzip" else -15 if not body[:1] or body[0] & 0x0F != 8 else 15
    stream = zlib.decompressobj(window)
    try:
        inflated = stream.decompress(body, limit + 1)
    except zlib.error:
        raise BindingError(400, "the compressed body is corrupt") from None
    if len(inflated) > limit:
        raise BindingError(413, f"the body inflates to more than {limit} bytes")
    if not stream.eof or stream.unused_data:
        raise BindingError(400, "the compressed body is incomplete or has trailing bytes")
    return inflated
