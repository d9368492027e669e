"""Names and values of attributes: what is remembered, what is converted, and the corners of time.

What the type system takes and refuses is tested row by row in tests/spec/test_type_system.py.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from enum import IntEnum, StrEnum
from time import perf_counter
from typing import Any

import pytest
from yarl import URL

from cloudevents_kit import EventError, _http, _payload, _values
from cloudevents_kit._values import (
    check_attributes,
    check_name,
    check_string,
    check_value,
    format_timestamp,
    is_absolute_uri,
    is_media_type,
    is_timestamp,
    is_uri_reference,
    match_traceparent,
    parse_boolean,
    parse_integer,
    parse_timestamp,
    shown,
)
from tests.support.events import new


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


@pytest.mark.parametrize(
    ("value", "canonical"),
    [
        ("x", "x"),
        ("", ""),
        (Colour.RED, "red"),
        (Text("x"), "x"),
        (Level.HIGH, 3),
        (True, True),
        (0, 0),
        (-(2**31), -(2**31)),
        (b"\x00\xff", "AP8="),
        (memoryview(b"a"), "YQ=="),
        (datetime(2018, 4, 5, tzinfo=UTC), "2018-04-05T00:00:00Z"),
        (URL("https://e.x/é"), "https://e.x/%C3%A9"),
    ],
    ids=lambda value: f"{type(value).__name__} {value!a}",
)
def test_a_value_is_kept_in_its_canonical_form(value: object, canonical: object) -> None:
    found = check_value("ext", value)
    assert found == canonical
    assert type(found) is type(canonical)


@pytest.mark.parametrize(("name", "value"), [("source", URL("/a b")), ("dataschema", URL("https://e.x/s"))])
def test_an_attribute_that_is_a_uri_takes_a_url(name: str, value: URL) -> None:
    assert new(**{name: value})[name] == str(value)


def test_a_time_takes_a_datetime() -> None:
    assert new(time=datetime(2018, 4, 5, tzinfo=UTC)).time_text == "2018-04-05T00:00:00Z"


@pytest.mark.parametrize("name", ["a", "0", "abc123", "a" * 500])
def test_a_name_is_lower_case_letters_and_digits(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MyExt", "MyExt: attribute names use only a-z and 0-9 (did you mean 'myext'?)"),
        ("my-ext", "my-ext: attribute names use only a-z and 0-9 (did you mean 'myext'?)"),
        ("<script>", "attribute: attribute names use only a-z and 0-9 (for example partitionkey)"),
        ("A" * 65, "attribute: attribute names use only a-z and 0-9 (for example partitionkey)"),
        ("é", "attribute: attribute names use only a-z and 0-9 (for example partitionkey)"),
        ("data", "data: is not an attribute (it stands beside the attributes)"),
    ],
)
def test_a_bad_name_is_shown_only_if_it_is_harmless(name: str, text: str) -> None:
    with pytest.raises(EventError) as caught:
        check_name(name)
    assert str(caught.value) == text
    assert shown(name) in {caught.value.attribute, "data"}


def test_text_beyond_ascii_is_looked_at_character_by_character() -> None:
    assert check_string("ext", "é€😀\u2028") == "é€😀\u2028"
    with pytest.raises(EventError, match=r"^ext: holds a control character"):
        check_string("ext", "é\x85")


def test_a_check_forgets_what_it_knows_rather_than_grow() -> None:
    known: Any = is_uri_reference.__self__  # type: ignore[attr-defined]
    for number in range(_values._REMEMBERED + 50):
        assert is_uri_reference(f"/remembered/{number}")
        assert len(known) <= _values._REMEMBERED
    assert not is_uri_reference("/not remembered")
    assert "/not remembered" not in known
    long = "/" + "a" * 600
    assert is_uri_reference(long)
    assert long not in known


CHECKS: list[Callable[[str], object]] = [
    is_uri_reference,
    is_absolute_uri,
    is_media_type,
    is_timestamp,
    match_traceparent,
    lambda text: refusal(check_name, text),
    lambda text: refusal(check_string, "ext", text + "\x00"),
    lambda text: refusal(parse_integer, "ext", text),
    lambda text: refusal(_http.decode_value, "ext", b'"' + text.encode()),
    lambda text: refusal(_http.decode_value, "ext", text.encode()),
    _payload._charset,
    lambda text: refusal(_http._kind, "application/cloudevents+json;" + text),
]
#: A beginning, a piece that is repeated, and an end at which everything may fail.
HOSTILE = [
    ("a/b", "; ", "@"),
    ("a/b", " ", "@"),
    ("a/b", ";\t ", "@"),
    ("a/b;", "a", "@"),
    ("a/b", ";a=b ", "@"),
    ("a/b", ';a="b" ', "@"),
    ('a/b;a="', "\\a", "\\"),
    ("", " ", "@"),
    ("", ";charset=", " "),
    (";", " ", "@"),
    ("", "a", '"'),
    ("", "a:", '"'),
    ("", "/", '"'),
    ("//", "a", '"'),
    ("//", "a:", '"'),
    ("//", "a@", '"'),
    ("//[", ":", '"'),
    ("a:", "?#", '"'),
    ("a:/", "%41", "%4"),
    ("", "%41", "%"),
    ("", "%", "%"),
    ("2018-04-05T17:31:00.", "0", "z0"),
    ("2024-02-29T17:31:00.", "0", "z0"),
    ("", "1", "-"),
    ("", "\\a", ""),
]


def refusal(check: Callable[..., object], *values: object) -> bool:
    """Tell whether ``check`` takes the values."""
    try:
        check(*values)
    except EventError:
        return False
    return True


@pytest.mark.parametrize(("begin", "piece", "end"), HOSTILE, ids=repr)
def test_a_hostile_text_of_100_kb_is_refused_at_once(begin: str, piece: str, end: str) -> None:
    text = begin + piece * (100_000 // len(piece)) + end
    for check in CHECKS:
        started = perf_counter()
        check(text)
        assert perf_counter() - started < 1


def test_a_media_type_that_fails_at_its_end_is_refused_whatever_spaces_it_has() -> None:
    assert not is_media_type("a/b" + "; " * 5000 + "@")
    assert is_media_type("a/b" + " ; \t" * 5000 + 'c=d ; e="f" ')


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ('a/b; x="c d"', True),
        ('a/b; x="c;d=\\"e\\""', True),
        ('a/b; x="\t"', True),
        ('a/b; x=""', True),
        ('a/b; x="é"', False),
        ('a/b; x="\\é"', False),
        ('a/b; x="\x7f"', False),
        ('a/b; x="\x85"', False),
        ('a/b; x="a"b"', False),
        ('a/b; x="a', False),
        ('a/b; x="a\\"', False),
        ("a/b; x=é", False),
        ("a/b x=c", False),
        ("a/b;x=c y=d", False),
        ("a/b; x =c", False),
    ],
)
def test_a_parameter_of_a_media_type_is_ascii(text: str, taken: bool) -> None:
    assert is_media_type(text) is taken


def test_nothing_is_no_uri_no_media_type_and_no_time() -> None:
    for check in (is_uri_reference, is_absolute_uri, is_media_type, is_timestamp):
        assert not check("")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2018-04-05t17:31:00z", datetime(2018, 4, 5, 17, 31, tzinfo=UTC)),
        ("2018-04-05T17:31:00.1234567+05:30", datetime(2018, 4, 5, 12, 1, 0, 123_456, UTC)),
        ("2018-04-05T17:31:00.1-00:00", datetime(2018, 4, 5, 17, 31, 0, 100_000, UTC)),
        ("2016-12-31T23:59:60Z", datetime(2016, 12, 31, 23, 59, 59, 999_999, UTC)),
        ("2016-12-31T15:59:60.5-08:00", datetime(2016, 12, 31, 23, 59, 59, 999_999, UTC)),
        ("2024-02-29T00:00:00Z", datetime(2024, 2, 29, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999999Z", datetime.max.replace(tzinfo=UTC)),
    ],
)
def test_a_text_is_read_as_the_moment_it_names(text: str, moment: datetime) -> None:
    assert is_timestamp(text)
    assert parse_timestamp(text) == moment


@pytest.mark.parametrize("year", ["1900", "2023", "2100"])
def test_no_other_year_has_a_29_february(year: str) -> None:
    assert not is_timestamp(f"{year}-02-29T00:00:00Z")
    assert not is_timestamp(f"{year}-02-29T25:00:00Z")


def test_a_year_that_datetime_lacks_cannot_be_read() -> None:
    assert is_timestamp("0000-02-29T00:00:00Z")
    with pytest.raises(EventError, match=r"^time: lies outside what datetime can hold .read the text instead.$"):
        parse_timestamp("0000-02-29T00:00:00Z")
    with pytest.raises(EventError, match=r"^expirytime: lies outside what datetime can hold"):
        parse_timestamp("0000-02-29T00:00:00Z", "expirytime")


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2018, 4, 5, 17, 31, tzinfo=UTC), "2018-04-05T17:31:00Z"),
        (datetime(2018, 4, 5, 17, 31, 0, 5, timezone(timedelta(hours=-8))), "2018-04-05T17:31:00.000005-08:00"),
        (datetime(2018, 4, 5, 17, 31, tzinfo=timezone(timedelta(seconds=1))), "2018-04-05T17:30:59Z"),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), "0001-01-01T00:00:00+14:00"),
    ],
)
def test_a_moment_is_written_with_its_offset(moment: datetime, text: str) -> None:
    assert format_timestamp(moment) == text
    assert parse_timestamp(text) == moment


@pytest.mark.parametrize("text", ["2147483648", "-2147483649", "9" * 5000, "1.0", "+1", "", "true"])
def test_a_text_that_is_no_integer_of_32_bits_is_not_read_as_one(text: str) -> None:
    with pytest.raises(EventError, match=r"^n: is no Integer of 32 bits$"):
        parse_integer("n", text)
    assert parse_integer("n", "-2147483648") == -(2**31)


@pytest.mark.parametrize("value", ["True", "1", 1, 0, ""], ids=repr)
def test_only_true_and_false_are_booleans(value: Any) -> None:
    with pytest.raises(EventError, match=r'^flag: is no Boolean .the canonical texts are "true" and "false".$'):
        parse_boolean("flag", value)
    assert (parse_boolean("flag", "true"), parse_boolean("flag", False)) == (True, False)


def test_attributes_are_checked_where_not_all_are_text() -> None:
    attributes: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "n": 5}
    assert check_attributes(attributes) is attributes
    for name in ("specversion", "id", "source", "type"):
        with pytest.raises(EventError, match=f"^{name}: is required"):
            check_attributes({key: value for key, value in attributes.items() if key != name})


def test_without_yarl_a_url_like_object_is_no_url() -> None:
    """The core does not load the library whose URLs it takes."""
    program = """
import sys
from cloudevents_kit import Event, EventError
try:
    Event(type="t", source="/s", ext=object())
except EventError as error:
    print(error.attribute, "yarl" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ext", "False"]
