"""Laws that hold for every event, in every mode, and for every input that a peer may send."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudevents_kit import DataError, Event, EventError
from cloudevents_kit._http import Message, decode, encode, encode_batch
from cloudevents_kit._json import BATCH_CONTENT_TYPE
from cloudevents_kit._json import decode as decode_json
from cloudevents_kit._json import decode_batch as decode_json_batch
from cloudevents_kit._json import encode as encode_json
from tests.support.strategies import events, json_values, texts

STRING = re.compile("[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*")
HEADER = re.compile("[!-~ ]*")
VISIBLE = re.compile("[!-~]*")


def received(message: Message) -> list[Event]:
    pairs = [(name.encode("ascii"), value.encode("ascii")) for name, value in message.headers.items()]
    return decode(pairs, message.body)[1]


def as_headers_carry(event: Event) -> Event:
    """The same event with every attribute as canonical text, because headers know no types."""
    return event.evolve(
        **{name: str(value).lower() for name, value in event.extensions.items() if type(value) is not str}
    )


def seen(event: Event) -> tuple[Any, ...]:
    """All that a user can see of an event's payload."""
    try:
        return (event.has_data, event.raw, event.data)
    except DataError as error:
        return (event.has_data, event.raw, str(error))


@given(events())
def test_an_event_survives_structured_mode(event: Event) -> None:
    message = encode(event, "structured")
    [back] = received(message)
    assert back == event
    assert dict(back.attributes) == dict(event.attributes)
    assert [type(value) for value in back.attributes.values()] == [type(value) for value in event.attributes.values()]
    assert back.has_data == event.has_data
    assert back.raw == event.raw


@given(events())
def test_an_event_survives_binary_mode_but_for_the_types_of_extensions_and_an_empty_payload(event: Event) -> None:
    message = encode(event, "binary")
    assert all(HEADER.fullmatch(value) for value in message.headers.values())
    assert all(VISIBLE.fullmatch(value) for name, value in message.headers.items() if name != "Content-Type")
    [back] = received(message)
    assert dict(back.attributes) == dict(as_headers_carry(event).attributes)
    assert back.raw == (event.raw or None)  # a body of no bytes cannot be told from none
    if event.raw != b"":
        assert back == as_headers_carry(event)
        assert back.has_data == event.has_data


@given(st.lists(events(), max_size=5))
def test_a_batch_survives_in_order(batch: list[Event]) -> None:
    message = encode_batch(batch)
    assert message.headers == {"Content-Type": BATCH_CONTENT_TYPE}
    back = received(message)
    assert back == batch
    assert [seen(event) for event in back] == [seen(event) for event in batch]


@given(events())
def test_what_is_seen_of_the_data_is_the_same_before_and_after_the_wire(event: Event) -> None:
    [structured] = received(encode(event, "structured"))
    assert seen(structured) == seen(event)
    if event.raw:
        [binary] = received(encode(event, "binary"))
        assert seen(binary) == seen(event)


@given(events(), st.lists(st.sampled_from(["binary", "structured", "batch"]), max_size=4))
def test_an_event_passed_on_from_mode_to_mode_changes_no_more_after_the_first_hop(
    event: Event, hops: list[Any]
) -> None:
    def hop(found: Event, mode: Any) -> Event:
        [back] = received(encode_batch([found]) if mode == "batch" else encode(found, mode))
        return back

    first = hop(event, "binary")
    later = first
    for mode in hops:
        later = hop(later, mode)
    assert later == first
    assert later.raw == first.raw
    assert later.attributes.items() >= first.attributes.items()


@given(events())
def test_encoding_again_what_was_decoded_gives_the_same_bytes(event: Event) -> None:
    body = encode_json(event)
    assert encode_json(decode_json(body)) == body
    binary = encode(event, "binary")
    [back] = received(binary)
    assert encode(back, "binary") == binary


@given(json_values())
def test_json_data_comes_back_with_its_types(value: Any) -> None:
    event = Event(type="t", source="/s", data=value)
    assert repr(decode_json(encode_json(event)).data) == repr(value)


@given(
    st.binary(max_size=30),
    st.sampled_from(["text/plain; charset=utf-16", "text/plain; charset=utf-7", "a/json", "a/b"]),
)
def test_a_received_body_keeps_its_bytes_through_structured_mode(body: bytes, content_type: str) -> None:
    pairs = [(f"ce-{name}".encode(), b"1.0") for name in ("id", "source", "type", "specversion")]
    [event] = decode([*pairs, (b"content-type", content_type.encode())], body)[1]
    [back] = received(encode(event, "structured"))
    assert back == event
    if content_type != "a/json":  # of JSON only the white space around it is lost
        assert back.raw == event.raw


HOSTILE_NAMES = st.one_of(
    st.sampled_from(
        [
            b"ce-id", b"CE-ID", b"ce-source", b"ce-type", b"ce-specversion", b"ce-time", b"ce-subject",
            b"ce-dataschema", b"ce-data", b"ce-datacontenttype", b"content-type", b"Content-Encoding", b"ce-",
            b"ce-Ext", b"ce-a_b", b"x", b"ce-content-encoding", b"ce-ce-datacontenttype",
        ]
    ),
    st.binary(max_size=8).map(b"ce-".__add__),
    st.binary(max_size=8),
)  # fmt: skip
HOSTILE_VALUES = st.one_of(
    st.sampled_from(
        [b"1.0", b"/s", b"1", b"", b"2018-04-05T17:31:00Z", b"application/cloudevents+json", b"gzip", b"%", b'"']
    ),
    st.sampled_from(
        [b"application/cloudevents-batch+json", b"application/json", b"text/plain; charset=zlib", b"%C0%A0"]
    ),
    st.binary(max_size=12),
    texts().map(str.encode),
)
PLAIN = [(b"ce-id", b"1"), (b"ce-source", b"/s"), (b"ce-type", b"t"), (b"ce-specversion", b"1.0")]


def only_our_errors(call: Any, *args: Any) -> list[Event]:
    refused: EventError | None = None
    try:
        found = call(*args)
    except EventError as error:
        found, refused = [], error
    assert str(refused).isprintable()  # one line that can be logged and answered
    return found if isinstance(found, list) else [found]


def is_sound(event: Event) -> None:
    """Nothing forbidden got in, and the event can be read and passed on."""
    for name, value in event.attributes.items():
        assert re.fullmatch("[a-z0-9]+", name)
        assert name != "data"
        assert value is not None
        assert STRING.fullmatch(str(value))
    assert event.specversion == "1.0"
    assert event.id
    assert event.source
    assert event.type
    seen(event)
    only_our_errors(lambda: event.time)
    assert received(encode(event, "structured")) == [event]


@settings(max_examples=400)
@given(st.lists(st.tuples(HOSTILE_NAMES, HOSTILE_VALUES), max_size=6), st.booleans(), st.binary(max_size=20))
def test_any_header_pairs_and_body_give_a_sound_event_or_our_error(
    pairs: list[tuple[bytes, bytes]], plain: bool, body: bytes
) -> None:
    for event in only_our_errors(lambda: decode([*(PLAIN if plain else []), *pairs], body)[1]):
        is_sound(event)


@settings(max_examples=400)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_any_bytes_give_sound_events_or_our_error(body: bytes) -> None:
    for event in only_our_errors(decode_json, body) + only_our_errors(decode_json_batch, body):
        is_sound(event)


@settings(max_examples=300)
@given(events(), st.data())
def test_a_damaged_envelope_gives_a_sound_event_or_our_error(event: Event, data: st.DataObject) -> None:
    body = encode_json(event)
    start = data.draw(st.integers(0, len(body)))
    cut = data.draw(st.integers(0, 3))
    damaged = body[:start] + data.draw(st.binary(max_size=3)) + body[start + cut :]
    for found in only_our_errors(decode_json, damaged) + only_our_errors(decode_json_batch, b"[%b]" % damaged):
        is_sound(found)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b'[{"data":' + b"[" * 100_000, b"1" * 5_000])
def test_deep_and_long_bodies_give_our_error(body: bytes) -> None:
    assert only_our_errors(decode_json, body) == []
    assert only_our_errors(decode_json_batch, body) == []
