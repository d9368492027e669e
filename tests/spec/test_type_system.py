"""Section 2 of the checklist: the values that attributes may have."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from yarl import URL

from cloudevents_kit import Event, EventError
from cloudevents_kit._values import Value
from tests.spec.wire import MODES, again, binary, headers_of, members_of, new, plus, refused, structured


def test_a_boolean_is_written_in_lower_case() -> None:
    """TS-01."""
    event = new(yes=True, no=False)
    assert (headers_of(event)["ce-yes"], headers_of(event)["ce-no"]) == ("true", "false")
    assert (members_of(event)["yes"], members_of(event)["no"]) == (True, False)


def test_a_boolean_is_no_integer() -> None:
    """TS-02."""
    event = new(flag=True, n=1)
    assert (event["flag"], event["n"]) == (True, 1)
    assert (type(event["flag"]), type(event["n"])) == (bool, int)
    assert structured(flag=True) != structured(flag=1)
    with pytest.raises(EventError):
        event.get_int("flag")
    with pytest.raises(EventError):
        event.get_bool("n")


@pytest.mark.parametrize("number", [0, 1, -1, 2147483647, -2147483648])
def test_an_integer_of_32_bits_is_kept(number: int) -> None:
    """TS-03."""
    for event in (new(n=number), structured(n=number)):
        assert event["n"] == number
        assert members_of(event)["n"] == number
        assert headers_of(event)["ce-n"] == str(number)


@pytest.mark.parametrize("number", [2147483648, -2147483649, 10**30, -(10**30)])
def test_an_integer_beyond_32_bits_is_refused(number: int) -> None:
    """TS-03."""
    refused(lambda: new(n=number), attribute="n")
    assert refused(lambda: structured(n=number), attribute="n") == 400


@pytest.mark.parametrize(
    "text", ["+5", "007", " 5", "5 ", "1_000", "٣", "", "-", "--5", "1.0", "1e3", "0x1", "2147483648"]
)
def test_text_that_is_no_integer_is_not_read_as_one(text: str) -> None:
    """TS-04."""
    event = new(n=text)
    with pytest.raises(EventError) as caught:
        event.get_int("n")
    assert caught.value.attribute == "n"
    assert event["n"] == text


@pytest.mark.parametrize("text", ["+5", "007", "1_000", "0x1", "-01"])
def test_json_that_is_no_integer_is_refused(text: str) -> None:
    """TS-04."""
    assert refused(lambda: plus(f'"n":{text}')) == 400


@pytest.mark.parametrize(("text", "number"), [("5", 5), ("0", 0), ("-0", 0), ("-12", -12), ("2147483647", 2**31 - 1)])
def test_text_that_is_an_integer_is_read_as_one(text: str, number: int) -> None:
    """TS-04, TS-09."""
    assert binary({"ce-n": text}).get_int("n") == number


FORBIDDEN = [
    "\n",
    "\x00",
    "\x1f",
    "\x7f",
    "\x85",
    "\x9f",
    "\ufffe",
    "\uffff",
    "\ufdd0",
    "\ufdef",
    "\U0001fffe",
    "\U0010ffff",
]
SURROGATES = ["\udead", "\ud800"]
ALLOWED = [" ", "\xa0", "é", "€", "\u2028", "\ufeff", "\ufdcf", "\ufdf0", "\U000102ad", "\U0001f600", "\ue000"]


@pytest.mark.parametrize("character", [*FORBIDDEN, *SURROGATES], ids=ascii)
@pytest.mark.parametrize("name", ["subject", "id", "type", "comexample"])
def test_a_character_that_the_string_type_excludes_is_refused(name: str, character: str) -> None:
    """TS-05."""
    text = f"a{character}b"
    refused(lambda: new(**{name: text}), attribute=name)
    assert refused(lambda: structured({name: text})) == 400
    if character not in SURROGATES:
        escaped = "".join(f"%{byte:02X}" for byte in character.encode())
        assert refused(lambda: binary({f"ce-{name}": f"a{escaped}b"}), attribute=name) == 400


@pytest.mark.parametrize("character", ALLOWED, ids=ascii)
def test_every_other_character_is_kept(character: str) -> None:
    """TS-05."""
    for event in (new(subject=f"a{character}b"), structured(subject=f"a{character}b")):
        for mode in MODES:
            assert again(event, mode).subject == f"a{character}b"


def test_a_surrogate_pair_in_json_is_one_character() -> None:
    """TS-05."""
    assert plus(r'"subject":"\ud800\udead"').subject == "\U000102ad"
    assert refused(lambda: plus(r'"subject":"\udead\ud800"')) == 400


def test_bytes_are_written_as_base64() -> None:
    """TS-06."""
    for value in (b"\x00\xff", bytearray(b"\x00\xff"), memoryview(b"\x00\xff")):
        event = new(key=value)
        assert event["key"] == members_of(event)["key"] == headers_of(event)["ce-key"] == "AP8="


def test_urls_and_datetimes_are_written_as_their_text() -> None:
    """TS-07."""
    moment = datetime(2018, 4, 5, 17, 31, 0, 500_000, timezone(timedelta(hours=5, minutes=30)))
    event = new(link=URL("https://e.x/a b?c=€"), when=moment)
    assert event["link"] == "https://e.x/a%20b?c=%E2%82%AC"
    assert event["when"] == "2018-04-05T17:31:00.500000+05:30"
    assert new(source=URL("https://e.x/")).source == "https://e.x/"


@pytest.mark.parametrize(
    "value", [1.5, float("nan"), float("inf"), 1.0, [1], {}, {"a": 1}, (), object(), 1j, Event], ids=repr
)
def test_no_other_type_is_an_attribute(value: Any) -> None:
    """TS-08."""
    with pytest.raises(EventError) as caught:
        new(ext=value)
    assert caught.value.attribute == "ext"
    assert caught.value.value_type is type(value)


@pytest.mark.parametrize("text", ["1.5", "[1]", "[]", "{}", '{"a":1}', "1.0", "-0.0"])
def test_no_other_json_type_is_an_attribute(text: str) -> None:
    """TS-08."""
    assert refused(lambda: plus(f'"a":{text}'), attribute="a") == 400


def test_values_that_came_as_text_are_read_by_type_on_demand() -> None:
    """TS-09."""
    event = binary({"ce-sequence": "5", "ce-flag": "true", "ce-off": "false", "ce-word": "x", "ce-big": "True"})
    assert event.get_int("sequence") == 5
    assert (event.get_bool("flag"), event.get_bool("off")) == (True, False)
    for read_it, name in ((event.get_int, "word"), (event.get_bool, "word"), (event.get_bool, "big")):
        with pytest.raises(EventError) as caught:
            read_it(name)
        assert caught.value.attribute == name
    with pytest.raises(KeyError):
        event.get_int("missing")


def test_a_value_from_a_header_is_text() -> None:
    """TS-10: types are not guessed."""
    event = binary({"ce-flag": "true", "ce-sequence": "007", "ce-n": "5"})
    found: dict[str, Value] = {"flag": "true", "sequence": "007", "n": "5"}
    assert event.extensions == found


DAY = "2018-04-05"
TIMES = [
    f"{DAY}T17:31:00Z", f"{DAY}T17:31:00.123456789Z", f"{DAY}t17:31:00z", f"{DAY}T17:31:00+05:30",
    f"{DAY}T17:31:00-00:00", f"{DAY}T17:31:00.1+00:00", f"{DAY}T23:59:59.999999999999Z", "2020-02-29T00:00:00Z",
    "2000-02-29T00:00:00Z", f"{DAY}T17:31:00+23:59", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z",
]  # fmt: skip
NO_TIMES = [
    DAY, "20180405T173100Z", "2018-W14-4T17:31:00Z", "2018-095T17:31:00Z", f"{DAY}T17:31Z", f"{DAY}T17Z",
    f"{DAY}T17:31:00,5Z", f"{DAY}T17:31:00+0530", f"{DAY}T17:31:00+24:00", f"{DAY}T17:31:00+05:60", f"{DAY}T17:31:00",
    f"{DAY}T24:00:00Z", f"{DAY} 17:31:00Z", f"{DAY}T17:60:00Z", f"{DAY}T17:31:61Z", "2018-13-01T00:00:00Z",
    "2018-04-31T00:00:00Z", "2019-02-29T00:00:00Z", "1900-02-29T00:00:00Z", "2018-00-05T00:00:00Z",
    "2018-04-00T00:00:00Z", f"{DAY}T17:31:00.Z", f"{DAY}T17:31:00Z ", f"{DAY}T17:31:00ZZ", f"{DAY}T17:31:00\u0660Z",
    "٢٠١٨-04-05T17:31:00Z", f"{DAY}T17:31:00+05:30:30", "", "now", "-2018-04-05T17:31:00Z", "02018-04-05T17:31:00Z",
]  # fmt: skip


@pytest.mark.parametrize("text", TIMES)
def test_a_timestamp_follows_rfc_3339_and_keeps_its_text(text: str) -> None:
    """TS-11, TS-12."""
    for event in (new(time=text), structured(time=text), binary({"ce-time": text})):
        assert event.time_text == text
        assert event.time is not None
        assert event.time.utcoffset() is not None
        for mode in MODES:
            assert again(event, mode).time_text == text


@pytest.mark.parametrize("text", NO_TIMES, ids=ascii)
def test_anything_else_is_no_timestamp(text: str) -> None:
    """TS-11."""
    refused(lambda: new(time=text), attribute="time")
    assert refused(lambda: structured(time=text), attribute="time") == 400
    if text == text.strip():
        assert refused(lambda: binary({"ce-time": text}), attribute="time") == 400


@pytest.mark.parametrize("value", [5, 1.5, True, [], {}], ids=repr)
def test_a_timestamp_is_no_other_json_type(value: object) -> None:
    """TS-11."""
    assert refused(lambda: structured(time=value), attribute="time") == 400


@pytest.mark.parametrize("fraction", [".1", ".10", ".123456", ".123456789", ".000000000000001", ""])
def test_the_digits_of_a_second_are_neither_cut_nor_added(fraction: str) -> None:
    """TS-12."""
    text = f"{DAY}T17:31:00{fraction}Z"
    event = structured(time=text)
    for mode in MODES:
        assert again(event, mode).time_text == text
    assert event.time == datetime(2018, 4, 5, 17, 31, 0, int(f"{fraction[1:7]:0<6}"), UTC)


def test_an_offset_with_seconds_is_written_in_utc() -> None:
    """TS-13."""
    zone = timezone(timedelta(hours=1, seconds=30))
    moment = datetime(2018, 4, 5, 17, 31, tzinfo=zone)
    for event in (new(time=moment), new(when=moment, time=moment)):
        assert event.time_text == "2018-04-05T16:30:30Z"
        assert event.time == moment


def test_a_leap_second_is_kept_as_text_and_read_as_the_last_microsecond_before_it() -> None:
    """TS-14, decision 0.16."""
    text = "2016-12-31T23:59:60Z"
    for event in (new(time=text), structured(time=text), binary({"ce-time": text})):
        assert event.time_text == text
        assert event.time == datetime(2016, 12, 31, 23, 59, 59, 999_999, UTC)
        for mode in MODES:
            assert again(event, mode).time_text == text


def test_a_year_that_datetime_lacks_is_kept_as_text() -> None:
    """TS-14: RFC 3339 has a year 0000, Python has none."""
    event = structured(time="0000-01-01T00:00:00Z")
    assert event.time_text == "0000-01-01T00:00:00Z"
    refused(lambda: event.time, attribute="time")
