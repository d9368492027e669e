"""`from_http` and `to_http`, as somebody uses them who has a framework of his own, or none."""

from __future__ import annotations

import email.message
import http.client
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from starlette.datastructures import Headers as StarletteHeaders

from cloudevents_kit import (
    CloudEventsError,
    Event,
    EventError,
    Message,
    Receiver,
    _http,
    _payload,
    from_http,
    to_http,
    to_json,
)
from cloudevents_kit._errors import BindingError
from cloudevents_kit._http import encode_batch
from tests.support.raw import exchange, request
from tests.support.strategies import events

HEADERS = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t", "Content-Type": "application/json"}
CORE = {name: value for name, value in HEADERS.items() if name != "Content-Type"}
MEMBERS = {name[3:]: value for name, value in CORE.items()}
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
EVENT = Event(type="t", source="/s", id="1", time=None, data={"a": 1})


def mail(headers: dict[str, str]) -> email.message.Message:
    """Headers as the standard library's HTTP server and client have them."""
    found = http.client.HTTPMessage()
    for name, value in headers.items():
        found[name] = value
    return found


def octets(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


SHAPES: dict[str, Any] = {
    "dict": dict,
    "upper case": lambda headers: {name.upper(): value for name, value in headers.items()},
    "pairs": lambda headers: list(headers.items()),
    "pairs of bytes, as in an ASGI scope": octets,
    "pairs of lists": lambda headers: [list(pair) for pair in headers.items()],
    "an iterator": lambda headers: iter(headers.items()),
    "a dict of bytes": lambda headers: dict(octets(headers)),
    "multidict": CIMultiDict,
    "multidict proxy": lambda headers: CIMultiDictProxy(CIMultiDict(headers)),
    "starlette": StarletteHeaders,
    "http.client": mail,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_headers_may_have_any_shape(shape: str) -> None:
    given = SHAPES[shape]({"Host": "localhost", "X-Other": "é", **HEADERS})
    assert from_http(given, b'{"a":1}') == [EVENT]


@pytest.mark.parametrize("body", [b'{"a":1}', bytearray(b'{"a":1}'), memoryview(b'{"a":1}')])
def test_a_body_is_bytes_of_any_kind(body: Any) -> None:
    [event] = from_http(HEADERS, body)
    assert event == EVENT
    assert type(event.raw) is bytes


@pytest.mark.parametrize("body", ['{"a":1}', None, {"a": 1}, 5])
def test_a_body_that_is_not_bytes_is_refused_at_once(body: Any) -> None:
    with pytest.raises(TypeError, match=rf"^body: must be bytes, not {type(body).__name__}"):
        from_http(HEADERS, body)


def test_each_mode_is_told_by_its_content_type() -> None:
    assert from_http({"Content-Type": "application/cloudevents+json"}, to_json(EVENT)) == [EVENT]
    batch = b"[%b,%b]" % (to_json(EVENT), to_json(EVENT.evolve(id="2")))
    kind = {"content-type": "application/cloudevents-batch+json; charset=utf-8"}
    assert [event.id for event in from_http(kind, batch)] == ["1", "2"]
    assert from_http(kind, b"[]") == []


def test_to_http_writes_what_a_client_library_takes() -> None:
    assert to_http(EVENT) == to_http(EVENT, "binary") == Message(headers=HEADERS, body=b'{"a":1}')
    structured = to_http(EVENT, "structured")
    assert structured.headers == {"Content-Type": "application/cloudevents+json"}
    assert json.loads(structured.body) == {
        "specversion": "1.0",
        "id": "1",
        "source": "/s",
        "type": "t",
        "datacontenttype": "application/json",
        "data": {"a": 1},
    }
    headers, body = structured  # a pair, to be unpacked
    assert (headers, body) == (structured.headers, structured.body)


@pytest.mark.parametrize("mode", ["batch", "", None, "BINARY"])
def test_another_mode_is_refused(mode: Any) -> None:
    with pytest.raises(ValueError, match=r"^mode: must be 'binary' or 'structured', not "):
        to_http(EVENT, mode)


@given(events(), st.sampled_from(["binary", "structured"]), st.sampled_from(["dict", "multidict", "http.client"]))
def test_what_to_http_writes_from_http_reads(event: Event, mode: Any, shape: str) -> None:
    message = to_http(event, mode)
    [back] = from_http(SHAPES[shape](message.headers), message.body)
    assert back.key == event.key
    assert {name: str(value).lower() for name, value in back.extensions.items()} == {
        name: str(value).lower() for name, value in event.extensions.items()
    }
    assert (back.raw or None) == (event.raw or None)


@given(st.lists(events(), max_size=3), st.sampled_from(["pairs", "starlette"]))
def test_what_a_batch_was_written_as_is_read(batch: list[Event], shape: str) -> None:
    message = encode_batch(batch)
    assert from_http(SHAPES[shape](message.headers), message.body) == batch


# -------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        ({**HEADERS, "ce-id": ""}, b"", "id: must not be empty"),
        ({**HEADERS, "ce-time": "today"}, b"", "time: "),
        ({**HEADERS, "ce-Bad_Name": "x"}, b"", "bad_name: "),
        ({name: HEADERS[name] for name in HEADERS if name != "ce-source"}, b"", "source: is required"),
        ({**HEADERS, "ce-specversion": "0.3"}, b"", "specversion: "),
        ([*HEADERS.items(), ("CE-ID", "2")], b"", "id: is repeated"),
        ({**HEADERS, "ce-subject": "a" + chr(0xDCFF)}, b"", "subject: is not UTF-8"),
        ({**HEADERS, "ce-subject": "a" + chr(0xD800)}, b"", "subject: is not UTF-8"),
        ({**HEADERS, "ce-x" + chr(0xD800): "a"}, b"", "attribute: "),
        ({"content-type": "application/cloudevents+json"}, b"{}", ": is required"),
    ],
)
def test_a_broken_event_is_an_event_error(headers: Any, body: bytes, said: str) -> None:
    """K-E1: one class, which is a ValueError, names the attribute and the rule."""
    with pytest.raises(EventError) as caught:
        from_http(headers, body)
    assert said in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, CloudEventsError)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"{}", 415),
        ({"content-type": "application/json"}, b"{}", 415),
        ({**HEADERS, "content-encoding": "br"}, b"{}", 415),
        ({"content-type": "application/cloudevents+avro"}, b"{}", 415),
        ({"content-type": "application/cloudevents+json; charset=utf-16"}, b"{}", 415),
        ([*HEADERS.items(), ("content-type", "text/plain")], b"{}", 400),
        ({"content-type": "application/cloudevents+json"}, b"{", 400),
        ({"content-type": "application/cloudevents-batch+json"}, b"[{}]", 400),
    ],
)
def test_what_is_no_event_is_an_error_of_the_same_root_with_a_status(headers: Any, body: bytes, status: int) -> None:
    with pytest.raises(CloudEventsError) as caught:
        from_http(headers, body)
    assert isinstance(caught.value, BindingError)
    assert caught.value.status == status


def test_a_content_encoding_was_undone_before() -> None:
    assert from_http({**HEADERS, "Content-Encoding": "gzip"}, b'{"a":1}') == [EVENT]


@given(
    st.dictionaries(st.text(max_size=9) | st.sampled_from([*HEADERS]), st.text(max_size=9), max_size=6),
    st.booleans(),
    st.binary(max_size=20),
)
def test_any_headers_of_text_give_events_or_our_error(headers: dict[str, str], whole: bool, body: bytes) -> None:
    try:
        found = from_http({**(HEADERS if whole else {}), **headers}, body)
    except CloudEventsError:
        return
    assert all(isinstance(event, Event) for event in found)


def test_what_is_remembered_of_headers_is_bounded() -> None:
    """Names and content types of hostile peers are many."""
    for number in range(2500):
        headers = {**HEADERS, f"ce-x{number}": "v", f"X-{number}": "v", "Content-Type": f"a/b{number}"}
        [event] = from_http(headers, b"")
        assert (event[f"x{number}"], event.datacontenttype) == ("v", f"a/b{number}")
        assert to_http(event).headers[f"ce-x{number}"] == "v"
    long = "x" * 200
    [event] = from_http({**HEADERS, f"ce-{long}": "v"}, b"")
    assert event[long] == "v"
    assert len(_http._attribute_of) <= 1024
    assert len(_http._kind_of) <= 1024
    assert f"ce-{long}".encode() not in _http._attribute_of
    assert long not in _http._valid
    assert len(_http._valid) <= 1100


def test_what_is_long_is_read_and_written_and_not_remembered() -> None:
    for number in range(20):
        long = f"a/{number}{'b' * 600}"
        [event] = from_http({**HEADERS, "Content-Type": long, "ce-type": long}, b"x")
        assert (event.datacontenttype, event.type, event.data) == (long, long, b"x")
        name = f"x{number}{'y' * 600}"
        assert to_http(event.evolve(**{name: "v"})).headers[f"ce-{name}"] == "v"
    memories: list[Any] = [_http._attribute_of, _http._kind_of, _http._valid, _payload._media, _payload.holds_json]
    memories.append(_http._header_of.__self__)  # type: ignore[attr-defined]
    for memory in memories:
        assert max((len(key or "") for key in memory), default=0) <= 512


@pytest.mark.parametrize("content_type", ['text/plain; x="é"', 'text/plain; x="\\é"', "text/plain; x=é", "text/é"])
def test_a_content_type_beyond_ascii_is_refused_built_or_received(content_type: str) -> None:
    """HTTP says Latin-1, JSON says UTF-8: what one side wrote, the other would read as something else."""
    rule = r"^datacontenttype: must be a media type"
    with pytest.raises(EventError, match=rule):
        Event(type="t", source="/s", datacontenttype=content_type)
    for raw in (content_type.encode(), content_type.encode("latin-1")):
        with pytest.raises(EventError, match=rule):
            from_http([(name.encode(), value.encode()) for name, value in CORE.items()] + [(b"content-type", raw)], b"")
    with pytest.raises(EventError, match=rule):
        from_http(STRUCTURED, json.dumps({**MEMBERS, "datacontenttype": content_type}).encode())


def test_a_tab_between_parameters_is_a_space() -> None:
    [event] = from_http({**CORE, "Content-Type": "text/plain;\tcharset=utf-8"}, b"x")
    assert event.datacontenttype == "text/plain; charset=utf-8"
    assert from_http(STRUCTURED, to_json(event)) == [event]


@given(st.text(st.sampled_from(["a", " ", "\\", '"', ";", "=", "é", "\x7f", "~", "%"]), max_size=12))
def test_a_content_type_that_can_be_built_comes_back_as_it_was(parameter: str) -> None:
    try:
        event = EVENT.evolve(data=b"x", datacontenttype=f'text/plain; x="{parameter}"')
    except EventError:
        return
    for mode in ("binary", "structured"):
        message = to_http(event, mode)
        assert from_http(message.headers, message.body) == [event]


@pytest.mark.parametrize("headers", [None, 5, object()], ids=repr)
def test_what_holds_no_headers_is_named(headers: Any) -> None:
    rule = f"headers: must be a mapping, or pairs of name and value, not {type(headers).__name__}"
    with pytest.raises(TypeError, match=rf"^{rule} .give those of the request.$"):
        from_http(headers, b"")


@pytest.mark.parametrize("value", [None, 5])
def test_a_header_that_is_no_text_is_named(value: Any) -> None:
    rule = f"headers: must be pairs of str or bytes, not {type(value).__name__}"
    with pytest.raises(TypeError, match=f"^{rule} "):
        from_http({**HEADERS, "ce-x": value}, b"")


@pytest.mark.parametrize("thing", [None, 5, {"type": "t"}, object()], ids=repr)
def test_what_is_no_event_is_not_written(thing: Any) -> None:
    rule = f"event: must be an Event, or a list of them, not {type(thing).__name__}"
    with pytest.raises(TypeError, match=rf"^{rule} .Event.of takes those of the official SDK.$"):
        to_http(thing)


def test_what_is_wrong_is_named_the_same_however_much_is_remembered() -> None:
    for number in range(1500):
        from_http({**HEADERS, f"ce-y{number}": "v"}, b"")
        if number % 100 == 0:
            with pytest.raises(EventError, match=r"^datacontenttype: travels as Content-Type only"):
                from_http({**HEADERS, "ce-datacontenttype": "a/b"}, b"")


# ------------------------------------------------------------------------------------------- on real connections


async def test_a_request_written_by_hand_reaches_a_receiver_and_its_answer_is_read() -> None:
    async def handle(event: Event) -> Event:
        return event.reply(type="r", source="/r", data=event.data)

    for mode in ("binary", "structured"):
        message = to_http(EVENT, mode)
        async with Receiver(handle, port=0) as receiver:
            lines = [f"{name}: {value}" for name, value in message.headers.items()]
            answer = await exchange(receiver.port, request(*lines, body=message.body))
        assert answer is not None
        [reply] = from_http(answer.headers, answer.body)
        assert (reply.type, reply.data, reply["causationid"]) == ("r", {"a": 1}, "1")


@contextmanager
def plain_server(seen: list[Event]) -> Iterator[str]:
    """An HTTP server of the standard library that reads events."""

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                seen.extend(from_http(self.headers, body))
            except CloudEventsError:
                self.send_response(400)
            else:
                self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_the_standard_library_is_framework_enough() -> None:
    seen: list[Event] = []
    event = EVENT.evolve(subject="Zoë %20", n=5, data=[1])
    with plain_server(seen) as url:
        for mode in ("binary", "structured"):
            headers, body = to_http(event, mode)
            with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
                assert answer.status == 204
    assert [found.data for found in seen] == [[1], [1]]
    assert [found.get_int("n") for found in seen] == [5, 5]
    assert {found.subject for found in seen} == {"Zoë %20"}
