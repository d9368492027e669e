"""When events are equal, and that copies and pickles of an event are."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from cloudevents_kit import Event, _json
from tests.support.events import FULL, new, read


def test_equal_are_events_of_equal_attributes_and_data() -> None:
    assert Event(**FULL) == Event(**FULL)
    assert hash(Event(**FULL)) == hash(Event(**FULL))
    assert new(data={"a": 1, "b": 2}) == new(data=b'{ "b": 2, "a": 1 }', datacontenttype="application/json")
    assert read(data={"a": 1}) == read(data={"a": 1}, datacontenttype="application/json")  # the default of the format


@pytest.mark.parametrize(
    "other",
    [
        new(id="2"),
        new(source="/other"),
        new(time="2018-04-05T17:31:00Z"),
        new(n=1),
        new(data=None),
        new(data=b""),
        new(datacontenttype="application/json"),
        5,
        None,
    ],
)
def test_different_events_are_not_equal(other: object) -> None:
    assert new() != other


def test_values_of_different_types_are_not_equal() -> None:
    assert new(n=1) != new(n=True)
    assert new(n=1) != new(n="1")
    assert new(data=1) != new(data=True)
    assert new(data="null") != new(data=None)
    assert new(data=b"x") != new(data=b"y")


def test_data_that_cannot_be_read_is_equal_only_to_the_same_bytes() -> None:
    broken = new(data=b"{", datacontenttype="application/json")
    assert broken == new(data=b"{", datacontenttype="application/json")
    assert broken != new(data=b"{ ", datacontenttype="application/json")
    depth = 200_000
    raws = [b"[" * depth + space + b"]" * depth for space in (b"", b" ")]
    deep = [new(data=raw, datacontenttype="application/json") for raw in raws]
    assert deep[0] != deep[1]


def test_the_hash_is_that_of_the_key() -> None:
    assert hash(new(subject="a")) == hash(new(subject="b"))
    assert len({new(subject="a"), new(subject="b"), new(subject="a")}) == 2


def pickled(event: Any, protocol: int) -> Any:
    return pickle.loads(pickle.dumps(event, protocol))


COPIES: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    *[partial(pickled, protocol=protocol) for protocol in range(2, 6)],
]


@pytest.mark.parametrize("duplicate", COPIES, ids=[str(number) for number in range(len(COPIES))])
@pytest.mark.parametrize(
    "event",
    [
        Event(**FULL),
        new(),
        new(data=None),
        new(data=b"\x00\xff", datacontenttype="image/png"),
        new(data="é", datacontenttype="text/plain; charset=iso-8859-1"),
        read(data=[1], correlationid=5),
    ],
)
def test_an_event_survives_copying_and_pickling(event: Event, duplicate: Callable[[Any], Any]) -> None:
    again = duplicate(event)
    assert type(again) is Event
    assert again == event
    assert hash(again) == hash(event)
    assert (again.has_data, again.raw, again.data) == (event.has_data, event.raw, event.data)
    assert _json.encode(again) == _json.encode(event)


@pytest.mark.parametrize("duplicate", COPIES, ids=[str(number) for number in range(len(COPIES))])
def test_what_was_seen_of_the_data_survives_copying(duplicate: Callable[[Any], Any]) -> None:
    event = new(data={"a": [1]})
    assert duplicate(event)._peek() == {"a": [1]}
    assert event._peek() is event._peek()
    assert duplicate(event)._peek() == {"a": [1]}
    assert event.evolve(tier="gold")._peek() is event._peek()
    assert event.evolve(data=None)._peek() is None


def test_a_subclass_stays_one_when_it_is_copied_and_changed() -> None:
    class Order(Event):
        __slots__ = ()

        @property
        def number(self) -> str:
            return self.id

    order = Order(type="t", source="/s", id="7")
    assert copy.copy(order).number == "7"
    changed = order.evolve(subject="x")
    assert isinstance(changed, Order)
    assert changed.number == "7"
    assert type(order.reply(type="t", source="/s")) is Event


def test_the_repr_names_the_event_and_nothing_that_may_be_secret() -> None:
    event = Event(**{**FULL, "data": {"password": "hunter2"}, "token": "hunter2", "subject": "hunter2"})
    assert repr(event) == "Event(type='com.example.order.created', source='/orders', id='A-1')"
    assert str(event) == repr(event)
    assert "hunter2" not in f"{event} {event!r} {[event]}"
