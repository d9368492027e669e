"""The event as a value: built with defaults, read, compared, copied, changed into another one."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloudevents_kit import DataError, Event, EventError
from cloudevents_kit import _event as event_module
from tests.support.events import FULL, new, read

# ----------------------------------------------------------------------------------------------------- defaults


def test_type_and_source_are_enough() -> None:
    """K-E1: given only type and source, the id is a non-empty unique string, time is UTC now, specversion is 1.0."""
    before = datetime.now(UTC)
    events = [Event(type="t", source="/s") for _ in range(1000)]
    after = datetime.now(UTC)
    assert len({event.id for event in events}) == 1000
    for event in events:
        assert event.specversion == "1.0"
        assert event.time is not None
        assert event.time.utcoffset() == timedelta(0)
        assert before <= event.time <= after
        assert event.attributes.keys() == {"specversion", "id", "source", "type", "time"}


@pytest.mark.parametrize(
    ("given", "attribute"),
    [({"type": ""}, "type"), ({"source": ""}, "source"), ({"id": ""}, "id"), ({"Bad_Name": "x"}, "Bad_Name")],
)
def test_what_is_invalid_cannot_be_built(given: dict[str, str], attribute: str) -> None:
    """K-E1: the error names the attribute."""
    with pytest.raises(EventError) as caught:
        Event(**{"type": "t", "source": "/s", **given})
    assert caught.value.attribute == attribute
    with pytest.raises(EventError) as caught:
        new().evolve(**given)
    assert caught.value.attribute == attribute


def test_the_present_is_written_with_microseconds_of_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime(2026, 2, 28, 23, 59, 59, 999_999, UTC)
    nanoseconds = (int(moment.timestamp()) * 10**6 + 999_999) * 1000 + 999
    texts = []
    for now in (nanoseconds, nanoseconds + 1, nanoseconds + 1001, nanoseconds):
        monkeypatch.setattr(event_module, "time_ns", lambda now=now: now)
        texts.append(Event(type="t", source="/s").time_text)
    assert texts == [
        "2026-02-28T23:59:59.999999Z",
        "2026-03-01T00:00:00.000000Z",
        "2026-03-01T00:00:00.000001Z",
        "2026-02-28T23:59:59.999999Z",
    ]


def test_none_leaves_an_attribute_out() -> None:
    event = Event(type="t", source="/s", id=None, time=None, subject=None, dataschema=None, ext=None)
    assert event.id
    assert event.attributes.keys() == {"specversion", "id", "source", "type"}
    assert (event.time, event.time_text, event.subject, event.dataschema, event.datacontenttype) == (None,) * 5


def test_an_extension_may_have_the_name_of_a_parameter_or_method() -> None:
    event = new(self="a", changes="b", key="c", get="d", raw="e")
    assert [event[name] for name in ("self", "changes", "key", "get", "raw")] == ["a", "b", "c", "d", "e"]
    assert event.evolve(self="z")["self"] == "z"
    assert event.reply(type="t", source="/s", self="y")["self"] == "y"


def test_the_signature_shows_what_may_be_left_out() -> None:
    parameters = inspect.signature(Event).parameters
    assert [repr(parameters[name].default) for name in ("data", "time", "id")] == ["...", "...", "None"]


# ------------------------------------------------------------------------------------------------------ reading


def test_every_attribute_is_read_by_its_name() -> None:
    event = Event(**FULL)
    assert (event.type, event.source, event.id) == ("com.example.order.created", "/orders", "A-1")
    assert (event.subject, event.dataschema) == ("order/1", "https://example.com/order.json")
    assert (event.specversion, event.datacontenttype) == ("1.0", "application/json")
    assert event.time_text == "2018-04-05T17:31:00.1234567Z"
    assert event.time == datetime(2018, 4, 5, 17, 31, 0, 123_456, UTC)
    assert event.key == ("/orders", "A-1")


def test_extensions_and_attributes_are_read_by_key() -> None:
    event = Event(**FULL)
    assert event["partitionkey"] == "k"
    assert event["type"] == event.type
    assert (event.get("number"), event.get("none"), event.get("none", 7)) == (5, None, 7)
    assert "flag" in event
    assert "none" not in event
    assert "data" not in event
    assert list(event) == list(event.attributes)
    extensions: dict[str, Any] = {"partitionkey": "k", "number": 5, "flag": True}
    assert event.extensions == extensions
    with pytest.raises(KeyError):
        event["none"]


def test_numbers_and_booleans_are_read_whether_they_came_as_text_or_not() -> None:
    event = new(number=5, flag=True, text="-5", no="false")
    assert (event.get_int("number"), event.get_int("text")) == (5, -5)
    assert (event.get_bool("flag"), event.get_bool("no")) == (True, False)
    for call, name in ((event.get_int, "no"), (event.get_int, "flag"), (event.get_bool, "number")):
        with pytest.raises(EventError, match=f"^{name}: is no ") as caught:
            call(name)
        assert caught.value.key == event.key
    with pytest.raises(KeyError):
        event.get_bool("none")


def test_data_that_is_absent_null_or_empty_is_told_apart() -> None:
    absent, null, empty = new(), new(data=None), new(data=b"")
    assert [event.has_data for event in (absent, null, empty)] == [False, True, True]
    assert [event.raw for event in (absent, null, empty)] == [None, b"null", b""]
    assert [event.data for event in (absent, null, empty)] == [None, None, b""]
    assert absent.datacontenttype is None
    assert null.datacontenttype == "application/json"
    assert len({absent, null, empty}) == 3


def test_what_cannot_be_read_blames_the_event() -> None:
    broken = new(data=b"{", datacontenttype="application/json")
    for look in (lambda: broken.data, lambda: broken.as_type(dict), broken.get_data):
        with pytest.raises(DataError, match=r"^data: is not valid JSON$") as caught:
            look()
        assert caught.value.key == broken.key
    with pytest.raises(EventError, match=r"^time: lies outside") as outside:
        _ = read(time="0000-01-01T00:00:00Z").time
    assert outside.value.key == ("/s", "1")


# ------------------------------------------------------------------------------------------------- immutability


@pytest.mark.parametrize("name", ["type", "id", "data", "raw", "key", "attributes", "extensions", "time", "colour"])
def test_nothing_can_be_set_or_deleted(name: str) -> None:
    event = Event(**FULL)
    with pytest.raises(AttributeError):
        setattr(event, name, "x")
    with pytest.raises(AttributeError):
        delattr(event, name)
    assert event == Event(**FULL)


def test_the_views_of_the_attributes_are_read_only() -> None:
    event: Any = Event(**FULL)
    views: list[Any] = [event.attributes, event.extensions]
    for view in views:
        with pytest.raises(TypeError):
            view["partitionkey"] = "x"
    with pytest.raises(TypeError):
        event["partitionkey"] = "x"
    with pytest.raises(TypeError):
        del event["partitionkey"]


@pytest.mark.parametrize("kind", [bytearray, lambda raw: memoryview(bytearray(raw))])
def test_bytes_that_may_change_are_copied(kind: Callable[[bytes], Any]) -> None:
    given = kind(b"abc")
    event = new(data=given, datacontenttype="image/png", key=given)
    given[:] = b"xyz"
    assert (event.raw, event.data, event["key"]) == (b"abc", b"abc", "YWJj")


def test_data_given_and_data_handed_out_are_copies_down_to_the_last_level() -> None:
    given = {"items": [{"sku": "x"}]}
    event = new(data=given)
    given["items"][0]["sku"] = "changed"
    event.data["items"].clear()
    handed_out: Any = event.get_data()
    handed_out["items"][0]["sku"] = "changed"
    event.as_type(dict)["items"].append(1)
    event.get_attributes()["type"] = "changed"
    assert event.data == {"items": [{"sku": "x"}]}
    assert event.type == "t"


def test_two_branches_change_their_copies_and_nothing_else() -> None:
    """K-E1: the other branch and the original are unchanged, nested levels included."""
    original = Event(**FULL)
    data = original.data
    data["items"][0]["sku"] = "left"
    left = original.evolve(data=data, partitionkey="left", added=1)
    data["items"][0]["sku"] = "right"
    right = original.evolve(data=data, partitionkey=None)
    assert original == Event(**FULL)
    assert (left.data, left["partitionkey"], left["added"]) == ({"items": [{"sku": "left"}]}, "left", 1)
    assert right.data == {"items": [{"sku": "right"}]}
    assert "partitionkey" not in right
    assert "added" not in original


# ------------------------------------------------------------------------------------------------- evolve, reply


def test_a_changed_event_keeps_its_identity_its_time_and_the_bytes_of_its_data() -> None:
    event = new(data=b'{ "a": 1 }', datacontenttype="application/json", time="2018-04-05T17:31:00.10Z", n=1)
    changed = event.evolve(subject="s", n=None)
    assert changed.key == event.key
    assert changed.time_text == event.time_text
    assert changed.raw == b'{ "a": 1 }'
    assert changed.subject == "s"
    assert "n" not in changed
    assert event.evolve() == event
    assert event.evolve() is not event


def test_changing_the_content_type_reads_the_same_bytes_another_way() -> None:
    event = new(data={"a": 1})
    text = event.evolve(datacontenttype="text/plain")
    assert (text.raw, text.data) == (event.raw, '{"a":1}')
    octets = event.evolve(datacontenttype=None)
    assert (octets.raw, octets.data) == (event.raw, b'{"a":1}')
    assert text.evolve(datacontenttype="application/json") == event


def test_new_data_is_written_by_the_content_type_the_event_has_or_gets() -> None:
    event = new(data="a", datacontenttype="text/plain; charset=utf-16")
    assert event.evolve(data="b").data == "b"
    assert event.evolve(data={"a": 1}, datacontenttype="application/json").data == {"a": 1}
    assert new().evolve(data=[1]).datacontenttype == "application/json"
    assert event.evolve(data=None, datacontenttype=None).raw == b"null"


def test_an_event_without_data_stays_without() -> None:
    assert not new().evolve(datacontenttype="text/plain").has_data


@pytest.mark.parametrize("name", ["id", "source", "type", "specversion"])
def test_a_required_attribute_cannot_be_removed(name: str) -> None:
    with pytest.raises(EventError, match=f"^{name}: is required"):
        new().evolve(**{name: None})


def test_a_reply_names_its_cause() -> None:
    asked = Event(type="asked", source="/a", id="1")
    answer = asked.reply(type="answered", source="/b", data={"ok": True}, subject="s")
    assert (answer["correlationid"], answer["causationid"]) == ("1", "1")
    assert (answer.type, answer.source, answer.subject, answer.data) == ("answered", "/b", "s", {"ok": True})
    assert answer.id != asked.id
    further = answer.reply(type="t", source="/c")
    assert (further["correlationid"], further["causationid"]) == ("1", answer.id)
    assert not further.has_data
    own = asked.reply(type="t", source="/b", correlationid="mine", causationid=None)
    assert own["correlationid"] == "mine"
    assert "causationid" not in own


@pytest.mark.parametrize("correlation", [5, True, ""])
def test_a_correlation_that_breaks_its_rule_does_not_keep_anybody_from_replying(correlation: object) -> None:
    """It came from a peer; a reply that raised would make the peer send the event for ever."""
    asked = read(correlationid=correlation)
    assert asked["correlationid"] == correlation
    assert asked.reply(type="t", source="/b")["correlationid"] == "1"


# ------------------------------------------------------------------------------------- the official SDK's protocol


def test_the_methods_of_the_official_protocol_say_the_same() -> None:
    event = Event(**FULL)
    assert (event.get_id(), event.get_source(), event.get_type()) == ("A-1", "/orders", "com.example.order.created")
    assert (event.get_specversion(), event.get_subject()) == ("1.0", "order/1")
    assert event.get_datacontenttype() == "application/json"
    assert event.get_dataschema() == "https://example.com/order.json"
    assert event.get_time() == event.time
    assert (event.get_extension("number"), event.get_extension("none"), event.get_extension("id")) == (5, None, None)
    assert event.get_attributes() == {**event.attributes, "time": event.time}
    assert "time" not in new().get_attributes()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, None),
        ({"data": {"a": 1}}, {"a": 1}),
        ({"data": [1, 2]}, b"[1,2]"),
        ({"data": "text"}, b'"text"'),
        ({"data": None}, b"null"),
        ({"data": "text", "datacontenttype": "text/plain"}, "text"),
        ({"data": b"\xff"}, b"\xff"),
        ({"data": b'{"a":1}', "datacontenttype": "application/json"}, {"a": 1}),
    ],
)
def test_data_is_handed_to_the_official_sdk_as_it_writes_it_faithfully(given: dict[str, Any], found: object) -> None:
    assert new(**given).get_data() == found


class Foreign:
    """The shape of an event of the official SDK 2.x."""

    def __init__(self, data: object = None, **attributes: Any) -> None:
        self.attributes = {"type": "t", "source": "/s", "id": "1", "specversion": "1.0", **attributes}
        self.data = data

    def get_attributes(self) -> dict[str, Any]:
        return self.attributes

    def get_data(self) -> object:
        return self.data


class Older:
    """The shape of an event of the official SDK 1.x."""

    def __init__(self, inner: Foreign) -> None:
        self._get_attributes = inner.get_attributes
        self._get_data = inner.get_data


@pytest.mark.parametrize("form", [lambda event: event, Older])
def test_an_event_of_another_class_is_taken_by_its_shape(form: Callable[[Foreign], object]) -> None:
    moment = datetime(2018, 4, 5, 17, 31, tzinfo=UTC)
    foreign = Foreign({"a": [1]}, time=moment, n=5, subject=None)
    event = Event.of(form(foreign))
    foreign.attributes["type"] = "changed"
    assert event == new(data={"a": [1]}, time=moment, n=5)
    assert not Event.of(form(Foreign())).has_data
    with pytest.raises(EventError, match=r"^id: is required"):
        Event.of(form(Foreign(id=None)))


def test_an_event_is_taken_as_itself() -> None:
    event = new()
    assert Event.of(event) is event


def test_what_another_sdk_lets_pass_in_documented_extensions_passes_here() -> None:
    assert Event.of(Foreign(sequence=5))["sequence"] == 5


def test_an_extension_is_no_attribute_of_the_object_and_the_error_says_how_to_read_it() -> None:
    event: Any = Event(type="t", source="/s", partitionkey="k")
    with pytest.raises(AttributeError) as raised:
        event.partitionkey  # noqa: B018
    assert str(raised.value) == (
        "an Event has no 'partitionkey' (an extension is read by its key: event['partitionkey'])"
    )
    assert not hasattr(event, "partitionkey")
    assert getattr(event, "colour", "none") == "none"
    assert [copy.copy(event), copy.deepcopy(event), pickle.loads(pickle.dumps(event))] == [event] * 3


@pytest.mark.parametrize("thing", [5, None, "event", {"type": "t"}, object()])
def test_anything_else_is_no_event(thing: object) -> None:
    with pytest.raises(
        TypeError, match=f"an Event or an event of the official SDK is needed, not {type(thing).__name__} "
    ):
        Event.of(thing)
