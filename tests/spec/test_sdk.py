"""Section 16 of the checklist: what an SDK offers, and what holds for every event and every message."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloudevents_kit import Ack, CloudEventsError, Event, Receiver, Sender, _http, _json
from tests.spec.schema import SCHEMA, arguments
from tests.spec.wire import BATCH, HEADERS, MEMBERS, MODES, STRUCTURED, again, pairs, read, structured

VALIDATOR = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())


@pytest.mark.parametrize("mode", MODES)
async def test_an_event_is_composed_sent_received_and_read(mode: Any) -> None:
    """SD-01, SD-04, HS-07."""
    seen = []

    async def handler(event: Event) -> Event:
        seen.append(event)
        return event.reply(type="com.example.order.confirmed", source="/shop", data={"ok": True})

    event = Event(type="com.example.order.created", source="/orders", data={"id": 1})
    async with Receiver(handler, port=0) as receiver, Sender(receiver.url, mode=mode) as sender:
        result = await sender.request(event)
    assert seen == [event]
    assert seen[0].data == {"id": 1}
    assert isinstance(result, Ack)
    assert result.reply is not None
    assert result.reply.data == {"ok": True}


async def test_events_are_sent_and_received_in_batches() -> None:
    """SD-01."""
    seen = []

    async def handler(event: Event) -> None:
        seen.append(event)

    events = [Event(type="t", source="/s", data=number) for number in range(3)]
    async with Receiver(handler, port=0) as receiver, Sender(receiver.url, max_batch=10) as sender:
        assert all(await sender.send_batch(events))
    assert seen == events


def test_events_are_encoded_and_decoded_without_any_transport() -> None:
    """SD-02."""
    event = Event(type="t", source="/s", data={"a": 1})
    assert _json.decode(_json.encode(event)) == event
    assert _json.decode_batch(_json.encode_batch([event, event])) == [event, event]
    message = _http.encode(event, "binary")
    assert type(message.headers) is dict
    assert type(message.body) is bytes
    assert read(message.headers, message.body) == event


def test_data_is_unpacked_from_every_form() -> None:
    """SD-03."""
    assert structured(data={"a": 1}).data == {"a": 1}
    assert structured(data_base64="AP8=").data == b"\x00\xff"
    assert structured(data="x", datacontenttype="text/plain").data == "x"
    assert structured(data=[1, 2]).as_type(list[int]) == [1, 2]


# Events of the kind that other SDKs are tested with.
FIXTURES: list[tuple[dict[str, Any], Any]] = [
    ({}, None),
    ({"datacontenttype": "text/plain", "data": "Hello, 🌎!"}, "Hello, 🌎!"),
    ({"datacontenttype": "text/plain; charset=us-ascii", "data": "Hello!"}, "Hello!"),
    ({"datacontenttype": "application/json", "data": "Hello, 🌎!"}, "Hello, 🌎!"),
    ({"datacontenttype": "application/json", "data": {"message": "Hello, 🌎!"}}, {"message": "Hello, 🌎!"}),
    ({"datacontenttype": "application/json", "data": [1, "a", None, {"b": []}]}, [1, "a", None, {"b": []}]),
    ({"data": [[], {}]}, [[], {}]),
    ({"datacontenttype": "application/octet-stream", "data_base64": "AAEC/w=="}, b"\x00\x01\x02\xff"),
    ({"datacontenttype": "application/xml", "data": "<a>é</a>"}, "<a>é</a>"),
    ({"subject": "Zoë", "time": "2018-04-05T17:31:00Z", "dataschema": "https://e.x/s", "ext1": "v", "ext2": 5}, None),
]


@pytest.mark.parametrize(("members", "data"), FIXTURES, ids=lambda value: json.dumps(value, default=repr))
def test_the_usual_events_pass_in_both_modes(members: dict[str, Any], data: object) -> None:
    """SD-06."""
    event = structured(members)
    assert event.data == data
    assert json.loads(_json.encode(event)) == {**MEMBERS, **members}
    there = again(event, "binary")
    assert there.data == data
    assert json.loads(_json.encode(there)) == {**MEMBERS, **members, **({"ext2": "5"} if "ext2" in members else {})} | (
        {"datacontenttype": "application/json"} if "data" in members and "datacontenttype" not in members else {}
    )


@settings(max_examples=300)
@given(arguments(), st.sampled_from(MODES))
def test_an_event_is_read_as_it_was_written(given: dict[str, Any], mode: Any) -> None:
    """SD-07: binary mode turns Booleans and Integers into their text, and loses nothing else."""
    event = Event(**given)
    back = again(event, mode)
    extensions = event.extensions
    if mode == "binary":
        texts = {
            name: str(value).lower() if not isinstance(value, str) else value for name, value in extensions.items()
        }
        event = event.evolve(**texts)
    if not (mode == "binary" and event.has_data and not event.raw):  # an empty body is absent data
        assert back == event
        assert back.has_data == event.has_data
        assert back.has_data is False or back.raw is not None
    assert back.attributes == event.attributes


@settings(max_examples=500)
@given(arguments(leap_seconds=False))
def test_every_event_written_is_valid_json_format(given: dict[str, Any]) -> None:
    """JF-24."""
    text = _json.encode(Event(**given))
    VALIDATOR.validate(json.loads(text.decode()))
    if given.get("data") is not None and not isinstance(given["data"], bytes):
        assert "data" in json.loads(text)


@pytest.mark.parametrize(
    "members",
    [{"id": ""}, {"n": 1.5}, {"Bad": "x"}, {"data": 1, "data_base64": ""}, {"time": "now"}, {"specversion": "2.0"}],
    ids=repr,
)
def test_the_schema_itself_refuses_what_is_wrong(members: dict[str, Any]) -> None:
    """JF-24: else the test above could not fail."""
    assert not VALIDATOR.is_valid({**MEMBERS, **members})


HEADER_NAMES = st.sampled_from(
    [b"ce-id", b"CE-Type", b"ce-source", b"ce-specversion", b"ce-time", b"ce-subject", b"ce-", b"ce-data", b"ce-x",
     b"ce-datacontenttype", b"content-type", b"Content-Encoding", b"ce-traceparent", b"\xff", b"ce-\xff", b"ce-A_b"]
) | st.binary(max_size=10)  # fmt: skip
MEDIA = [STRUCTURED, BATCH, "application/json", "text/plain; charset=none-such", "", ";", "application/cloudevents",
         "text/plain; charset=idna", "text/plain; charset=hex", 'a/b; charset="']  # fmt: skip
HEADER_VALUES = st.sampled_from([b"1.0", b"/s", b"%", b'"', b"%C0%A0", b"gzip", b"2018-04-05T17:31:00Z", b"\xff", b""])
BODIES = st.binary(max_size=50) | st.text(max_size=50).map(str.encode)
MEMBER_NAMES = st.sampled_from(
    ["id", "time", "data", "data_base64", "datacontenttype", "subject", "Bad", "x", "specversion"]
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(MEMBER_NAMES, ANY_JSON, max_size=6).map(
    lambda members: json.dumps({**MEMBERS, **members}).encode()
)


def explore(headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Read a message and all that is in it; only errors of the one root may come out."""
    try:
        _, events = _http.decode(headers, body, lambda coded, coding: _http.inflate(coded, coding, 10_000))
    except CloudEventsError:
        return
    for event in events:
        for look in (
            lambda event=event: event.data,
            lambda event=event: event.time,
            lambda event=event: event.as_type(int),
        ):
            try:
                look()
            except CloudEventsError:
                continue
        for mode in MODES:
            try:
                message = _http.encode(event, mode)
            except CloudEventsError:
                continue
            assert read(message.headers, message.body).key == event.key


@settings(max_examples=400)
@given(
    st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES | st.binary(max_size=20)), max_size=8),
    st.booleans(),
    BODIES | OBJECTS,
)
def test_whatever_headers_and_body_raise_only_our_errors(
    headers: list[tuple[bytes, bytes]], complete: bool, body: bytes
) -> None:
    """SD-05."""
    explore([*(pairs(HEADERS) if complete else []), *headers], body)


@settings(max_examples=400)
@given(st.sampled_from(MEDIA), BODIES | OBJECTS | OBJECTS.map(lambda one: b"[" + one + b"]"), st.booleans())
@example(STRUCTURED, b'{"specversion":"1.0","id":"1","source":"/s","type":"t","time":"0000-01-01T00:00:00Z"}', False)
def test_whatever_body_of_whatever_type_raises_only_our_errors(media: str, body: bytes, complete: bool) -> None:
    """SD-05."""
    explore([*(pairs(HEADERS) if complete else []), (b"content-type", media.encode())], body)


@given(
    st.dictionaries(
        st.text(max_size=8), st.none() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(), max_size=5
    )
)
def test_whatever_attributes_raise_only_our_errors(attributes: dict[str, Any]) -> None:
    """SD-05."""
    attributes = {"type": "t", "source": "/s", **attributes}
    try:
        event = Event(**attributes)
    except CloudEventsError:
        return
    assert again(event, "structured").attributes == event.attributes
