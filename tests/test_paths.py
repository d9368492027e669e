"""Paths into events."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudevents_kit import DataError, EventError
from cloudevents_kit._paths import MISSING, field, read_path
from tests.support.events import new

ORDER = new(subject="o/1", tier="gold", data={"a": {"b": [10, {"c": None}]}, "x.y": 1, 'q"': 2, "": 3, "0": 4})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("type", "t"),
        ("subject", "o/1"),
        ("tier", "gold"),
        ("dataschema", MISSING),
        ("data.a.b[0]", 10),
        ("data.a.b[1].c", None),
        ("data.a.b[2]", MISSING),
        ("data.a.b.c", MISSING),
        ("data.a[0]", MISSING),
        ("data.a.b[0].c", MISSING),
        ('data["x.y"]', 1),
        ('data["q\\""]', 2),
        ('data[""]', 3),
        ("data.0", 4),
        ("data[0]", MISSING),
        ("data.none", MISSING),
        ("data.a", {"b": [10, {"c": None}]}),
    ],
)
def test_a_path_leads_to_a_value_or_nowhere(path: str, value: object) -> None:
    assert read_path(path)(ORDER) == value


def test_an_event_without_data_has_nothing_there() -> None:
    assert read_path("data")(new()) is MISSING
    assert read_path("data.a")(new()) is MISSING
    assert read_path("data")(new(data=None)) is None
    assert read_path("data.a")(new(data=None)) is MISSING


def test_the_data_is_decoded_once_whoever_reads() -> None:
    event = new(data={"a": [1]})
    assert read_path("data.a")(event) is read_path("data.a")(event)
    assert read_path("data.a")(event.evolve(tier="gold")) is read_path("data.a")(event)


def test_a_field_that_is_an_object_is_the_readers_own() -> None:
    event = new(data={"a": [1]})
    field("data.a")(event).append(2)
    assert event.data == {"a": [1]}
    assert field("data.a")(event) == [1]
    assert field("data.b")(event) is None
    assert field("data.b", 0)(event) == 0
    assert field("data.a[0]")(event) == 1


def test_a_field_that_is_nested_too_deeply_to_be_copied_is_an_error_of_the_event() -> None:
    event = new(data=b'{"a":' + b"[" * 900 + b"]" * 900 + b"}", datacontenttype="application/json")
    assert event.data["a"]
    with pytest.raises(DataError, match="nested too deeply") as raised:
        field("data.a")(event)
    assert raised.value.key == event.key


def test_data_that_cannot_be_read_is_an_error_of_the_event() -> None:
    event = new(data=b"{", datacontenttype="application/json")
    with pytest.raises(DataError) as raised:
        field("data.a")(event)
    assert raised.value.key == event.key


@pytest.mark.parametrize(
    "path", ["data.", "data..a", "data[", "data[x]", "data[-1]", 'data["a', "data a", "type.x", "type[0]"]
)
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"path|attribute"):
        field(path)


def test_what_names_no_attribute_is_refused() -> None:
    for path in ("", "Type", ".a", "[0]"):
        with pytest.raises(EventError):
            field(path)
    with pytest.raises(TypeError, match="path: must be a str"):
        field(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="more than 32 steps"):
        field("data" + "[0]" * 33)


def test_missing_is_false_and_says_so() -> None:
    assert not MISSING
    assert repr(MISSING) == "MISSING"


JSON: Any = st.recursive(
    st.none() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.data())
def test_every_place_in_the_data_has_a_path(value: Any, data: st.DataObject) -> None:
    path, place = "data", value
    while isinstance(place, list | dict) and place and data.draw(st.booleans()):
        step = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        place = place[step]
        quoted = str(step).replace("\\", "\\\\").replace('"', '\\"')
        path += f"[{step}]" if isinstance(step, int) else f'["{quoted}"]'
    assert read_path(path)(new(data=value)) == place
