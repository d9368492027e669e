"""Section 4 of the checklist: the binary content mode."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from cloudevents_kit import Ack, DataError, Event, EventError, Receiver, Sender, Undelivered, _http, current_headers
from tests.spec.wire import (
    HEADERS,
    again,
    binary,
    body_of,
    headers_of,
    members_of,
    new,
    pairs,
    read,
    refused,
    structured,
)
from tests.support.raw import Capture, exchange, request


def test_attributes_are_headers_and_datacontenttype_is_content_type() -> None:
    """HB-01."""
    event = new(
        subject="a", time="2018-04-05T17:31:00Z", dataschema="https://e.x/s", ext="x", datacontenttype="a/b; c=D"
    )
    assert headers_of(event) == {
        **HEADERS,
        "ce-subject": "a",
        "ce-time": "2018-04-05T17:31:00Z",
        "ce-dataschema": "https://e.x/s",
        "ce-ext": "x",
        "Content-Type": "a/b; c=D",
    }
    assert again(event, "binary") == event


@pytest.mark.parametrize(
    "headers", [[("ce-datacontenttype", "a/b")], [("Content-Type", "a/b"), ("CE-DataContentType", "a/b")]]
)
def test_ce_datacontenttype_is_refused_wherever_it_stands(headers: list[tuple[str, str]]) -> None:
    """HB-02."""
    every = [*HEADERS.items(), *headers]
    for order in (every, every[::-1]):
        assert refused(partial(read, order), attribute="datacontenttype") == 400
    assert "ce-datacontenttype" not in headers_of(new(datacontenttype="a/b"))


@pytest.mark.parametrize(
    "change", [str.upper, str.title, str.swapcase, lambda name: name[:3] + name[3:].upper()], ids=[1, 2, 3, 4]
)
def test_the_case_of_a_header_name_does_not_matter(change: Any) -> None:
    """HB-03."""
    headers = {**HEADERS, "content-type": "text/plain", "ce-ext": "x"}
    event = read({change(name): value for name, value in headers.items()})
    assert event == binary({"content-type": "text/plain", "ce-ext": "x"})


KNOWN = {
    "Euro € 😀": "Euro%20%E2%82%AC%20%F0%9F%98%80",
    'a b"c%d~!': "a%20b%22c%25d~!",
    "/:+,;=<>[]{}|\\^`@#$&'()*?-._~": "/:+,;=<>[]{}|\\^`@#$&'()*?-._~",
    "%20": "%2520",
    "é": "%C3%A9",
}


@pytest.mark.parametrize(("value", "header"), KNOWN.items())
def test_a_value_is_percent_encoded_where_it_must_be_and_nowhere_else(value: str, header: str) -> None:
    """HB-04."""
    assert headers_of(new(subject=value))["ce-subject"] == header
    assert binary({"ce-subject": header}).subject == value


QUOTED = {
    '"hello world"': "hello world",
    r'"a \"b\" \\c"': r'a "b" \c',
    '"a%20b"': "a b",
    '""x': None,
    '"a"b"': None,
    '"a\\"': None,
    '"': None,
    'a"b': 'a"b',
    '"a" ': "a",
}


@pytest.mark.parametrize(("header", "value"), QUOTED.items())
def test_a_quoted_string_is_unquoted_first(header: str, value: str | None) -> None:
    """HB-05."""
    if value is None:
        assert refused(lambda: binary({"ce-subject": header}), attribute="subject") == 400
    else:
        assert binary({"ce-subject": header}).subject == value


@pytest.mark.parametrize(
    ("header", "value"), {"%2520": "%20", '"a%20b"': "a b", "%2525": "%25", '"%22"': '"', "%22a%22": '"a"'}.items()
)
def test_a_value_is_percent_decoded_exactly_once(header: str, value: str) -> None:
    """HB-06."""
    assert binary({"ce-subject": header}).subject == value


@pytest.mark.parametrize(("header", "value"), {"%e2%82%ac": "€", "%41": "A", "%E2%82%Ac": "€", "%7e": "~"}.items())
def test_lower_case_digits_and_needless_escapes_are_read(header: str, value: str) -> None:
    """HB-07."""
    assert binary({"ce-subject": header}).subject == value


@pytest.mark.parametrize(
    "header", ["%C0%A0", "a%FFb", "%ED%A0%80", "%F8%88%80%80%80", "%E2%82", "%C3é", "%F4%90%80%80"]
)
def test_escapes_that_are_no_utf_8_are_refused(header: str) -> None:
    """HB-08."""
    assert refused(lambda: binary({"ce-subject": header}), attribute="subject") == 400


@pytest.mark.parametrize("header", ["100%", "%zz", "%4", "%%", "%", "50% of", "%1", "%G0", "% 41"])
def test_a_percent_sign_that_begins_no_escape_stays(header: str) -> None:
    """HB-09: other SDKs write raw percent signs."""
    assert binary({"ce-subject": header}).subject == header


def test_a_plus_is_no_space() -> None:
    """HB-10."""
    assert binary({"ce-subject": "a+b"}).subject == "a+b"
    assert headers_of(new(subject="a+b"))["ce-subject"] == "a+b"


@pytest.mark.parametrize("header", ["a%0D%0AX-Evil:%201", "%00", "%1f", "%7F", "%C2%85", "a\tb", '"a\\\tb"'])
def test_a_control_character_is_refused_also_when_escaped(header: str) -> None:
    """HB-11."""
    assert refused(lambda: binary({"ce-subject": header}), attribute="subject") == 400


def test_raw_utf_8_is_read_and_other_raw_bytes_are_refused() -> None:
    """HB-12."""
    assert binary({"ce-subject": "café".encode()}).subject == "café"
    for raw in (b"\xff\xfe", b"caf\xe9", b"\xed\xb3\xbf", b"a\xc3"):
        assert refused(partial(binary, {"ce-subject": raw}), attribute="subject") == 400


def test_content_type_is_taken_as_it_stands() -> None:
    """HB-13."""
    media = 'multipart/mixed; boundary="a b%20"'
    event = binary({"Content-Type": media})
    assert event.datacontenttype == media
    assert headers_of(event)["Content-Type"] == media


@pytest.mark.parametrize(
    ("data", "media", "body"),
    [
        (b'{"a": 1}', "application/json", b'{"a": 1}'),
        (b"\x00\xff", "application/octet-stream", b"\x00\xff"),
        (b"x", None, b"x"),
        ("é", "text/plain", "é".encode()),
        ("é", "text/plain; charset=iso-8859-1", b"\xe9"),
        ("5", "application/json", b'"5"'),
        ("5", None, b'"5"'),
        (["5"], "application/json", b'["5"]'),
    ],
)
def test_the_body_is_the_data(data: Any, media: str | None, body: bytes) -> None:
    """HB-14."""
    event = new(data=data, datacontenttype=media)
    assert body_of(event) == body
    assert again(event, "binary").raw == body


@pytest.mark.parametrize(
    ("media", "body", "data"),
    [
        ("application/octet-stream", b"abc", b"abc"),
        ("application/octet-stream", b"\xff", b"\xff"),
        ("image/png", b"hello", b"hello"),
        (None, b"5", b"5"),
        (None, b'{"a":1}', b'{"a":1}'),
        ("text/plain", b"5", "5"),
        ("text/plain", b'{"a":1}', '{"a":1}'),
        ("application/json", b"5", 5),
        ("application/x+json", b'"x"', "x"),
    ],
)
def test_the_type_of_the_data_depends_on_datacontenttype_alone(media: str | None, body: bytes, data: object) -> None:
    """HB-15."""
    event = binary({} if media is None else {"Content-Type": media}, body)
    assert event.data == data
    assert type(event.data) is type(data)


@pytest.mark.parametrize("body", [b'{"a":', b"{'a': 1}", b"NaN", b"[1,]", b"\xff", b"tru", b"1 2"])
def test_a_malformed_json_body_is_an_error_for_whoever_reads_it(body: bytes) -> None:
    """HB-16: lazily; the bytes stay at hand and pass through."""
    event = binary({"Content-Type": "application/json"}, body)
    for look in (lambda: event.data, lambda: event.as_type(dict)):
        with pytest.raises(DataError):
            look()
    assert event.raw == body
    assert body_of(event) == body
    assert again(event, "structured").raw == body


@pytest.mark.parametrize("media", [None, "application/json", "text/plain", "application/octet-stream"])
def test_an_empty_body_is_absent_data(media: str | None) -> None:
    """HB-17."""
    event = binary({} if media is None else {"Content-Type": media}, b"")
    assert (event.has_data, event.data, event.raw) == (False, None, None)
    assert "data" not in members_of(event)


def test_a_body_that_says_null_is_null_data() -> None:
    """HB-17."""
    event = binary({"Content-Type": "application/json"}, "null")
    assert (event.has_data, event.data) == (True, None)
    assert members_of(event)["data"] is None
    assert body_of(structured(data=None)) == b"null"


def test_a_message_is_a_binary_event_only_with_all_required_headers() -> None:
    """HB-18."""
    for headers in ({}, {"Content-Type": "application/json"}, {"ce-x": "1"}):
        assert refused(partial(read, headers, "{}")) == 415
    for name in HEADERS:
        assert refused(partial(read, {name: HEADERS[name]}, "{}")) == 400
        assert refused(partial(binary, drop=name)) == 400


@pytest.mark.parametrize("event", [new(), new(data=b"x"), new(data=b"")], ids=["no data", "bytes", "empty bytes"])
async def test_no_content_type_is_added_on_the_way(event: Event) -> None:
    """HB-19."""
    seen = []

    async def handler(event: Event) -> Event:
        seen.append(event)
        return event.evolve(id="2")

    async with Capture() as capture, Sender(capture.url) as sender:
        assert await sender.send(event)
    assert b"content-type" not in capture.requests[0].lower()
    async with Receiver(handler, port=0) as receiver, Sender(receiver.url) as sender:
        result = await sender.request(event)
    assert isinstance(result, Ack)
    assert result.reply is not None
    assert result.reply.datacontenttype is seen[0].datacontenttype is None
    assert (result.reply.raw or b"") == (event.raw or b"")


def test_content_type_is_read_raw() -> None:
    """HB-20: parameters stay, and what is no media type is an error."""
    assert (
        binary({"Content-Type": "text/plain; charset=utf-8; x=y"}).datacontenttype == "text/plain; charset=utf-8; x=y"
    )
    for media in ("", "garbage", ";charset=x", "text/"):
        assert refused(partial(binary, {"Content-Type": media}), attribute="datacontenttype") == 400


async def test_other_headers_stand_apart_from_the_event() -> None:
    """HB-22."""
    found: dict[str, str] = {}

    async def handler(event: Event) -> None:
        assert event.extensions == {}
        found.update(current_headers())

    async with Receiver(handler, port=0) as receiver:
        lines = (
            *(f"{name}: {value}" for name, value in HEADERS.items()),
            "X-Tenant: a",
            "X-Tenant: b",
            "traceparent: c",
        )
        answer = await exchange(receiver.port, request(*lines))
    assert answer is not None
    assert answer.status == 204
    assert (found["x-tenant"], found["traceparent"], found["ce-id"]) == ("a, b", "c", "1")


@pytest.mark.parametrize(
    "extensions",
    [
        {"big": "€" * 3000},
        {f"x{number}": "v" for number in range(120)},
        {f"x{number}": "v" * 700 for number in range(12)},
        {"x" * 9000: "v"},
    ],
    ids=["one long value", "many attributes", "much in all", "one long name"],
)
async def test_an_event_too_large_for_headers_travels_structured(extensions: dict[str, str]) -> None:
    """HB-23."""
    seen = []

    async def handler(event: Event) -> None:
        seen.append(event)

    event = new(data={"a": 1}, **extensions)
    assert _http.encode(event, "binary").headers == {"Content-Type": "application/cloudevents+json"}
    async with Receiver(handler, port=0) as receiver, Sender(receiver.url, mode="binary") as sender:
        assert await sender.send(event)
    assert seen == [event]


async def test_an_attribute_in_a_trailer_is_not_there() -> None:
    """HB-24."""
    lines = [f"{name}: {value}" for name, value in HEADERS.items() if name != "ce-id"]

    async def handler(event: Event) -> None:
        raise AssertionError("no handler may run")

    async with Receiver(handler, port=0) as receiver:
        body = "2\r\n{}\r\n0\r\nce-id: 1\r\n\r\n"
        answer = await exchange(
            receiver.port, request(*lines, "Transfer-Encoding: chunked", "Trailer: ce-id", body=body, length=False)
        )
    assert answer is not None
    assert answer.status == 400
    assert json.loads(answer.body)["detail"] == "id: is required (for example a UUID)"


async def test_nothing_reaches_the_http_library_that_it_would_change() -> None:
    """HB-25: it drops lone surrogates, refuses what is no text, and takes a colon in a name for its end."""
    assert {type(value) for value in headers_of(new(flag=True, n=5, key=b"x")).values()} == {str}
    for attributes in ({"subject": "a\udeadb"}, {"a:": "x"}, {"a b": "x"}, {"a\r\nx": "y"}):
        with pytest.raises(EventError):
            new(**attributes)

    class Foreign:
        def get_attributes(self) -> dict[str, str]:
            return {"id": "1", "source": "/s", "type": "t", "specversion": "1.0", "a:": "x"}

        def get_data(self) -> None:
            return None

    async with Sender("http://127.0.0.1:9/") as sender:
        foreign: Any = Foreign()
        result = await sender.send(foreign)
    assert isinstance(result, Undelivered)
    assert result.reason == "invalid-event"


def test_values_of_every_type_are_text_in_headers() -> None:
    """HB-01, TS-01."""
    assert pairs(headers_of(new(flag=False, n=-5)))[-2:] == [(b"ce-flag", b"false"), (b"ce-n", b"-5")]
