"""An event that is written and read again is the same to the last byte."""

import pytest

from cloudevents_kit import _frozen, from_json
from cloudevents_kit.testing._events import EVENTS, exact, new


@pytest.mark.parametrize("form", EVENTS)
def test_an_event_comes_back_exactly(form: str) -> None:
    assert exact(_frozen.unpack(_frozen.pack(EVENTS[form]))) == exact(EVENTS[form])


def test_what_the_json_format_gives_back_is_written_in_it() -> None:
    event = new(data={"a": 1}, partitionkey="k")
    assert exact(from_json(_frozen.pack(event))) == exact(event)


@pytest.mark.parametrize(
    "packed",
    [
        b"", b"x", b"{}", b"\xff", b'{"specversion":"1.0"}', b'{"attributes":{', b'{"attributes":{}}',
        b'{"attributes":{},"data":"","form":9}', b'{"attributes":{"id":1.5},"data":"","form":1}',
        b'{"attributes":{"id":"\xff"},"data":"","form":1}',
    ],
)  # fmt: skip
def test_what_is_no_event_is_a_value_error(packed: bytes) -> None:
    with pytest.raises(ValueError):
        _frozen.unpack(packed)
