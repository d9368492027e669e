"""The official SDK and the kit: its events are taken as they are, 2.x and 1.x; its functions take ours as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings import amqp, http, kafka, rabbitmq
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v03.event import CloudEvent as CloudEvent03
from cloudevents.core.v1.event import CloudEvent
from cloudevents.v1 import conversion as v1_conversion
from cloudevents.v1 import http as v1_http
from cloudevents.v1.pydantic import CloudEvent as V1Model
from hypothesis import given
from hypothesis import strategies as st

from cloudevents_kit import Event, EventError, Sender, Undelivered, from_http, to_json
from cloudevents_kit._errors import UnsupportedVersion
from tests.support.peer import Peer, Request, answer
from tests.support.strategies import extension_names, sources, texts

WHEN = datetime(2026, 1, 1, 12, 0, 0, 5000, tzinfo=UTC)
NAMED = {"id": "o-1", "source": "/orders", "type": "com.example.order.created"}


class Bare1x:
    """An event with the shape of the first releases of 1.x, whose methods all had an underscore."""

    def __init__(self, attributes: dict[str, Any], data: Any = None) -> None:
        self._attributes = {"specversion": "1.0", "time": WHEN.isoformat(), **attributes}
        self._data = data

    def _get_attributes(self) -> dict[str, Any]:
        return self._attributes

    def _get_data(self) -> Any:
        return self._data


BUILDERS: dict[str, Callable[..., Any]] = {
    "2.x": lambda attributes, data=None: CloudEvent({"time": WHEN, **attributes}, data),
    "1.x": lambda attributes, data=None: v1_http.CloudEvent({"time": WHEN.isoformat(), **attributes}, data),
    "1.x pydantic": lambda attributes, data=None: V1Model({"time": WHEN, **attributes}, data),
    "1.x, first releases": Bare1x,
}
builders = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)

DATA: list[tuple[Any, dict[str, str], bytes | None, str | None]] = [
    # data, attributes, payload on the wire, its Content-Type
    (None, {}, None, None),
    ({"a": [1, None]}, {}, b'{"a":[1,null]}', "application/json"),
    ({"a": 1}, {"datacontenttype": "application/vnd.a+json"}, b'{"a":1}', "application/vnd.a+json"),
    ("text é", {"datacontenttype": "text/plain"}, "text é".encode(), "text/plain"),
    ("<a/>", {"datacontenttype": "application/xml"}, b"<a/>", "application/xml"),
    ("say", {"datacontenttype": "application/json"}, b'"say"', "application/json"),
    (b"\x00\xff", {"datacontenttype": "image/png"}, b"\x00\xff", "image/png"),
    (b'{"a": 1}', {"datacontenttype": "application/json"}, b'{"a": 1}', "application/json"),
    (b"\x00\xff", {}, b"\x00\xff", None),
]


# --------------------------------------------------------------------------------------------------- theirs, here


def headers_of(request: Request) -> dict[str, str]:
    return {name.lower(): value for name, value in request.headers if name.lower().startswith(("ce-", "content-type"))}


@builders
@pytest.mark.parametrize(("data", "attributes", "payload", "media"), DATA, ids=lambda value: repr(value)[:20])
async def test_their_event_is_on_the_wire_what_it_says(
    build: Callable[..., Any], data: Any, attributes: dict[str, str], payload: bytes | None, media: str | None
) -> None:
    """In both modes, without anything added or lost."""
    theirs = build({**NAMED, **attributes, "partitionkey": "k", "subject": "Zoë"}, data)
    async with Peer(answer(204)) as peer, Sender(peer.url) as sender:
        assert await sender.send(theirs)
        assert await sender.send(theirs, mode="structured")
    binary, structured = peer.requests
    wanted = {**NAMED, "specversion": "1.0", "partitionkey": "k", "subject": "Zo%C3%AB"}
    found = headers_of(binary)
    assert datetime.fromisoformat(found.pop("ce-time")) == WHEN
    assert found.pop("content-type", None) == media
    assert found == {f"ce-{name}": value for name, value in wanted.items()}
    assert binary.body == (payload or b"")
    members = json.loads(structured.body)
    [event] = from_http(structured.headers, structured.body)
    assert (event.raw, event.datacontenttype) == (payload, media)
    assert members.keys() - {"data", "data_base64"} == wanted.keys() | {"time"} | (
        {"datacontenttype"} if media else set()
    )


@builders
async def test_extensions_keep_their_types(build: Callable[..., Any]) -> None:
    event = Event.of(build({**NAMED, "n": 5, "flag": True, "text": "5"}))
    assert dict(event.extensions) == {"n": 5, "flag": True, "text": "5"}
    assert json.loads(to_json(event)).items() >= {"n": 5, "flag": True, "text": "5"}.items()


@builders
def test_their_event_is_copied(build: Callable[..., Any]) -> None:
    data = {"items": [1]}
    theirs = build(dict(NAMED), data)
    event = Event.of(theirs)
    data["items"].append(2)
    assert event.data == {"items": [1]}
    assert Event.of(theirs).data == {"items": [1, 2]}
    assert event.key == ("/orders", "o-1")


@builders
@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"source": ""}, "source"),
        ({"time": "yesterday"}, "time"),
        ({"time": datetime(2026, 1, 1)}, "time"),  # noqa: DTZ001
        ({"dataschema": "relative"}, "dataschema"),
        ({"rate": 0.5}, "rate"),
        ({"many": ["a"]}, "many"),
        ({"Bad_Name": "x"}, "Bad_Name"),
        ({"specversion": "2.0"}, "specversion"),
        ({"id": None}, "id"),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_what_their_event_has_wrong_is_named_and_nothing_is_sent(
    build: Callable[..., Any], attributes: dict[str, Any], named: str
) -> None:
    """K-E1: also what their own checks let pass."""
    theirs = build(dict(NAMED))
    if isinstance(theirs, V1Model):
        theirs = Bare1x(theirs._get_attributes())  # its own fields are checked on assignment
    theirs._attributes.update(attributes)
    with pytest.raises(EventError) as caught:
        Event.of(theirs)
    assert caught.value.attribute == named
    async with Peer(answer(204)) as peer, Sender(peer.url) as sender:
        result = await sender.send(theirs)
    assert isinstance(result, Undelivered)
    assert (result.reason, result.possibly_delivered, peer.connections) == ("invalid-event", False, 0)
    assert result.error == str(caught.value)


@pytest.mark.parametrize("name", ["id", "specversion", "time", "type"])
def test_what_their_event_lacks_is_not_invented(name: str) -> None:
    theirs = Bare1x(dict(NAMED))
    del theirs._attributes[name]
    if name == "time":
        assert Event.of(theirs).time is None
        return
    with pytest.raises(EventError) as caught:
        Event.of(theirs)
    assert caught.value.attribute == name


@pytest.mark.parametrize("name", [5, None, b"id", ("a",)], ids=repr)
def test_a_name_of_theirs_that_is_no_str_is_refused(name: Any) -> None:
    with pytest.raises(EventError) as caught:
        Event.of(Bare1x({**NAMED, name: "x"}))
    kind = type(name).__name__
    assert str(caught.value) == f"attribute: names of attributes must be str, not {kind} (for example partitionkey)"


def test_an_event_of_version_0_3_is_refused_by_name() -> None:
    for theirs in (CloudEvent03(dict(NAMED)), v1_http.CloudEvent({**NAMED, "specversion": "0.3"})):
        with pytest.raises(UnsupportedVersion, match="specversion"):
            Event.of(theirs)


@pytest.mark.parametrize(
    "thing", [None, 5, "event", b"", {"id": "1"}, object(), type("Half", (), {"get_data": lambda _: None})()], ids=repr
)
def test_what_is_no_event_is_a_type_error(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"^an Event or an event of the official SDK is needed, not "):
        Event.of(thing)


def test_our_own_event_is_itself() -> None:
    event = Event(type="t", source="/s")
    assert Event.of(event) is event


@builders
@given(texts(min_size=1), sources(), texts(min_size=1), st.dictionaries(extension_names(), texts(), max_size=3))
def test_every_attribute_of_theirs_arrives(
    build: Callable[..., Any], id: str, source: str, type: str, more: dict[str, str]
) -> None:
    theirs = build({**more, "id": id, "source": source, "type": type})
    event = Event.of(theirs)
    assert dict(event.extensions) == more
    assert (event.id, event.source, event.type, event.time) == (id, source, type, WHEN)
    [back] = from_http({"content-type": "application/cloudevents+json"}, to_json(event))
    assert back == event


# --------------------------------------------------------------------------------------------------- ours, there

PAYLOADS: list[dict[str, Any]] = [
    {},
    {"data": {"a": 1, "é": [None, 0.5]}},
    {"data": {}},
    {"data": {"a": 1}, "datacontenttype": "application/vnd.a+json; charset=utf-8"},
    {"data": [1, {"a": 2}]},
    {"data": "a text"},
    {"data": "5"},
    {"data": 5},
    {"data": False},
    {"data": "text é", "datacontenttype": "text/plain"},
    {"data": "text é", "datacontenttype": "text/plain; charset=iso-8859-1"},
    {"data": "<a/>", "datacontenttype": "application/xml"},
    {"data": b"\x00\xff", "datacontenttype": "image/png"},
    {"data": b'{"a": 1}', "datacontenttype": "application/json"},
    {"data": b"\x00\xff"},
]
payloads = pytest.mark.parametrize("payload", PAYLOADS, ids=lambda value: repr(value)[:50])
MODULES: dict[str, Any] = {"http": http, "kafka": kafka, "amqp": amqp, "rabbitmq": rabbitmq}


def ours(payload: dict[str, Any], **more: Any) -> Event:
    attributes = {"subject": "Zoë %20", "partitionkey": "k", "dataschema": "https://example.com/s", "time": WHEN}
    return Event(**{**NAMED, **attributes, **payload, **more})


@payloads
@pytest.mark.parametrize("binding", MODULES)
@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_our_event_goes_through_every_binding_of_theirs_and_back(
    payload: dict[str, Any], binding: str, mode: str
) -> None:
    module, event = MODULES[binding], ours(payload)
    message = getattr(module, f"to_{mode}_event")(event)
    back = getattr(module, f"from_{binding}_event")(message)
    assert isinstance(back, CloudEvent)
    assert Event.of(back) == event
    assert Event.of(back).raw == event.raw or event.datacontenttype == "application/json"


@payloads
def test_their_http_binding_writes_what_we_read(payload: dict[str, Any]) -> None:
    """Its messages are the same events for `from_http`, the bytes of the payload included."""
    event = ours(payload)
    for message in (http.to_binary(event, JSONFormat()), http.to_structured(event, JSONFormat())):
        assert type(message.body) is bytes
        [back] = from_http(message.headers, message.body)
        assert back == event
        assert back.raw == event.raw or isinstance(event.data, dict)


def test_the_key_of_their_kafka_message_is_our_partition_key() -> None:
    event = ours({"data": {"a": 1}})
    for message in (kafka.to_binary_event(event), kafka.to_structured_event(event)):
        assert message.key == "k"
    assert kafka.to_binary_event(event, key_mapper=lambda one: one.get_id()).key == "o-1"
    assert kafka.to_binary_event(Event(**NAMED)).key is None
    assert kafka.to_binary_event(event).headers["ce_subject"] == "Zoë %20".encode()


def test_integers_and_booleans_keep_their_types_in_their_structured_mode() -> None:
    """And in AMQP, which has types; headers of theirs would say "True", against the specification."""
    event = ours({}, n=5, flag=True)
    assert Event.of(http.from_http_event(http.to_structured_event(event))) == event
    assert Event.of(amqp.from_amqp_event(amqp.to_binary_event(event))) == event
    [back] = from_http(*vars(http.to_binary_event(ours({}, n=5))).values())
    assert back.get_int("n") == 5


def test_null_data_is_data_wherever_they_can_say_so() -> None:
    event = ours({"data": None})
    assert Event.of(http.from_http_event(http.to_structured_event(event))) == event
    message = http.to_binary_event(event)
    assert message.body == b"null"
    assert from_http(message.headers, message.body) == [event]


def test_our_event_is_made_by_their_functions_as_a_factory() -> None:
    def build(attributes: dict[str, Any], data: Any) -> Event:
        return Event(**attributes, data=data)

    event = ours({"data": {"a": 1}})
    message = http.to_binary_event(event)
    back: BaseCloudEvent = http.from_http(message, JSONFormat(), build)
    assert type(back) is Event
    assert back == event


def test_the_methods_of_their_protocol_tell_what_the_properties_tell() -> None:
    """The assignment is for the type checker."""
    event = ours({"data": {"a": 1}}, n=5)
    theirs: BaseCloudEvent = event
    assert (theirs.get_id(), theirs.get_source(), theirs.get_type()) == (event.id, event.source, event.type)
    assert (theirs.get_specversion(), theirs.get_subject()) == ("1.0", "Zoë %20")
    assert (theirs.get_datacontenttype(), theirs.get_dataschema()) == ("application/json", "https://example.com/s")
    assert (theirs.get_time(), theirs.get_extension("n"), theirs.get_extension("none")) == (WHEN, 5, None)
    assert theirs.get_extension("id") is None  # which is no extension
    assert theirs.get_attributes() == {**event.attributes, "time": WHEN}
    assert theirs.get_data() == {"a": 1}
    theirs.get_attributes()["id"] = "changed"
    assert event.id == "o-1"
    bare: BaseCloudEvent = Event(**NAMED, time=None)
    assert (bare.get_time(), bare.get_data(), bare.get_subject()) == (None, None, None)
    assert "time" not in bare.get_attributes()


def test_a_time_with_another_offset_is_the_same_moment() -> None:
    zoned = WHEN.astimezone(timezone(timedelta(hours=5, minutes=30)))
    event = ours({}, time=zoned)
    assert event.get_time() == WHEN
    for mode in ("binary", "structured"):
        message = getattr(http, f"to_{mode}_event")(event)
        [back] = from_http(message.headers, message.body)
        assert back.time_text == "2026-01-01T17:30:00.005000+05:30"


# ------------------------------------------------------------------------------------------- functions of 1.x


def test_the_names_of_the_attributes_can_be_gone_through() -> None:
    """Functions of 1.x do."""
    event = Event(**NAMED, n=5, time=None)
    names: Iterator[str] = iter(event)
    assert {name: event[name] for name in names} == dict(event.attributes)


@pytest.mark.parametrize(
    "payload", [{}, {"data": {"a": [1]}}, {"data": [1]}, {"data": "text"}, {"data": b"\x00", "datacontenttype": "a/b"}]
)
@pytest.mark.parametrize("write", [v1_conversion.to_binary, v1_conversion.to_structured])
def test_functions_of_1_x_take_our_event(payload: dict[str, Any], write: Callable[..., Any]) -> None:
    event = Event(**NAMED, **payload, partitionkey="k", time=WHEN)
    headers, body = write(event)
    [back] = from_http(headers, body or b"")
    assert back == event
    theirs = v1_http.from_http(headers, body or b"")
    assert Event.of(theirs).key == event.key
