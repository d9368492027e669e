"""Versions of events, and types with a proper name."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudevents_kit import Ack, Event, Nack, Reject, settle, stages, wrap
from cloudevents_kit.stages import StageError, lint_types, upcast, version_of, with_version
from tests.support.events import new


class Handler:
    def __init__(self) -> None:
        self.events: list[Event] = []

    async def __call__(self, event: Event) -> None:
        self.events.append(event)


async def after(event: Event, *steps: Any) -> Event:
    """Return the event that the handler sees."""
    handler = Handler()
    assert await settle(wrap(handler, upcast(*steps)), event) == Ack(status=204)
    (seen,) = handler.events
    return seen


def order(version: int, **given: Any) -> Event:
    given.setdefault("data", {"steps": []})
    return new(type=f"com.example.order.v{version}", time="2018-04-05T17:31:00.1234567Z", **given)


def step(version: int) -> tuple[str, str, Callable[[Event], Any]]:
    async def note_later(event: Event) -> Any:
        await asyncio.sleep(0)
        return event.evolve(data={"steps": [*event.data["steps"], version]}, subject="s")

    def note(event: Event) -> Any:
        return {"steps": [*event.data["steps"], version]}

    old, now = f"com.example.order.v{version}", f"com.example.order.v{version + 1}"
    return old, now, note if version % 2 else note_later


STEPS = [step(version) for version in range(1, 11)]


@pytest.mark.parametrize("version", range(1, 12))
async def test_a_handler_sees_the_newest_version_whatever_comes_in(version: int) -> None:
    """K-E5: ten steps, v1 to v11; the id, source, time and extensions stay."""
    seen = await after(order(version, id="7", tenant="x"), *reversed(STEPS))
    assert seen.type == "com.example.order.v11"
    assert seen.data == {"steps": [*range(version, 11)]}
    assert (seen.id, seen.source, seen.time_text, seen["tenant"]) == ("7", "/s", "2018-04-05T17:31:00.1234567Z", "x")


async def test_other_types_pass_as_they_are() -> None:
    handler, stage = Handler(), upcast(*STEPS)
    for event in (new(type="com.example.user.v1"), order(11)):
        await wrap(handler, stage)(event)
        assert handler.events[-1] is event
    assert stage.counts == {}
    await wrap(handler, stage)(order(3))
    assert stage.counts == {"upcast": 1}


async def test_new_data_drops_the_schema_of_the_old() -> None:
    event = order(1, dataschema="https://example.com/v1.json", datacontenttype="application/json", subject="1")
    seen = await after(event, STEPS[0])
    assert (seen.dataschema, seen.datacontenttype, seen.subject) == (None, "application/json", "1")


async def test_a_whole_event_keeps_what_it_is_known_by() -> None:
    """A new event that a step has built from nothing is still the one that came in."""

    def build(event: Event) -> Event:
        return Event(type=event.type, source="/other", data={"n": 2}, dataschema="https://example.com/v2.json")

    event = order(1)
    seen = await after(event, ("com.example.order.v1", "com.example.order.v2", build))
    assert seen.key == event.key
    assert (seen.type, seen.time_text, seen.data) == ("com.example.order.v2", event.time_text, {"n": 2})
    assert seen.dataschema == "https://example.com/v2.json"
    timeless = await after(order(1).evolve(time=None), ("com.example.order.v1", "com.example.order.v2", build))
    assert timeless.time is None


@pytest.mark.parametrize(
    ("returned", "cause"),
    [
        (None, "the step to b must return the new data, or the new event, not None"),
        (new(type="c"), "the step to b returned an event of the type c"),
        (KeyError("x"), "'x'"),
    ],
)
async def test_a_step_that_fails_is_a_stage_error(returned: Any, cause: str) -> None:
    def fail(event: Event) -> Any:
        if isinstance(returned, Exception):
            raise returned
        return returned

    with pytest.raises(StageError) as caught:
        await wrap(Handler(), upcast(("a", "b", fail), name="versions"))(new(type="a"))
    assert caught.value.path == ("versions", "a to b")
    assert str(caught.value).startswith("stage versions > a to b: failed after ")
    assert str(caught.value.__cause__) == cause


async def test_a_step_may_refuse_the_event() -> None:
    def refuse(event: Event) -> Any:
        raise Reject("too old", 410)

    assert await settle(wrap(Handler(), upcast(("a", "b", refuse))), new(type="a")) == Nack(410, reason="too old")


def same(event: Event) -> Event:
    return event


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([("a", "a", same)], "steps: a leads to itself"),
        ([("a", "b", same), ("b", "a", same)], "steps: a > b > a goes round and round"),
        ([("x", "a", same), ("a", "b", same), ("b", "c", same), ("c", "a", same)], "a > b > c > a goes round"),
        ([("a", "b", same), ("a", "c", same)], "steps: two lead on from a, to b and to c"),
    ],
)
def test_steps_that_go_round_or_part_are_refused_at_once(steps: list[Any], message: str) -> None:
    """K-E5: a cycle is an error at registration."""
    with pytest.raises(ValueError, match=message):
        upcast(*steps)


@pytest.mark.parametrize(
    "wrong", ["ab", ("a", "b"), ("a", 1, same), (1, "b", same), ("a", "b", None), ["a", "b", same]]
)
def test_what_is_no_step_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(TypeError, match="steps: "):
        upcast(wrong)


def test_the_steps_are_shown() -> None:
    assert upcast(("a", "b", same), ("b", "c", same)).parameters == {"steps": {"a": "b", "b": "c"}}


# Names of types.


@pytest.mark.parametrize(
    ("event_type", "version"),
    [
        ("com.example.order.v2", 2), ("com.example.order.v10", 10), ("v1", None), ("com.example.order", None),
        ("com.example.order.v", None), ("com.example.v2.order", None), ("com.example.order.v2\n", None), ("a.v٣", None),
    ],
)  # fmt: skip
def test_the_version_of_a_type(event_type: str, version: int | None) -> None:
    assert version_of(event_type) == version


@given(st.text(min_size=1), st.integers(0, 10**9 - 1), st.integers(0, 10**9 - 1))
def test_a_version_can_be_set_and_read(event_type: str, first: int, second: int) -> None:
    with_one = with_version(event_type, first)
    assert version_of(with_one) == first
    assert with_version(with_one, second) == with_version(event_type, second)


async def test_a_type_without_a_domain_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """K-E5: "user_created" warns, "com.example.user.created" does not."""
    stage = lint_types()
    handler = Handler()
    good = ["com.example.user.created", "io.example.a-b.v2", "org.example.x_y", "dev.knative.apiserver.resource.add"]
    odd = [
        "user_created",
        "user.created",
        "UserCreated",
        "com..created",
        "com.example.user created",
        "/com/example",
        "t",
    ]
    for event_type in (*good, *good, *odd, *odd):
        assert await settle(wrap(handler, stage), new(type=event_type)) == Ack(status=204)
    assert len(handler.events) == 2 * len(good) + 2 * len(odd)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * len(odd)
    for record, event_type in zip(caplog.records, odd, strict=True):
        assert f"type={event_type!r}" in record.message
    assert stage.counts == {"odd": 2 * len(odd)}


async def test_warnings_end_before_they_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    stage = lint_types(name="lint")
    handler = wrap(Handler(), stage)
    for number in range(1100):
        await handler(new(type=f"odd{number}"))
    assert len(caplog.records) == 1000
    assert stages.describe(handler)["children"]["1"]["name"] == "lint"
    assert stage.status == {"odd": 1100}
