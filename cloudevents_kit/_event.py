"""The event: immutable, checked once, its data decoded only when asked for.

An `Event` is a dict of canonical attribute values and the bytes of a payload. It knows nothing of how it travels;
`_json` and `_http` build it and take it apart. It has the ``get_*`` methods of the official SDK's event protocol,
so that package's functions take it as it is.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime
from time import gmtime, strftime, time_ns
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cloudevents_kit import _payload
from cloudevents_kit._errors import DataError, EventError
from cloudevents_kit._extensions import KNOWN, check_known_extensions
from cloudevents_kit._typed import allows_none, convert
from cloudevents_kit._values import (
    CORE_NAMES,
    SPECVERSION,
    Value,
    check_attributes,
    check_name,
    check_value,
    is_name,
    parse_boolean,
    parse_integer,
    parse_timestamp,
)

if TYPE_CHECKING:
    from cloudevents.core.base import BaseCloudEvent

T = TypeVar("T")


class _Unset:
    """Type of the markers that tell an argument left out from None."""

    def __repr__(self) -> str:
        return "..."

    def __reduce__(self) -> str:
        return "_UNSET"  # a copy is the same object


_UNSET: Final = _Unset()
_NOT_EXTENSIONS = CORE_NAMES | {"data"}
_new = object.__new__


class Event:
    """One CloudEvents 1.0 event.

    ``id`` and ``time`` are filled in when left out (``time=None``: no time). Further keywords are extension
    attributes. ``data`` left out means no data; ``data=None`` means a JSON null; bytes are taken as they are;
    with a JSON datacontenttype, or none, any other value is JSON, a str too. The data is copied, never kept.

    Raises:
        EventError: an attribute or the data breaks a rule of the specification; the message names it.
    """

    __slots__ = ("_attributes", "_form", "_raw", "_seen")

    _attributes: dict[str, Value]
    _raw: bytes
    _form: int
    _seen: Any  # what `_peek` has read, or _UNSET

    def __init__(
        self,
        /,  # so that an extension may be called "self"
        *,
        type: str,
        source: str,
        data: Any = _UNSET,
        subject: str | None = None,
        time: datetime | str | _Unset | None = _UNSET,
        id: str | None = None,
        datacontenttype: str | None = None,
        dataschema: str | None = None,
        **extensions: Value | bytes | datetime | None,
    ) -> None:
        """Build and check a new event."""
        given = {
            "specversion": extensions.pop("specversion", SPECVERSION),
            "id": os.urandom(16).hex() if id is None else id,
            "source": source,
            "type": type,
            "subject": subject,
            "time": _now() if isinstance(time, _Unset) else time,
            "datacontenttype": datacontenttype,
            "dataschema": dataschema,
            **extensions,
        }
        self._fill(given, data, given.keys())

    def _fill(self, given: Mapping[str, object], data: object, built: AbstractSet[str]) -> None:
        """Check and take everything; the rules of documented extensions are for the names in ``built``."""
        attributes: dict[str, Value] = {name: value for name, value in given.items() if value is not None}  # type: ignore[misc]
        extended = not attributes.keys() <= CORE_NAMES
        if extended or not _are_plain_strings(attributes.values()):
            attributes = {check_name(name): check_value(name, value) for name, value in attributes.items()}
            check_known_extensions(attributes, built)
        self._attributes = check_attributes(attributes)
        self._raw, self._form, self._seen = b"", _payload.ABSENT, _UNSET
        if data is not _UNSET:
            self._raw, self._form = _payload.write(data, attributes.get("datacontenttype"))  # type: ignore[arg-type]
            if self._form == _payload.JSON and "datacontenttype" not in attributes:
                attributes["datacontenttype"] = _payload.JSON_TYPE

    @staticmethod
    def _checked(attributes: dict[str, Value], raw: bytes, form: int) -> Event:
        """Take parts that a codec has already checked."""
        event = _new(Event)
        event._attributes = attributes
        event._raw = raw
        event._form = form
        event._seen = _UNSET
        return event

    @classmethod
    def of(cls, thing: Event | BaseCloudEvent | Any) -> Event:
        """Return ``thing`` as an Event: itself, or the same event if it is one of the official SDK's, 1.x or 2.x.

        Raises TypeError if it is no event at all, EventError if it is one that breaks a rule.
        """
        if isinstance(thing, Event):
            return thing
        attributes, data = _sdk_parts(thing)
        event = cls.__new__(cls)
        event._fill(attributes, _UNSET if data is None else data, frozenset())
        return event

    @property
    def id(self) -> str:
        """Identifies the event together with `source`."""
        return self._attributes["id"]  # type: ignore[return-value]

    @property
    def source(self) -> str:
        """Where the event comes from: a URI-reference."""
        return self._attributes["source"]  # type: ignore[return-value]

    @property
    def type(self) -> str:
        """What happened, for example ``com.example.order.created``."""
        return self._attributes["type"]  # type: ignore[return-value]

    @property
    def specversion(self) -> str:
        """Always "1.0"."""
        return self._attributes["specversion"]  # type: ignore[return-value]

    @property
    def subject(self) -> str | None:
        """What within the source the event is about."""
        return self._attributes.get("subject")  # type: ignore[return-value]

    @property
    def datacontenttype(self) -> str | None:
        """Media type of the data, byte for byte as it came."""
        return self._attributes.get("datacontenttype")  # type: ignore[return-value]

    @property
    def dataschema(self) -> str | None:
        """Absolute URI of the schema that the data follows."""
        return self._attributes.get("dataschema")  # type: ignore[return-value]

    @property
    def time(self) -> datetime | None:
        """When it happened, cut to microseconds; `time_text` has every digit."""
        try:
            text = self.time_text
            return None if text is None else parse_timestamp(text)
        except EventError as error:
            self._blame(error)
            raise

    @property
    def time_text(self) -> str | None:
        """The time as it was written: RFC 3339."""
        return self._attributes.get("time")  # type: ignore[return-value]

    @property
    def key(self) -> tuple[str, str]:
        """The pair (source, id) that identifies the event."""
        attributes = self._attributes
        return (attributes["source"], attributes["id"])  # type: ignore[return-value]

    @property
    def attributes(self) -> Mapping[str, Value]:
        """All attributes by name, extensions too; values are canonical (time is text). Read-only."""
        return MappingProxyType(self._attributes)

    @property
    def extensions(self) -> Mapping[str, Value]:
        """The extension attributes by name. Read-only."""
        return MappingProxyType({k: v for k, v in self._attributes.items() if k not in CORE_NAMES})

    def __getitem__(self, name: str) -> Value:
        """Return the attribute ``name``; raise KeyError if it is not set."""
        return self._attributes[name]

    if not TYPE_CHECKING:  # pragma: no branch - a type checker knows

        def __getattr__(self, name):  # noqa: ANN001, ANN204
            """Say how to read an extension: it is no attribute of the object."""
            raise AttributeError(f"an Event has no {name!r} (an extension is read by its key: event[{name!r}])")

    def __contains__(self, name: object) -> bool:
        """Tell whether the attribute ``name`` is set."""
        return name in self._attributes

    def __iter__(self) -> Iterator[str]:
        """Go through the names of the attributes that are set."""
        return iter(self._attributes)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the attribute ``name``, or ``default``."""
        return self._attributes.get(name, default)

    def get_int(self, name: str) -> int:
        """Return the attribute ``name`` as Integer, also if it came as text; raise KeyError or EventError."""
        try:
            return parse_integer(name, self._attributes[name])
        except EventError as error:
            self._blame(error)
            raise

    def get_bool(self, name: str) -> bool:
        """Return the attribute ``name`` as Boolean, also if it came as text; raise KeyError or EventError."""
        try:
            return parse_boolean(name, self._attributes[name])
        except EventError as error:
            self._blame(error)
            raise

    @property
    def has_data(self) -> bool:
        """Tell whether there is data; a JSON null is data."""
        return self._form != _payload.ABSENT

    @property
    def raw(self) -> bytes | None:
        """The payload's bytes as they came, or None without data."""
        return self._raw if self._form else None

    @property
    def data(self) -> Any:
        """The data as a Python value, decoded by datacontenttype: JSON values, str, or bytes; None without data.

        Every access decodes anew and the result is yours: keep it in a variable. Raises DataError if the bytes do
        not fit the datacontenttype.
        """
        form = self._form
        try:
            if form == _payload.JSON:
                return _payload.decode_json(self._raw)
            return _payload.read(self._raw, form, self.datacontenttype) if form else None
        except EventError as error:
            self._blame(error)
            raise

    def _peek(self) -> Any:
        """Return `data`, decoded once for all who only look at it: nobody may change what is in it."""
        seen = self._seen
        if seen is _UNSET:
            seen = self._seen = self.data
        return seen

    def as_type(self, kind: builtins.type[T]) -> T:
        """Return the data as ``kind``: a dataclass, TypedDict, msgspec Struct, pydantic model or any type of those.

        Absent data is None if ``kind`` allows that. Raises DataError if it does not fit; the message names the field.
        """
        form = self._form
        try:
            if form == _payload.JSON:
                return convert(self._raw, kind, is_json=True)
            if form == _payload.ABSENT:
                if allows_none(kind):
                    return None  # type: ignore[return-value]
                name = getattr(kind, "__name__", "")  # of a class; how a union is written tells its modules
                raise DataError("is absent", hint=name and f"{name} was asked for")
            is_json = _payload.is_json(form, self.datacontenttype)
            return convert(self._raw if is_json else self.data, kind, is_json=is_json)
        except EventError as error:
            self._blame(error)
            raise

    def _blame(self, error: EventError) -> None:
        """Mark an error that comes from reading this event with its key."""
        error.key = self.key

    def evolve(self, /, **changes: Any) -> Event:
        """Return a new event with ``changes``; an attribute set to None is removed. ``id`` and ``time`` stay.

        The data stays byte for byte unless it is given. Raises EventError.
        """
        event = _new(type(self))
        if _NOT_EXTENSIONS.isdisjoint(changes):
            event._extend(self, changes)
            return event
        data = changes.pop("data", _UNSET)
        event._fill({**self._attributes, **changes}, data, changes.keys())
        if data is _UNSET and self._form != _payload.ABSENT:
            same = event.datacontenttype == self.datacontenttype
            event._raw, event._form = self._raw, self._form if same else _payload.BODY
        return event

    def _extend(self, base: Event, changes: dict[str, object]) -> None:
        """Become ``base`` with other extensions; everything else was checked when ``base`` was made."""
        attributes = base._attributes.copy()
        for name, value in changes.items():
            if type(value) is str and is_name(name) and value.isascii() and value.isprintable():
                attributes[name] = value  # most are like this: no further call
            elif value is None:
                attributes.pop(name, None)
            else:
                attributes[check_name(name)] = check_value(name, value)
        if not KNOWN.isdisjoint(changes):
            check_known_extensions(attributes, changes.keys())
        self._attributes, self._raw, self._form, self._seen = attributes, base._raw, base._form, base._seen

    def reply(self, /, *, type: str, source: str, data: Any = _UNSET, **attributes: Any) -> Event:
        """Return a new event caused by this one: same correlationid (or this id), causationid = this id."""
        attributes.setdefault("correlationid", correlation_of(self))
        attributes.setdefault("causationid", self.id)
        return Event(type=type, source=source, data=data, **attributes)

    def __eq__(self, other: object) -> bool:
        """Compare by value: attributes, presence of data, and the data (JSON by meaning, not by spelling)."""
        if not isinstance(other, Event):
            return NotImplemented
        mine, theirs = self._comparable(), other._comparable()
        return mine == theirs and _same_types(mine, theirs) and _same_payload(self, other)

    def __hash__(self) -> int:
        """Hash by `key`."""
        return hash(self.key)

    def __repr__(self) -> str:
        """Name the event, never its data."""
        return f"Event(type={self.type!r}, source={self.source!r}, id={self.id!r})"

    def _comparable(self) -> dict[str, Value]:
        if self._form == _payload.JSON and self.datacontenttype is None:
            return {**self._attributes, "datacontenttype": _payload.JSON_TYPE}
        return self._attributes

    # The event protocol of the official SDK (cloudevents.core.base.BaseCloudEvent).

    def get_id(self) -> str:
        """Return `id`."""
        return self.id

    def get_source(self) -> str:
        """Return `source`."""
        return self.source

    def get_type(self) -> str:
        """Return `type`."""
        return self.type

    def get_specversion(self) -> str:
        """Return `specversion`."""
        return self.specversion

    def get_datacontenttype(self) -> str | None:
        """Return `datacontenttype`."""
        return self.datacontenttype

    def get_dataschema(self) -> str | None:
        """Return `dataschema`."""
        return self.dataschema

    def get_subject(self) -> str | None:
        """Return `subject`."""
        return self.subject

    def get_time(self) -> datetime | None:
        """Return `time`."""
        return self.time

    def get_extension(self, extension_name: str) -> Any:
        """Return the extension, or None."""
        return self.extensions.get(extension_name)

    def get_attributes(self) -> dict[str, Any]:
        """Return a new dict of all attributes, time as datetime."""
        return {**self._attributes, **({"time": self.time} if "time" in self._attributes else {})}

    def get_data(self) -> dict[str, Any] | str | bytes | None:
        """Return the data in a form that the SDK writes faithfully: a dict, text, or else the payload's bytes."""
        if self._form == _payload.ABSENT:
            return None
        value = self.data
        if isinstance(value, dict):
            return value
        # It writes text as UTF-8 in binary mode, and bytes as they are.
        is_text = isinstance(value, str) and not _payload.is_json(self._form, self.datacontenttype)
        return value if is_text and value.encode() == self._raw else self._raw


def correlation_of(cause: Event) -> str:
    """Return the correlationid of what ``cause`` brings about: its own if it is one, or else its id."""
    own = cause.get("correlationid")
    return own if isinstance(own, str) and own else cause.id


def _are_plain_strings(values: Iterable[object]) -> bool:
    return {*map(type, values)} == _ONLY_STR and "".join(values).isprintable()  # type: ignore[arg-type]


_ONLY_STR = {str}
_second: tuple[int, str] = (0, "")


def _now() -> str:
    """Write the present as RFC 3339, in microseconds; the text of the current second is kept."""
    global _second  # noqa: PLW0603 - replaced as a whole, so threads see one or the other
    seconds, rest = divmod(time_ns(), 10**9)
    if _second[0] != seconds:
        _second = (seconds, strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds)))
    return f"{_second[1]}.{rest // 1000:06d}Z"


def _same_types(some: dict[str, Value], others: dict[str, Value]) -> bool:
    return all(type(value) is type(others[name]) for name, value in some.items())  # for Python, 1 is True


def _same_payload(one: Event, other: Event) -> bool:
    if one.has_data != other.has_data:
        return False
    if one._raw == other._raw:
        return True
    try:
        return _payload.is_json(one._form, one.datacontenttype) and _payload.canonical(one._raw) == _payload.canonical(
            other._raw
        )
    except (DataError, RecursionError):
        return False


def _sdk_parts(thing: Any) -> tuple[Mapping[str, object], object]:
    """Take an official event apart by its shape: 1.x has the methods of 2.x with an underscore before them."""
    for prefix in ("get_", "_get_"):
        attributes = getattr(thing, f"{prefix}attributes", None)
        data = getattr(thing, f"{prefix}data", None)
        if callable(attributes) and callable(data):
            return _named(dict(attributes())), data()
    msg = f"an Event or an event of the official SDK is needed, not {type(thing).__name__} (build one with Event(...))"
    raise TypeError(msg)


def _named(attributes: dict[Any, object]) -> dict[str, object]:
    for name in attributes:
        if not isinstance(name, str):
            rule = "names of attributes must be str"
            raise EventError("attribute", rule, hint="for example partitionkey", value_type=type(name))
    return attributes
