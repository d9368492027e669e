"""The rules that attribute names and values obey (CloudEvents 1.0, "Type System" and "Context Attributes").

Pure functions from a value to its canonical form, a str, int or bool, or an `EventError`. They know no event,
no format and no transport. Values that repeat from event to event (sources, content types) are checked once.
"""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from cloudevents_kit._errors import EventError, UnsupportedVersion

K = TypeVar("K", bound=str | None)
V = TypeVar("V")

#: What an attribute holds once checked: its canonical JSON value.
Value = str | int | bool

SPECVERSION = "1.0"
INT_MIN, INT_MAX = -(2**31), 2**31 - 1
_REMEMBERED = 4096
_LONGEST_REMEMBERED = 512

_NONCHARACTERS = "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
_forbidden = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}]").search
_name = re.compile(r"[a-z0-9]+").fullmatch
_harmless_name = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch
_integer = re.compile(r"-?(?:0|[1-9][0-9]*)").fullmatch

_UNRESERVED = r"A-Za-z0-9\-._~!$&'()*+,;="
_HEX = "%[0-9A-Fa-f]{2}"
_PATH = rf"(?:[{_UNRESERVED}:@/]|{_HEX})*"
_TAIL = rf"(?:\?(?:[{_UNRESERVED}:@/?]|{_HEX})*)?(?:#(?:[{_UNRESERVED}:@/?]|{_HEX})*)?"
_HOST = rf"(?:\[(?:[0-9A-Fa-f:.]+|v[0-9A-Fa-f]+\.[{_UNRESERVED}:]+)\]|(?:[{_UNRESERVED}]|{_HEX})*)"
_AUTHORITY = rf"//(?:(?:[{_UNRESERVED}:]|{_HEX})*@)?{_HOST}(?::[0-9]*)?(?:/{_PATH})?"
_ABSOLUTE = rf"[A-Za-z][A-Za-z0-9+.\-]*:(?:{_AUTHORITY}|(?!//){_PATH})"
_RELATIVE = rf"(?:{_AUTHORITY}|/(?!/){_PATH}|(?:(?:[{_UNRESERVED}@]|{_HEX})+(?:/{_PATH})?)?)"
_absolute_uri = re.compile(_ABSOLUTE + _TAIL).fullmatch
_uri_reference = re.compile(f"(?:{_ABSOLUTE}|{_RELATIVE}){_TAIL}").fullmatch

_TOKEN = r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+"  # noqa: S105 - a grammar
_QUOTED = r'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e]|\\[\t\x20-\x7e])*"'
# Spaces are taken in one place only: where two could take them, the time to refuse a hostile text would explode.
_media_type = re.compile(rf"{_TOKEN}/{_TOKEN}[ \t]*(?:;[ \t]*(?:{_TOKEN}=(?:{_TOKEN}|{_QUOTED})[ \t]*)?)*").fullmatch

# Every date-time of RFC 3339 but those of 29 February, which take knowing the year.
_timestamp = re.compile(
    r"[0-9]{4}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
    r"[Tt](?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)(?:\.[0-9]+)?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
).fullmatch


#: A traceparent (W3C Trace Context, 3.2.2); its groups are the trace and its flags.
match_traceparent = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})"
).fullmatch


def remember(memory: dict[K, V], key: K, value: V, most: int = 1024) -> None:
    """Keep ``value`` in ``memory``, which forgets everything rather than grow without bound; not for a long ``key``.

    Peers choose the keys, so both their number and their length are theirs.
    """
    if len(memory) >= most:
        memory.clear()
    if key is None or len(key) <= _LONGEST_REMEMBERED:
        memory[key] = value


class _Known(dict[str, bool]):
    """Remembers which texts passed ``check``."""

    def __init__(self, check: Any) -> None:
        self._check = check

    def __missing__(self, text: str) -> bool:
        found = bool(text) and self._check(text) is not None
        if found:
            remember(self, text, found, most=_REMEMBERED)
        return found


is_name = _Known(_name).__getitem__
is_uri_reference = _Known(_uri_reference).__getitem__
is_absolute_uri = _Known(_absolute_uri).__getitem__
is_media_type = _Known(_media_type).__getitem__


def is_timestamp(text: str) -> bool:
    """Tell whether ``text`` is an RFC 3339 date-time; a leap second counts as one."""
    return _timestamp(text) is not None or _is_leap_day(text)


def _is_leap_day(text: str) -> bool:
    if text[4:10] != "-02-29" or _timestamp(f"{text[:9]}8{text[10:]}") is None:
        return False
    year = int(text[:4])
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def parse_timestamp(text: str, name: str = "time") -> datetime:
    """Turn a checked RFC 3339 text into an aware datetime; digits past the microsecond are cut.

    A leap second (``:60``), which datetime cannot hold, becomes the last microsecond before it. Raises EventError,
    about the attribute ``name``, for the year 0000.
    """
    text = text.upper()
    zone_at = next(i for i in range(len(text) - 1, 18, -1) if text[i] in "Z+-")
    clock, zone = text[:zone_at], text[zone_at:]
    whole, _, fraction = clock.partition(".")
    if whole.endswith(":60"):
        whole, fraction = whole[:-2] + "59", "999999"
    try:
        return datetime.fromisoformat(f"{whole}.{fraction[:6]:0<6}{zone}")
    except ValueError:
        raise EventError(name, "lies outside what datetime can hold", hint="read the text instead") from None


def format_timestamp(when: datetime) -> str:
    """Write an aware datetime as RFC 3339; an offset with seconds becomes UTC."""
    offset = when.utcoffset()
    if offset is None:
        raise EventError("time", "must carry an offset", hint="a naive datetime names no moment: use tzinfo=UTC")
    if offset % timedelta(minutes=1):
        try:
            when = when.astimezone(UTC)
        except OverflowError:
            hint = "use an offset of whole minutes"
            raise EventError("time", "lies outside what datetime can hold in UTC", hint=hint) from None
    text = when.isoformat()
    return text[:-6] + "Z" if text.endswith("+00:00") else text


def check_name(name: str) -> str:
    """Return ``name`` if it may name an attribute: one or more of a-z and 0-9, and not "data"."""
    if name == "data":
        raise EventError("data", "is not an attribute", hint="it stands beside the attributes")
    if not is_name(name):
        near = re.sub("[^a-z0-9]", "", name.lower()) if shown(name) == name else ""
        hint = f"did you mean {near!r}?" if near else "for example partitionkey"
        if name == "data_base64":
            hint = "give bytes as data"
        raise EventError(shown(name), "attribute names use only a-z and 0-9", hint=hint)
    return name


def shown(name: str) -> str:
    """Return ``name`` if a message may show it to the peer that chose it, else a word in its place."""
    return name if _harmless_name(name) else "attribute"


def check_string(name: str, value: str) -> str:
    """Return ``value`` if the String type allows every character in it."""
    if not (value.isascii() and value.isprintable()) and _forbidden(value):
        hint = "encode it, or put it into data"
        raise EventError(name, "holds a control character, noncharacter or lone surrogate", hint=hint)
    return value


def check_value(name: str, value: object) -> Value:
    """Return the canonical form of ``value`` for any attribute; raise EventError if no CloudEvents type fits."""
    kind = type(value)
    if kind is str:
        return check_string(name, value)  # type: ignore[arg-type]
    if kind is bool:
        return value  # type: ignore[return-value]
    if isinstance(value, int):
        if INT_MIN <= value <= INT_MAX:
            return int(value)
        raise EventError(name, "Integer must fit 32 bits", hint="use a string for larger numbers")
    return _convert(name, value)


def _convert(name: str, value: object) -> str:
    if isinstance(value, str):
        return check_string(name, str.__str__(value))
    if _is_url(value):
        return check_string(name, str(value))
    if name in CORE_NAMES and not (name == "time" and isinstance(value, datetime)):
        raise EventError(name, "must be a string", hint=_HINTS[name], value_type=type(value))
    if isinstance(value, datetime):
        try:
            return format_timestamp(value)
        except EventError as error:
            raise EventError(name, error.rule, hint=error.hint) from None
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    hint = "write it as a string, or put it into data"
    rule = "must be str, int, bool, bytes, an aware datetime or a URL"
    raise EventError(name, rule, hint=hint, value_type=type(value))


def _is_url(value: object) -> bool:
    yarl = sys.modules.get("yarl")
    return yarl is not None and isinstance(value, yarl.URL)


def parse_integer(name: str, value: Value) -> int:
    """Read an Integer that may have come as text, as in HTTP headers."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= len(str(INT_MIN)) and _integer(value):
        number = int(value)
        if INT_MIN <= number <= INT_MAX:
            return number
    raise EventError(name, "is no Integer of 32 bits")


def parse_boolean(name: str, value: Value) -> bool:
    """Read a Boolean that may have come as text, as in HTTP headers."""
    if isinstance(value, bool):
        return value
    if value in {"true", "false"}:
        return value == "true"
    raise EventError(name, "is no Boolean", hint='the canonical texts are "true" and "false"')


def are_plain(attributes: Mapping[str, Any]) -> bool:
    """Tell quickly whether attributes that are all str obey `check_attributes`, which finds out what is wrong."""
    try:
        if (
            attributes["specversion"] != SPECVERSION
            or not attributes["id"]
            or not attributes["type"]
            or not is_uri_reference(attributes["source"])
        ):
            return False
    except KeyError:
        return False
    return not (
        ("time" in attributes and not is_timestamp(attributes["time"]))
        or ("datacontenttype" in attributes and not is_media_type(attributes["datacontenttype"]))
        or ("subject" in attributes and not attributes["subject"])
        or ("dataschema" in attributes and not is_absolute_uri(attributes["dataschema"]))
    )


def check_attributes(attributes: dict[str, Value]) -> dict[str, Value]:
    """Check presence and grammar of the attributes that the specification defines; return the same dict.

    Names and value types must have been checked before. Raises EventError, or UnsupportedVersion.
    """
    if {*map(type, attributes.values())} == {str} and are_plain(attributes):
        return attributes
    for name in ("id", "source", "type"):
        if name not in attributes:
            raise EventError(name, "is required", hint=_HINTS[name])
    if attributes.get("specversion") != SPECVERSION:
        raise _bad_version(attributes.get("specversion"))
    for name, (check, rule) in _RULES.items():
        value = attributes.get(name)
        if value is None:
            continue
        if type(value) is not str:
            raise EventError(name, "must be a string", hint=_HINTS[name], value_type=type(value))
        if not value:
            raise EventError(name, "must not be empty", hint=_HINTS[name])
        if not check(value):
            raise EventError(name, rule, hint=_HINTS[name])
    return attributes


def _bad_version(version: object) -> EventError:
    if version is None:
        return EventError("specversion", "is required", hint=_HINTS["specversion"])
    superseded = "version 0.3 was superseded in 2019: let the producer send 1.0"
    hint = superseded if version == "0.3" else "for 1.0.1 and 1.0.2, too"
    return UnsupportedVersion("specversion", 'must be "1.0"', hint=hint)


_RULES: dict[str, tuple[Callable[[str], bool], str]] = {
    "id": (bool, ""),
    "source": (is_uri_reference, "must be a URI-reference, spaces and non-ASCII characters percent-encoded"),
    "type": (bool, ""),
    "subject": (bool, ""),
    "time": (is_timestamp, "must be an RFC 3339 timestamp"),
    "datacontenttype": (is_media_type, "must be a media type"),
    "dataschema": (is_absolute_uri, "must be an absolute URI"),
}
_HINTS = {
    "specversion": 'it is "1.0"',
    "id": "for example a UUID",
    "source": "for example /orders",
    "type": "for example com.example.order.created",
    "subject": "leave it out if there is none",
    "time": "for example 2018-04-05T17:31:00Z",
    "datacontenttype": "for example application/json",
    "dataschema": "for example https://example.com/order.json",
}
#: The attributes that the specification itself defines; every other one is an extension.
CORE_NAMES = frozenset(_HINTS)
