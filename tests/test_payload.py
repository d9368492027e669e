"""Data as bytes and as Python values: what a content type makes of it, in both directions."""

from __future__ import annotations

import collections
import dataclasses
import enum
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple, TypedDict

import msgspec
import pydantic
import pytest

from cloudevents_kit import DataError, EventError, _payload
from cloudevents_kit._payload import canonical, decode_json, decode_text, encode_json, holds_json, media_of, write
from tests.support.events import new


@pytest.mark.parametrize(
    ("content_type", "kind", "charset"),
    [
        (None, "bytes", "utf-8"),
        ("application/json", "json", "utf-8"),
        ("TEXT/JSON; charset=utf-16", "json", "utf-8"),
        ("application/vnd.a+json;v=1", "json", "utf-8"),
        ("application/jsonlines", "bytes", "utf_8"),
        ("application/json-seq", "bytes", "utf_8"),
        ("text/plain", "text", "utf_8"),
        ("text/plain; charset=ISO-8859-1", "text", "iso_8859_1"),
        ('text/plain; charset="utf-16"', "text", "utf_16"),
        ("text/plain;a=b ; charset=cp874", "text", "cp874"),
        ("text/plain; xcharset=utf-16", "text", "utf_8"),
        ("application/xml", "text", "utf_8"),
        ("image/svg+xml", "text", "utf_8"),
        ("application/x-thing; charset=us-ascii", "text", "us_ascii"),
        ("image/png", "bytes", "utf_8"),
        ("text/plain; charset=nope", "text", "unknown"),
        ("text/plain; charset=utf-7", "text", "unknown"),
        ("text/plain; charset=os.path", "text", "unknown"),
    ],
)
def test_a_content_type_says_how_data_is_read(content_type: str | None, kind: str, charset: str) -> None:
    media = media_of(content_type)
    assert media.kind == kind
    if kind == "text":
        assert media.charset == charset


@pytest.mark.parametrize("content_type", ["", "text", "text/plain; charset=", "a/b, c/d"])
def test_what_is_no_content_type_says_nothing(content_type: str) -> None:
    with pytest.raises(EventError, match=r"^datacontenttype: must be a media type .for example application/json.$"):
        media_of(content_type)


def test_content_types_are_remembered_within_bounds() -> None:
    for number in range(1100):
        assert media_of(f"text/x{number}").kind == "text"
        assert holds_json[f"text/x{number}+json"]
        assert len(_payload._media) <= 1024
        assert len(holds_json) <= 1024
    assert media_of(None).kind == "bytes"
    assert not holds_json["text/plain"]
    assert not holds_json["no type"]


def test_a_long_content_type_is_read_and_not_remembered() -> None:
    long = "x" * 600
    assert media_of(f"text/{long}").kind == "text"
    assert holds_json[f"text/{long}+json"]
    assert not holds_json[f"text/{long}"]
    assert max(len(kind or "") for kind in {*_payload._media, *holds_json}) <= 512


# ------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"NaN", "is not valid JSON"),
        (b"'a'", "is not valid JSON"),
        (b"\xef\xbb\xbf1", "is not valid JSON"),
        (b'"\xff"', "is not UTF-8"),
        (b"1e999", "holds a number out of range"),
        (b"[" * 100_000, "is nested too deeply"),
    ],
)
def test_malformed_json_says_what_is_wrong_with_it(raw: bytes, rule: str) -> None:
    with pytest.raises(DataError) as caught:
        decode_json(raw)
    assert caught.value.rule == rule
    assert caught.value.__cause__ is None  # whose text would quote the data


@pytest.mark.parametrize(("raw", "charset"), [(b"\xff", "utf_8"), (b"a", "utf_16"), (b"a", "unknown"), (b"a", "hex")])
def test_bytes_that_do_not_fit_their_charset_say_so(raw: bytes, charset: str) -> None:
    with pytest.raises(DataError, match=r"^data: is not text in the charset of its datacontenttype$"):
        decode_text(raw, charset)


@pytest.mark.parametrize(
    ("data", "content_type", "read"),
    [
        (b'{"a":1}', "application/json", {"a": 1}),
        (b'{"a":1}', None, b'{"a":1}'),
        (b'{"a":1}', "application/octet-stream", b'{"a":1}'),
        (b'{"a":1}', "text/plain", '{"a":1}'),
        ('{"a":1}', "application/json", '{"a":1}'),
        ('{"a":1}', None, '{"a":1}'),
        ("é", "text/plain; charset=iso-8859-1", "é"),
        ("text", "image/png", b"text"),
        ("text", "application/octet-stream", b"text"),
    ],
    ids=repr,
)
def test_data_is_read_by_its_content_type_and_never_by_its_looks(
    data: object, content_type: str | None, read: object
) -> None:
    assert new(data=data, datacontenttype=content_type).data == read


# ------------------------------------------------------------------------------------------------------- writing


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: int
    tags: dict[str, Any] = dataclasses.field(default_factory=dict)


class Struct(msgspec.Struct):
    x: int


class Typed(TypedDict):
    x: int


class Pair(NamedTuple):
    x: int
    y: int


class Model(pydantic.BaseModel):
    x: int
    when: datetime


@pytest.mark.parametrize(
    ("data", "raw"),
    [
        (None, b"null"),
        (True, b"true"),
        (-0.0, b"-0.0"),
        (1.0, b"1.0"),
        (2**64, b"18446744073709551616"),
        ("é\x00", '"é\\u0000"'.encode()),
        ((1, [2, ()]), b"[1,[2,[]]]"),
        (Pair(1, 2), b"[1,2]"),
        (collections.OrderedDict(b=1, a=2), b'{"b":1,"a":2}'),
        (Typed(x=1), b'{"x":1}'),
        (Point(1, {"a": None}), b'{"x":1,"tags":{"a":null}}'),
        (Struct(1), b'{"x":1}'),
        (Model(x=1, when=datetime(2018, 4, 5, tzinfo=UTC)), b'{"x":1,"when":"2018-04-05T00:00:00Z"}'),
        ([Model(x=1, when=datetime(2018, 4, 5, tzinfo=UTC))], b'[{"x":1,"when":"2018-04-05T00:00:00Z"}]'),
        ({"a": Colour.RED, "b": Level.HIGH}, b'{"a":"red","b":3}'),
        ([uuid.UUID(int=1)], b'["00000000-0000-0000-0000-000000000001"]'),
        ([date(2018, 4, 5), datetime(2018, 4, 5, tzinfo=UTC)], b'["2018-04-05","2018-04-05T00:00:00Z"]'),
    ],
    ids=ascii,
)
def test_data_is_written_as_the_json_that_says_the_same(data: object, raw: bytes) -> None:
    assert encode_json(data) == raw
    assert write(data, "application/json") == write(data, None) == (raw, _payload.JSON)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (Point(1, {"a": {1: 2}}), "data.tags.a"),
        (Struct(float("nan")), "data.x"),  # type: ignore[arg-type]
        ({"fine": "text", "none": None, "bad": [0, Decimal("0.1")]}, "data.bad[1]"),
        ([frozenset([1])], "data[0]"),
        ({"with space": b"x"}, "data[...]"),
        ({"a" * 41: b"x"}, "data[...]"),
        (Pair(1, b"x"), "data[1]"),  # type: ignore[arg-type]
    ],
)
def test_what_json_would_change_without_a_word_is_refused_with_its_place(data: object, place: str) -> None:
    with pytest.raises(EventError) as caught:
        encode_json(data)
    assert f" at {place}" in f"{caught.value.rule} "


def test_json_is_compared_by_its_meaning() -> None:
    assert canonical(b'{ "b": [1, "\\u00e9"], "a": 1e2 }') == canonical('{"a":100.0,"b":[1,"é"]}'.encode())
    assert canonical(b"1") != canonical(b"1.0")
    assert canonical(b"1") != canonical(b"true")
    with pytest.raises(DataError):
        canonical(b"{")


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "image/png", None])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_taken_as_they_are_whatever_the_content_type(kind: Any, content_type: str | None) -> None:
    assert write(kind(b"\xff{"), content_type) == (b"\xff{", _payload.BYTES)
