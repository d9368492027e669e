"""The JSON event format: what is read, what is written, and that the fast path cannot be talked into more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudevents_kit import DataError, Event, EventError, _json
from cloudevents_kit._errors import BindingError, UnsupportedVersion
from tests.support.envelopes import LEARNED, REQUIRED, envelopes, write

MINIMAL = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}

# Met here first, before any other test runs, these extensions are on the fast path from now on.
_json.decode(write([*REQUIRED, *LEARNED]))


def body(**members: Any) -> bytes:
    return json.dumps({**MINIMAL, **members}).encode()


def outcome(decode: Any, raw: bytes) -> tuple[Any, ...]:
    """All that can be told apart about what ``decode`` makes of ``raw``."""
    try:
        found = decode(raw)
    except EventError as error:
        return (type(error), str(error))
    found = found if isinstance(found, list) else [found]
    return tuple(
        (sorted((k, type(v), v) for k, v in event.attributes.items()), event.has_data, event.raw, _json.encode(event))
        for event in found
    )


def refuse_slow_path(raw: bytes) -> Event:
    pytest.fail(f"the slow path was needed for {raw!r}")


@settings(max_examples=1500)
@given(envelopes())
def test_both_paths_take_and_refuse_the_same_envelopes(raw: bytes) -> None:
    assert outcome(_json.decode, raw) == outcome(_json._decode_slowly, raw)


@settings(max_examples=500)
@given(st.lists(envelopes(), max_size=3))
def test_a_batch_takes_and_refuses_what_its_members_alone_would(raws: list[bytes]) -> None:
    alone = [outcome(_json._decode_slowly, raw) for raw in raws]
    together = outcome(_json.decode_batch, b"[" + b",".join(raws) + b"]")
    if any(isinstance(one[0], type) for one in alone):
        assert together[0] is BindingError
    else:
        assert together == tuple(event for one in alone for event in one)


@pytest.mark.parametrize(
    "more",
    [
        b"",
        b',"data":{"a":"b"}',
        b',"data":"\\"\\\\\\u0000\xc3\xa9"',
        b',"data":null,"subject":"x"',
        b' , "data" : [1, "\\""] , "subject" : "\xc3\xa9" ',
        b',"flag":false,"n":-5,"myext":"z","partitionkey":"p","time":"2018-04-05T17:31:00.123456789Z"',
        b',"datacontenttype":"application/vnd.x+json","dataschema":"https://e.x/s","data":1',
        b',"subject":"\\u0041\\/"',
    ],
)
def test_usual_envelopes_keep_to_the_fast_path(more: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = write(REQUIRED)[:-1] + more + b"}"
    slow, slow_batch = _json._decode_slowly(raw), [_json._decode_slowly(raw)] * 2
    monkeypatch.setattr(_json, "_decode_slowly", refuse_slow_path)
    assert _json.decode(raw) == slow
    assert _json.decode_batch(b"[%b, %b]" % (raw, raw)) == slow_batch


@settings(max_examples=500)
@given(envelopes(), st.sampled_from([name for name, _ in REQUIRED]), st.integers(0, 9))
def test_a_repeated_member_is_refused_wherever_it_stands(raw: bytes, name: bytes, at: int) -> None:
    members = [*REQUIRED, *LEARNED, (b'"data"', b'{"a":"\\""}')]
    members.insert(at, (name, b'"1.0"'))
    assert outcome(_json.decode, write(members))[0] is BindingError
    assert outcome(_json.decode_batch, b"[" + write(members) + b"," + raw + b"]")[0] is BindingError


CORE = '"specversion":"1.0","source":"/s","type":"t"'
SMUGGLED = [
    ('{%s,"id":"1","id":"2"}', "white space"),
    ('{%s,"id":"1","id" \t\n: "2"}', "white space"),
    ('{"id":"1",%s,"data":"x","id":"2"}', "data between"),
    ('{%s,"id":"1","data":"2","id":"2"}', "the body ends in the bytes of the data"),
    ('{%s,"id":"x","data":"x","id":"x"}', "the body ends in the bytes of the data, twice"),
    ('{%s,"id":"1","data":1,"n":5,"n":1}', "a number repeated, the body ends in the bytes of the data"),
    ('{%s,"id":"1","flag":true,"flag":false}', "no quotation marks in the value"),
    ('{%s,"id":"1","n":1,"n":1}', "the same value"),
    ('{%s,"id":"1","\\u0069d":"2"}', "an escaped name"),
    ('{%s,"\\u0069\\u0064":"1","id":"2"}', "an escaped name first"),
    ('{%s,"id":"1","data":1,"data":2}', "data repeated"),
    ('{%s,"id":"1","data":1,"d\\u0061ta":2}', "data repeated under an escaped name"),
    ('{%s,"id":"1","data":"\\"\\"\\"\\"","data":1}', "quotation marks inside the data that is dropped"),
    ('{%s,"id":"1","data":1,"data":"\\"\\"\\"\\""}', "quotation marks inside the data that stays"),
    ('{%s,"id":"1","data_base64":"YQ==","data_base64":"Yg=="}', "data_base64 repeated"),
    ('{%s,"id":"1","subject":null,"subject":"x"}', "null first"),
    ('{%s,"id":"1","subject":"x","subject":null}', "null last"),
    ('{%s,"id":"1","zzz":1,"zzz":2}', "an extension not met before"),
    ('{%s,"id":"1","data":{},"zzz":1,"zzz":{}}', "an object as the value"),
    ('{%s,"id":null,"id":"1"}', "a required member that was null"),
    ('{%s,"id":"1","id":"\\u0022\\u0022"}', "escaped quotation marks"),
]


@pytest.mark.parametrize(("text", "how"), SMUGGLED, ids=[f"{how}-{i}" for i, (_, how) in enumerate(SMUGGLED)])
def test_no_second_member_of_one_name_gets_past(text: str, how: str) -> None:
    raw = (text % CORE).encode()
    for _ in range(2):  # the first time may teach the fast path a name
        with pytest.raises(EventError):
            _json.decode(raw)
        with pytest.raises(BindingError, match="event 1: "):
            _json.decode_batch(b"[" + write(REQUIRED) + b"," + raw + b"]")


@pytest.mark.parametrize("name", ["id", "subject", "myext", "partitionkey", "type"])
@pytest.mark.parametrize(
    "value",
    ["\x00", "\n", "\x1f", "\x7f", "\x80", "\x85", "\x9f", "\ufdd0", "\ufdef", "\ufffe", "\uffff", "\U0010ffff"],
)
@pytest.mark.parametrize("escaped", [True, False])
def test_no_forbidden_character_gets_past(name: str, value: str, *, escaped: bool) -> None:
    text = json.dumps({**MINIMAL, name: f"a{value}b"}, ensure_ascii=escaped)
    with pytest.raises(EventError):
        _json.decode(text.replace("\\u007f", "\x7f").encode())
    with pytest.raises(BindingError):
        _json.decode_batch(f"[{text}]".encode())


@pytest.mark.parametrize(
    ("members", "attribute", "rule"),
    [
        ({"id": None}, "id", "is required"),
        ({"id": ""}, "id", "must not be empty"),
        ({"id": 5}, "id", "must be a string"),
        ({"source": "has space"}, "source", "URI-reference"),
        ({"type": True}, "type", "must be a string"),
        ({"specversion": None}, "specversion", "is required"),
        ({"subject": ""}, "subject", "must not be empty"),
        ({"time": "2018-04-05"}, "time", "RFC 3339"),
        ({"time": 5}, "time", "must be a string"),
        ({"datacontenttype": "garbage"}, "datacontenttype", "media type"),
        ({"dataschema": "/rel"}, "dataschema", "absolute URI"),
        ({"a": 1.5}, "a", "no fraction"),
        ({"a": 2147483648}, "a", "32 bits"),
        ({"a": [1]}, "a", "must be a string, a boolean or an integer"),
        ({"extensions": {"id": "EVIL"}}, "extensions", "must be a string, a boolean or an integer"),
        ({"MyExt": "a"}, "MyExt", "only a-z and 0-9"),
        ({"": "a"}, "attribute", "only a-z and 0-9"),
        ({"data": 1, "data_base64": "YQ=="}, "data", "beside data_base64"),
        ({"data": None, "data_base64": "YQ=="}, "data", "beside data_base64"),
        ({"datacontenttype": "text/xml", "data": {"a": 1}}, "data", "must be a string"),
        ({"datacontenttype": "text/plain; charset=us-ascii", "data": "é"}, "data", "charset"),
        ({"datacontenttype": "text/plain; charset=zlib", "data": "a"}, "data", "charset"),
        ({"data_base64": 5}, "data_base64", "base64"),
        ({"data_base64": "é"}, "data_base64", "base64"),
        ({"data_base64": "!!!"}, "data_base64", "base64"),
        ({"data_base64": "YR=="}, "data_base64", "base64"),
        ({"data_base64": "YQ==YQ=="}, "data_base64", "base64"),
        ({"data_base64": "_-8="}, "data_base64", "base64"),
    ],
)
def test_a_broken_rule_is_named(members: dict[str, Any], attribute: str, rule: str) -> None:
    with pytest.raises(EventError, match=rule) as caught:
        _json.decode(body(**members))
    assert caught.value.attribute == attribute


@pytest.mark.parametrize("version", ["0.3", "1", "1.0.2", "2.0", " 1.0", 1.0, True])
def test_another_version_is_refused(version: Any) -> None:
    with pytest.raises(EventError) as caught:
        _json.decode(body(specversion=version))
    assert caught.value.attribute == "specversion"
    if isinstance(version, str):
        assert isinstance(caught.value, UnsupportedVersion)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not valid JSON"),
        (b"[]", "not an object"),
        (b"5", "not an object"),
        (b"null", "not an object"),
        (b'{"a":1} x', "not valid JSON"),
        (b"{'a':1}", "not valid JSON"),
        (b'{"id":"\xff"}', "not UTF-8"),
        (b'\xef\xbb\xbf{"id":"1"}', "not valid JSON"),
        (b'{"data":' + b"[" * 100_000, "nested too deeply"),
        (b'{"data":NaN}', "not valid JSON"),
    ],
)
def test_what_is_no_json_object_is_no_event(raw: bytes, reason: str) -> None:
    with pytest.raises(BindingError, match=reason) as caught:
        _json.decode(raw)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{}", "not an array"),
        (b"[1]", "event 0: the JSON is not an object"),
        (b"[%b,null]" % write(REQUIRED), "event 1: the JSON is not an object"),
        (b'[%b,{"id":""}]' % write(REQUIRED), "event 1: source: is required"),
        (b"[%b" % write(REQUIRED), "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_broken_batch_names_the_member(raw: bytes, reason: str) -> None:
    with pytest.raises(BindingError, match=reason):
        _json.decode_batch(raw)


def test_an_empty_batch_is_valid_both_ways() -> None:
    assert _json.decode_batch(b" [ ] ") == []
    assert _json.encode_batch([]) == b"[]"


def test_null_attributes_are_absent_and_are_not_written_again() -> None:
    nulls = dict.fromkeys(("subject", "time", "datacontenttype", "dataschema", "ext", "data_base64"))
    event = _json.decode(body(**nulls))
    assert dict(event.attributes) == MINIMAL
    assert json.loads(_json.encode(event)) == MINIMAL


def test_absent_data_and_null_data_stay_apart() -> None:
    absent, null = _json.decode(body()), _json.decode(body(data=None))
    assert (absent.has_data, absent.data, absent.raw) == (False, None, None)
    assert (null.has_data, null.data, null.raw) == (True, None, b"null")
    assert "data" not in json.loads(_json.encode(absent))
    assert json.loads(_json.encode(null))["data"] is None
    assert absent != null


def test_a_json_string_is_not_parsed_again() -> None:
    event = _json.decode(body(datacontenttype="application/json", data='{"a":1}'))
    assert event.data == '{"a":1}'
    assert json.loads(_json.encode(event))["data"] == '{"a":1}'


def test_bytes_travel_as_base64_even_if_they_are_json() -> None:
    event = Event(type="t", source="/s", data=b'{"a":1}', datacontenttype="application/json")
    assert json.loads(_json.encode(event))["data_base64"] == "eyJhIjoxfQ=="


def test_base64_without_a_content_type_stays_bytes() -> None:
    event = _json.decode(body(data_base64="eyAieHl6IjogMTIzIH0="))
    assert event.data == b'{ "xyz": 123 }'
    assert event.datacontenttype is None


def test_text_is_written_as_a_string_in_its_charset() -> None:
    event = _json.decode(body(datacontenttype="text/plain; charset=iso-8859-1", data="é"))
    assert (event.raw, event.data) == (b"\xe9", "é")
    assert json.loads(_json.encode(event))["data"] == "é"


def test_a_number_that_python_cannot_hold_is_passed_on_and_refused_only_when_read() -> None:
    event = _json.decode(write([*REQUIRED, (b'"data"', b"1e400")]))
    with pytest.raises(DataError, match="out of range") as caught:
        _ = event.data
    assert caught.value.key == event.key
    assert _json.encode(event).endswith(b'"data":1e400}')


@pytest.mark.parametrize("value", [5, -0, True, False, 2147483647, -2147483648, ""])
def test_extensions_keep_their_type(value: Any) -> None:
    event = _json.decode(body(ext=value))
    assert (type(event["ext"]), event["ext"]) == (type(value), value)
    assert json.loads(_json.encode(event))["ext"] == value


def test_minus_zero_is_the_integer_zero() -> None:
    assert _json.decode(write([*REQUIRED, (b'"n"', b"-0")]))["n"] == 0


def test_hundreds_of_names_from_a_hostile_peer_do_not_change_what_is_read() -> None:
    for number in range(300):
        raw = write([*REQUIRED, (f'"hostile{number}"'.encode(), b'"x"')])
        assert _json.decode(raw)[f"hostile{number}"] == "x"
    assert _json.decode(write([*REQUIRED, *LEARNED]))["n"] == 5
    assert _json.decode(write([*REQUIRED, (b'"n"', b'"now a string"')]))["n"] == "now a string"
