"""Events that cannot be built: every mistake raises at once and names the attribute, the rule and a way out."""

from __future__ import annotations

import decimal
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import msgspec
import pydantic
import pytest

from cloudevents_kit import DataError, Event, EventError
from cloudevents_kit._errors import UnsupportedVersion
from tests.support.events import new

SECRET = "hunter2"
NAIVE = datetime(2018, 4, 5, 17, 31)  # noqa: DTZ001 - that is what is refused
STRING = "must be a string"
EMPTY = "must not be empty"
NAMES = "attribute names use only a-z and 0-9"
TYPES = "must be str, int, bool, bytes, an aware datetime or a URL"
AS_TEXT = "write it as a string, or put it into data"
BITS = "Integer must fit 32 bits"
CHARACTERS = "holds a control character, noncharacter or lone surrogate"
ENCODE = "encode it, or put it into data"
URI = "must be a URI-reference, spaces and non-ASCII characters percent-encoded"
OFFSET = "a naive datetime names no moment: use tzinfo=UTC"
NO_JSON = "cannot be written as JSON"
NO_VALUE = "is no JSON value, dataclass, Struct or model"
NAN = "which JSON cannot carry"
NULL = "use None, or text"
TEXT_OR_BYTES = "must be str or bytes for this datacontenttype"
MEMBERS = "members of a JSON object have names: use str(key)"
BYTES_HINT = "give bytes as the whole data, or base64 text"
CHARSET = "cannot be written in the charset of its datacontenttype"
CHARSET_HINT = "use charset=utf-8, or give bytes"
LOOP: list[Any] = []
LOOP.append(LOOP)


class Opaque:
    def __repr__(self) -> str:
        return SECRET


class Text(str):
    __slots__ = ()


@dataclass
class Order:
    price: object


class Failing(pydantic.BaseModel):
    password: str = SECRET

    @pydantic.field_serializer("password")
    def refuse(self, value: str) -> str:
        raise ValueError(value)


Row = tuple[dict[str, Any], str, str, "type | None", str]

#: What is given, and the attribute, the rule, the wrong type and the hint that the error names.
ROWS: list[Row] = [
    # wrong types
    ({"type": 5}, "type", STRING, int, "for example com.example.order.created"),
    ({"type": None}, "type", "is required", None, "for example com.example.order.created"),
    ({"type": b"hunter2"}, "type", STRING, bytes, "for example com.example.order.created"),
    ({"type": 1.5}, "type", STRING, float, "for example com.example.order.created"),
    ({"type": NAIVE.replace(tzinfo=UTC)}, "type", STRING, datetime, "for example com.example.order.created"),
    ({"source": None}, "source", "is required", None, "for example /orders"),
    ({"source": b"/hunter2"}, "source", STRING, bytes, "for example /orders"),
    ({"source": True}, "source", STRING, bool, "for example /orders"),
    ({"id": 5}, "id", STRING, int, "for example a UUID"),
    ({"id": uuid.UUID(int=5)}, "id", STRING, uuid.UUID, "for example a UUID"),
    ({"id": bytearray(b"hunter2")}, "id", STRING, bytearray, "for example a UUID"),
    ({"subject": 5}, "subject", STRING, int, "leave it out if there is none"),
    ({"subject": ["hunter2"]}, "subject", STRING, list, "leave it out if there is none"),
    ({"time": 1522949460}, "time", STRING, int, "for example 2018-04-05T17:31:00Z"),
    ({"time": 1522949460.5}, "time", STRING, float, "for example 2018-04-05T17:31:00Z"),
    ({"time": date(2018, 4, 5)}, "time", STRING, date, "for example 2018-04-05T17:31:00Z"),
    ({"datacontenttype": 5}, "datacontenttype", STRING, int, "for example application/json"),
    ({"dataschema": {}}, "dataschema", STRING, dict, "for example https://example.com/order.json"),
    ({"specversion": 1.0}, "specversion", STRING, float, 'it is "1.0"'),
    ({"specversion": None}, "specversion", "is required", None, 'it is "1.0"'),
    # empty attributes
    ({"type": ""}, "type", EMPTY, None, "for example com.example.order.created"),
    ({"source": ""}, "source", EMPTY, None, "for example /orders"),
    ({"id": ""}, "id", EMPTY, None, "for example a UUID"),
    ({"subject": ""}, "subject", EMPTY, None, "leave it out if there is none"),
    ({"time": ""}, "time", EMPTY, None, "for example 2018-04-05T17:31:00Z"),
    ({"datacontenttype": ""}, "datacontenttype", EMPTY, None, "for example application/json"),
    ({"dataschema": ""}, "dataschema", EMPTY, None, "for example https://example.com/order.json"),
    # values that break a grammar
    ({"source": "/has hunter2"}, "source", URI, None, "for example /orders"),
    ({"source": "http://ex/hünter2"}, "source", URI, None, "for example /orders"),
    ({"time": "hunter2"}, "time", "must be an RFC 3339 timestamp", None, "for example 2018-04-05T17:31:00Z"),
    ({"datacontenttype": "hunter2"}, "datacontenttype", "must be a media type", None, "for example application/json"),
    ({"dataschema": "/hunter2"}, "dataschema", "must be an absolute URI", None, "for example https://example.com/order.json"),
    ({"specversion": "2.0"}, "specversion", 'must be "1.0"', None, "for 1.0.1 and 1.0.2, too"),
    ({"specversion": "0.3"}, "specversion", 'must be "1.0"', None,
     "version 0.3 was superseded in 2019: let the producer send 1.0"),
    ({"subject": "hunter2\n"}, "subject", CHARACTERS, None, ENCODE),
    ({"type": "hunter2\ud800"}, "type", CHARACTERS, None, ENCODE),
    ({"ext": Text("hunter2\x00")}, "ext", CHARACTERS, None, ENCODE),
    # naive times
    ({"time": NAIVE}, "time", "must carry an offset", None, OFFSET),
    ({"ext": NAIVE}, "ext", "must carry an offset", None, OFFSET),
    ({"time": datetime.min.replace(tzinfo=timezone(timedelta(seconds=30)))}, "time",
     "lies outside what datetime can hold in UTC", None, "use an offset of whole minutes"),
    # unknown keywords
    ({"data_content_type": "hunter2"}, "data_content_type", NAMES, None, "did you mean 'datacontenttype'?"),
    ({"partitionKey": "hunter2"}, "partitionKey", NAMES, None, "did you mean 'partitionkey'?"),
    ({"data_base64": "hunter2"}, "data_base64", NAMES, None, "give bytes as data"),
    ({"": "hunter2"}, "attribute", NAMES, None, "for example partitionkey"),
    ({"évé\n": "hunter2"}, "attribute", NAMES, None, "for example partitionkey"),
    ({"___": "hunter2"}, "___", NAMES, None, "for example partitionkey"),
    # floats, NaN and other types in extensions
    ({"ext": 1.5}, "ext", TYPES, float, AS_TEXT),
    ({"ext": float("nan")}, "ext", TYPES, float, AS_TEXT),
    ({"ext": decimal.Decimal("1.5")}, "ext", TYPES, decimal.Decimal, AS_TEXT),
    ({"ext": ["hunter2"]}, "ext", TYPES, list, AS_TEXT),
    ({"ext": {"a": "hunter2"}}, "ext", TYPES, dict, AS_TEXT),
    ({"ext": Opaque()}, "ext", TYPES, Opaque, AS_TEXT),
    ({"ext": 2**31}, "ext", BITS, None, "use a string for larger numbers"),
    ({"ext": -(2**31) - 1}, "ext", BITS, None, "use a string for larger numbers"),
    ({"sequence": 5}, "sequence", "must be a non-empty String", None, "see the CloudEvents extension 'sequence'"),
    ({"authid": "hunter2"}, "authid", "needs authtype beside it", None, "see the CloudEvents extension 'authcontext'"),
    # data that is no JSON
    ({"data": float("nan")}, "data", f"holds NaN or Infinity at data, {NAN}", None, NULL),
    ({"data": {"a": [1, float("-inf")]}}, "data", f"holds NaN or Infinity at data.a[1], {NAN}", None, NULL),
    ({"data": {"a\nb": (float("inf"),)}}, "data", f"holds NaN or Infinity at data[...][0], {NAN}", None, NULL),
    ({"data": Order(price=float("nan"))}, "data", f"holds NaN or Infinity at data.price, {NAN}", None, NULL),
    ({"data": Opaque()}, "data", NO_JSON, Opaque, f"Opaque {NO_VALUE}"),
    ({"data": {"a": {"b": Opaque()}}}, "data", NO_JSON, dict, f"Opaque {NO_VALUE}"),
    ({"data": Opaque}, "data", NO_JSON, type, f"type {NO_VALUE}"),
    ({"data": pydantic.BaseModel}, "data", NO_JSON, type(pydantic.BaseModel), f"ModelMetaclass {NO_VALUE}"),
    ({"data": print}, "data", NO_JSON, type(print), f"builtin_function_or_method {NO_VALUE}"),
    ({"data": msgspec.Raw(b"{hunter2")}, "data", NO_JSON, msgspec.Raw, "DecodeError was raised"),
    ({"data": Failing()}, "data", NO_JSON, Failing, "PydanticSerializationError was raised"),
    ({"data": 10**5000}, "data", NO_JSON, int, "ValueError was raised"),
    ({"data": {5: "hunter2"}}, "data", "has a key at data that is no string", int, MEMBERS),
    ({"data": [{None: "hunter2"}]}, "data", "has a key at data[0] that is no string", type(None), MEMBERS),
    ({"data": {"a": b"hunter2"}}, "data", "holds a value at data.a that JSON cannot carry", bytes, BYTES_HINT),
    ({"data": [bytearray(b"x")]}, "data", "holds a value at data[0] that JSON cannot carry", bytearray, BYTES_HINT),
    ({"data": decimal.Decimal("1.5")}, "data", "holds a value at data that JSON cannot carry", decimal.Decimal,
     "use str or float"),
    ({"data": {"tags": {"hunter2"}}}, "data", "holds a set at data.tags", None, "sets have no order: use a list"),
    ({"data": LOOP}, "data", "is nested too deeply, or holds itself", None, "flatten it"),
    ({"data": "hunter2\ud800"}, "data", "holds a lone surrogate", None, "give bytes for text that is not Unicode"),
    # data that the content type cannot carry
    ({"data": {"a": "hunter2"}, "datacontenttype": "text/plain"}, "data", TEXT_OR_BYTES, dict,
     "datacontenttype 'text/plain' carries str or bytes"),
    ({"data": 5, "datacontenttype": "image/png; a=hunter2"}, "data", TEXT_OR_BYTES, int,
     "datacontenttype 'image/png' carries str or bytes"),
    ({"data": "hünter2", "datacontenttype": "text/plain; charset=us-ascii"}, "data", CHARSET, None, CHARSET_HINT),
    ({"data": "hunter2", "datacontenttype": "text/plain; charset=nope"}, "data", CHARSET, None, CHARSET_HINT),
]  # fmt: skip

rows = pytest.mark.parametrize(
    ("given", "attribute", "rule", "value_type", "hint"),
    [pytest.param(*row, id=f"{number}-{'-'.join(row[0])!a}") for number, row in enumerate(ROWS)],
)


@rows
def test_a_mistake_names_attribute_rule_type_and_hint_and_no_value(
    given: dict[str, Any], attribute: str, rule: str, value_type: type | None, hint: str
) -> None:
    with pytest.raises(EventError) as caught:
        Event(**{"type": "t", "source": "/s", **given})
    error = caught.value
    got = f", not {value_type.__name__}" if value_type else ""
    assert str(error) == f"{attribute}: {rule}{got} ({hint})"
    assert (error.attribute, error.rule, error.value_type, error.hint) == (attribute, rule, value_type, hint)
    assert isinstance(error, ValueError)
    assert error.key is None  # there is no event yet that could be blamed
    assert str(error).isprintable()
    assert SECRET not in f"{error!s} {error!r} {vars(error)}"


@rows
def test_a_change_into_something_invalid_says_the_same(
    given: dict[str, Any], attribute: str, rule: str, value_type: type | None, hint: str
) -> None:
    event = new(data="text", datacontenttype="text/plain") if "datacontenttype" in given else new()
    before = dict(event.attributes)
    with pytest.raises(EventError) as caught:
        event.evolve(**given)
    assert (caught.value.attribute, caught.value.rule, caught.value.hint) == (attribute, rule, hint)
    assert event.attributes == before


@pytest.mark.parametrize("given", [{"type": ""}, {"source": "has space"}, {"ext": 1.5}, {"data": {1}}, {"time": NAIVE}])
def test_a_reply_that_is_invalid_says_so(given: dict[str, Any]) -> None:
    with pytest.raises(EventError, match=f"^{next(iter(given))}: .* \\(.+\\)$"):
        new().reply(**{"type": "t", "source": "/s", **given})


@pytest.mark.parametrize("version", ["0.3", "1", "1.0.2", "2.0", "", " 1.0"])
def test_another_version_has_an_error_of_its_own(version: str) -> None:
    with pytest.raises(UnsupportedVersion):
        new(specversion=version)


def test_what_a_model_raises_is_kept_as_the_cause_for_those_who_may_see_it() -> None:
    with pytest.raises(EventError) as caught:
        new(data=Failing())
    assert "Error calling function" in str(caught.value.__cause__)


def test_positional_and_missing_arguments_are_pythons_own_errors() -> None:
    build: Any = Event
    with pytest.raises(TypeError, match="positional"):
        build("t", "/s")
    with pytest.raises(TypeError, match="'source'"):
        build(type="t")
    with pytest.raises(TypeError, match="positional"):
        new().evolve({"type": "t"})  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'type' and 'source'"):
        new().reply()  # type: ignore[call-arg]


def test_of_two_mistakes_the_first_attribute_given_is_named() -> None:
    for _ in range(20):
        with pytest.raises(EventError, match=r"^sequence: "):
            new(sequence=5, partitionkey=5, authtype=5)


def test_an_error_about_data_always_names_data() -> None:
    error = DataError("is broken", hint="mend it", value_type=int)
    assert str(error) == "data: is broken, not int (mend it)"
    assert (error.attribute, error.rule, error.hint, error.value_type) == ("data", "is broken", "mend it", int)
