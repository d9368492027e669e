"""Section 3 of the checklist: the JSON event format."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import Any

import pytest

from cloudevents_kit import DataError, _http, _json
from tests.spec.wire import (
    MEMBERS,
    STRUCTURED,
    again,
    batch,
    binary,
    body_of,
    headers_of,
    members_of,
    new,
    parse,
    plus,
    refused,
    structured,
)

ONE = json.dumps(MEMBERS)


def test_the_media_type_of_the_json_format() -> None:
    """JF-01."""
    message = _http.encode(new(), "structured")
    assert message.headers == {"Content-Type": "application/cloudevents+json"}
    assert json.loads(message.body) == MEMBERS


def test_booleans_and_integers_keep_their_json_type() -> None:
    """JF-02."""
    event = plus('"flag":true,"n":5,"s":"5"')
    assert event.extensions == {"flag": True, "n": 5, "s": "5"}
    assert type(event["flag"]) is bool
    assert members_of(event) == {**MEMBERS, "flag": True, "n": 5, "s": "5"}


@pytest.mark.parametrize("number", ["5.0", "1e3", "1E3", "-1.0", "0.0", "1e400", "5e-1"])
def test_an_integer_has_no_fraction_and_no_exponent(number: str) -> None:
    """JF-03."""
    assert refused(lambda: plus(f'"n":{number}'), attribute="n") == 400


def test_minus_zero_is_zero() -> None:
    """JF-03."""
    assert members_of(plus('"n":-0'))["n"] == 0


NULLS = ("subject", "time", "datacontenttype", "dataschema", "ext")


def test_a_null_attribute_is_absent() -> None:
    """JF-04."""
    event = plus(",".join(f'"{name}":null' for name in NULLS))
    assert event.attributes == MEMBERS
    assert members_of(event) == MEMBERS
    for name in ("id", "source", "type", "specversion"):
        assert refused(partial(structured, {name: None}), attribute=name) == 400


def test_extensions_is_a_name_like_any_other() -> None:
    """JF-05."""
    assert refused(lambda: plus('"extensions":{"id":"EVIL"}'), attribute="extensions") == 400
    assert plus('"extensions":"x"')["extensions"] == "x"


def test_absent_data_is_not_null_data() -> None:
    """JF-06."""
    absent, null = structured(), plus('"data":null')
    assert (absent.has_data, null.has_data) == (False, True)
    assert absent.data is None
    assert null.data is None
    assert absent != null
    assert members_of(absent) == MEMBERS
    assert members_of(null) == {**MEMBERS, "data": None}
    assert (absent.raw, null.raw) == (None, b"null")


JSON_TYPES = [
    "application/json",
    "Application/JSON",
    "application/json ; x=y",
    "text/json",
    "foo/json",
    "application/vnd.x+json;v=1",
    "image/svg+json",
    "application/problem_x+json",
    "application/ld+JSON",
    "application/json; charset=utf-8",
]


@pytest.mark.parametrize("media", JSON_TYPES)
def test_a_json_datacontenttype_makes_the_data_json(media: str) -> None:
    """JF-07."""
    event = new(datacontenttype=media, data={"a": 1})
    assert members_of(event)["data"] == {"a": 1}
    assert members_of(binary({"Content-Type": media}, '{"a":1}'))["data"] == {"a": 1}
    assert again(event, "structured").data == {"a": 1}


@pytest.mark.parametrize("media", ["application/jsonx", "application/json-seq", "application/x-json+gzip", "json/text"])
def test_no_other_datacontenttype_does(media: str) -> None:
    """JF-07, JF-15."""
    refused(lambda: new(datacontenttype=media, data={"a": 1}), attribute="data")
    assert binary({"Content-Type": media}, '{"a":1}').data != {"a": 1}
    assert refused(lambda: structured(datacontenttype=media, data={"a": 1}), attribute="data") == 400


def test_json_is_no_media_type_at_all() -> None:
    """JF-07."""
    assert refused(lambda: structured(datacontenttype="json", data={}), attribute="datacontenttype") == 400


def test_data_without_datacontenttype_is_json() -> None:
    """JF-08."""
    event = plus('"data":{"a":1}')
    assert event.datacontenttype is None
    assert event.data == {"a": 1}
    assert members_of(event) == {**MEMBERS, "data": {"a": 1}}


def test_a_string_that_holds_json_is_not_parsed_again() -> None:
    """JF-09."""
    event = structured(datacontenttype="application/json", data='{"a":1}')
    assert event.data == '{"a":1}'
    assert again(event, "binary").data == '{"a":1}'
    assert members_of(new(datacontenttype="application/json", data="5"))["data"] == "5"
    assert members_of(new(data="5"))["data"] == "5"


VALUES: list[Any] = [
    [], {}, 0, -1, False, True, "", "x", 1.5, [1, "a", None, True], {"a": {"b": []}}, None, 2**53, "€ 😀 \u2028", 1e300,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_every_json_value_keeps_value_and_type(value: Any, mode: Any) -> None:
    """JF-10."""
    for event in (new(data=value), structured(data=value)):
        back = again(event, mode)
        assert back.data == value
        assert type(back.data) is type(value)
        assert back.has_data


def test_bytes_are_base64_also_for_a_json_datacontenttype() -> None:
    """JF-11."""
    event = new(datacontenttype="application/json", data=b'{"a":1}')
    assert members_of(event)["data_base64"] == "eyJhIjoxfQ=="
    assert "data" not in members_of(event)
    assert again(event, "structured").data == {"a": 1}


def test_data_and_data_base64_exclude_each_other() -> None:
    """JF-12."""
    for text in ('"data":"a","data_base64":"YQ=="', '"data":null,"data_base64":"YQ=="', '"data_base64":"","data":1'):
        assert refused(partial(plus, text), attribute="data") == 400
    assert not plus('"data_base64":null').has_data
    assert plus('"data_base64":null,"data":1').data == 1


BAD_BASE64 = [
    r'"aG\nVs*bG8="', r'"aG\nVsbG8="', '"YQ==YQ=="', '"_-8="', '"abc"', '"!!!"', "5", '"é"', '"YR=="', '"YWJ="',
    '"YQ="', '"YQ"', '" YQ=="', '"YQ== "', '"===="', "true", "[]", "{}", '"\\u0000"', '"YQ==\\n"', "1.5",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_BASE64)
def test_data_base64_is_read_strictly(text: str) -> None:
    """JF-13."""
    assert refused(lambda: plus(f'"data_base64":{text}'), attribute="data_base64") == 400


@pytest.mark.parametrize("raw", [b"", b"a", b"ab", b"abc", bytes(range(256))], ids=len)
def test_data_base64_gives_the_bytes_back(raw: bytes) -> None:
    """JF-13."""
    event = new(data=raw, datacontenttype="application/octet-stream")
    assert again(event, "structured").data == raw
    assert again(event, "structured").has_data


def test_data_base64_without_datacontenttype_stays_bytes() -> None:
    """JF-14."""
    event = plus('"data_base64":"eyAieHl6IjogMTIzIH0="')
    assert event.data == b'{ "xyz": 123 }'
    assert "Content-Type" not in headers_of(event)
    assert body_of(event) == b'{ "xyz": 123 }'
    assert members_of(event) == {**MEMBERS, "data_base64": "eyAieHl6IjogMTIzIH0="}
    assert again(event, "binary").data == b'{ "xyz": 123 }'


@pytest.mark.parametrize("data", [{"a": 1}, [1], 1, 1.5, True, None], ids=repr)
def test_data_that_its_datacontenttype_cannot_carry_is_refused(data: object) -> None:
    """JF-15."""
    assert refused(lambda: structured(datacontenttype="text/xml", data=data), attribute="data") == 400
    refused(lambda: new(datacontenttype="text/xml", data=data), attribute="data")


def test_text_travels_as_a_string() -> None:
    """JF-16."""
    event = structured(datacontenttype="application/xml", data='<much wow="xml"/>')
    assert event.data == '<much wow="xml"/>'
    assert members_of(event)["data"] == '<much wow="xml"/>'
    assert body_of(event) == b'<much wow="xml"/>'


def test_the_charset_of_text_is_obeyed() -> None:
    """JF-16."""
    latin = "text/plain; charset=iso-8859-1"
    for event in (
        structured(datacontenttype=latin, data="é"),
        new(datacontenttype=latin, data="é"),
        binary({"Content-Type": latin}, b"\xe9"),
    ):
        assert body_of(event) == b"\xe9"
        assert members_of(event)["data"] == "é"
    refused(lambda: new(datacontenttype=latin, data="€"), attribute="data")
    refused(lambda: structured(datacontenttype=latin, data="€"), attribute="data")
    refused(lambda: new(datacontenttype="text/plain; charset=none-such", data="x"), attribute="data")


@pytest.mark.parametrize("value", ["I'm just a string", False, None, 5, {"a": [1]}], ids=repr)
def test_json_without_datacontenttype_says_so_in_binary_mode(value: object) -> None:
    """JF-17."""
    event = structured(data=value)
    assert headers_of(event)["Content-Type"] == "application/json"
    assert json.loads(body_of(event)) == value
    assert again(event, "binary").data == value


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_say_is_refused(number: float) -> None:
    """JF-18."""
    for data in (number, [number], {"a": {"b": number}}):
        refused(partial(new, data=data), attribute="data")
    for text in ("NaN", "Infinity", "-Infinity", "nan", "[NaN]"):
        assert refused(partial(plus, f'"data":{text}')) == 400


def test_a_number_too_large_for_a_float_stays_text_and_never_becomes_infinity() -> None:
    """JF-18: well-formed JSON that Python cannot hold passes through; reading it is an error."""
    event = plus('"data":{"a":1e400}')
    assert event.raw == b'{"a":1e400}'
    assert body_of(event) == b'{"a":1e400}'
    assert b'"data":{"a":1e400}' in _http.encode(event, "structured").body
    with pytest.raises(DataError):
        _ = event.data


@pytest.mark.parametrize(
    "body", [b"\xff", ONE.encode()[:-1] + b',"subject":"\xff"}', ONE.encode()[:-1] + b',"data":"\xc0\xa0"}']
)
def test_json_is_utf_8(body: bytes) -> None:
    """JF-20."""
    assert refused(lambda: parse(body)) == 400
    assert refused(lambda: batch(b"[" + body + b"]")) == 400


def test_another_charset_is_not_understood() -> None:
    """JF-20: a byte order mark is refused, as RFC 8259 forbids to write one."""
    for charset in ("utf-16", '"UTF-16"', "iso-8859-1"):
        assert refused(partial(parse, ONE, f"{STRUCTURED}; charset={charset}")) == 415
    assert parse(ONE, f'{STRUCTURED}; charset="UTF-8"').attributes == MEMBERS
    assert refused(lambda: parse(b"\xef\xbb\xbf" + ONE.encode())) == 400


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000], ids=len
)
def test_deep_nesting_is_refused(text: str) -> None:
    """JF-21."""
    assert refused(lambda: parse(text)) == 400
    assert refused(lambda: plus(f'"data":{text}')) == 400
    assert refused(lambda: plus(f'"ext":{text}')) == 400
    assert refused(lambda: batch(text)) == 400
    deep = binary({"Content-Type": "application/json"}, text)
    with pytest.raises(DataError):
        _ = deep.data


def test_a_long_number_is_refused_where_it_is_read() -> None:
    """JF-21: as an attribute on receipt, within data by whoever asks for the data."""
    assert refused(lambda: plus(f'"n":{"9" * 5000}'), attribute="n") == 400
    event = plus(f'"data":{"9" * 5000}')
    with pytest.raises(DataError):
        _ = event.data
    assert body_of(event) == b"9" * 5000


BODIES = [
    "[]",
    "5",
    "null",
    '"x"',
    "",
    " ",
    "true",
    ONE + "xx",
    ONE + ONE,
    f"[{ONE}]",
    "{",
    "}",
    ONE[:-1],
    ONE + ",",
    "\x00",
]


@pytest.mark.parametrize("body", BODIES)
def test_the_body_is_one_object(body: str) -> None:
    """JF-22."""
    assert refused(lambda: parse(body)) == 400


def test_white_space_around_the_object_is_nothing() -> None:
    """JF-22."""
    assert parse(f" \r\n\t{ONE}\n ").attributes == MEMBERS


@pytest.mark.parametrize("text", [r'"\udead"', r'"\ud800x"', r'"\udead\ud800"', r'"\ud800"'])
def test_a_lone_surrogate_is_refused(text: str) -> None:
    """JF-23: in attributes, and in data too, so that no handler ever meets one."""
    for member in ("subject", "ext", "data"):
        assert refused(partial(plus, f'"{member}":{text}')) == 400
    assert refused(lambda: plus(f'"data":{{"a":[{text}]}}')) == 400
    assert refused(lambda: plus(f'"data":{{{text}:1}}')) == 400
    with pytest.raises(DataError):
        _ = binary({"Content-Type": "application/json"}, text).data
    refused(lambda: new(data=["\udead"]), attribute="data")


def test_text_is_written_as_itself() -> None:
    """JF-24."""
    assert "Zoë €😀".encode() in _json.encode(new(subject="Zoë €😀"))
    assert b"\\u" not in _json.encode(new(subject="Zoë €😀", data={"é": "ü"}))


@pytest.mark.parametrize(
    "data", [{1: 2, "1": 3}, {True: 3}, {"a": {2: 1}}, [{None: 1}], {(1, 2): 3}, {1.5: 1}, {b"a": 1}], ids=repr
)
def test_a_key_that_is_no_string_is_refused(data: object) -> None:
    """JF-25."""
    refused(lambda: new(data=data), attribute="data")
