"""Stages made of one plain function: transform, tap, keep_if, validate, enrich."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from cloudevents_kit import Ack, DataError, Event, Nack, Outcome, Reject, Retry, settle, stages, wrap
from cloudevents_kit.stages import Stage, StageError
from tests.support.events import new
from tests.support.servers import SECRET
from tests.support.virtual import virtual

EVENT = new(data={"id": 1})
MAKERS: dict[str, Callable[[Any], Stage]] = {
    "transform": stages.transform,
    "tap": stages.tap,
    "keep_if": stages.keep_if,
    "validate": stages.validate,
    "enrich": lambda function: stages.enrich(function, on_error="fail"),
}
every_kind = pytest.mark.parametrize("kind", MAKERS)


class Handler:
    """Keeps what it gets, and replies if told to."""

    def __init__(self, reply: Event | None = None) -> None:
        self.events: list[Event] = []
        self._reply = reply

    async def __call__(self, event: Event) -> Outcome:
        self.events.append(event)
        return self._reply


def later(function: Callable[[Event], Any]) -> Callable[[Event], Awaitable[Any]]:
    """Return the same as an async function that really waits."""

    async def waiting(event: Event) -> Any:
        await asyncio.sleep(0)
        return function(event)

    return waiting


both = pytest.mark.parametrize("form", [lambda function: function, later], ids=["sync", "async"])
Form = Callable[[Callable[[Event], Any]], Callable[[Event], Any]]


async def passes(stage: Stage, event: Event = EVENT) -> Event | None:
    """Return the event that goes on, or None if it ends in the stage; the reply of the handler comes back as it is."""
    handler = Handler(reply=new(id="reply"))
    outcome = await wrap(handler, stage)(event)
    assert outcome == (new(id="reply") if handler.events else None)
    return handler.events[0] if handler.events else None


# What goes on.


@both
async def test_transform_goes_on_with_what_the_function_returns(form: Form) -> None:
    assert await passes(stages.transform(form(lambda event: event.evolve(subject="x")))) == EVENT.evolve(subject="x")


@both
async def test_tap_goes_on_with_the_same_event_whatever_the_function_returns(form: Form) -> None:
    """K-P1: an effect that returns another event is ignored."""
    for returned in (None, True, new(id="other"), "text"):
        assert await passes(stages.tap(form(lambda event, returned=returned: returned))) is EVENT  # type: ignore[misc]


@both
async def test_keep_if_goes_on_with_events_that_the_predicate_holds_for(form: Form) -> None:
    for returned in (True, 1, "yes"):
        stage = stages.keep_if(form(lambda event, returned=returned: returned))  # type: ignore[misc]
        assert await passes(stage) is EVENT
        assert stage.counts == {}


@both
async def test_keep_if_drops_the_others_which_are_acknowledged_and_counted(form: Form) -> None:
    """K-P1: later stages do not run."""
    stage = stages.keep_if(form(lambda event: False))
    handler = Handler()
    assert await settle(wrap(handler, stage), EVENT) == Ack(status=204)
    assert handler.events == []
    assert stage.counts == {"dropped": 1}
    assert stage.status == {"dropped": 1}


async def test_keep_if_may_refuse_them() -> None:
    stage = stages.keep_if(lambda event: False, otherwise="reject", name="mine")
    assert await settle(wrap(Handler(), stage), EVENT) == Nack(status=422, reason="not wanted here (mine)")


@both
async def test_validate_lets_valid_events_pass(form: Form) -> None:
    for returned in (None, True):
        stage = stages.validate(form(lambda event, returned=returned: returned))  # type: ignore[misc]
        assert await passes(stage) is EVENT


@both
async def test_validate_refuses_with_the_reason(form: Form) -> None:
    for returned, reason in ((False, "not valid (check)"), ("no such order", "no such order"), ("", "Conflict")):
        stage = stages.validate(form(lambda event, returned=returned: returned), status=410, name="check")  # type: ignore[misc]
        found = await settle(wrap(Handler(), stage), EVENT)
        assert found == Nack(status=410, reason=reason if returned != "" else "")


@dataclass
class Order:
    id: int


async def test_validate_takes_the_type_that_the_data_must_fit() -> None:
    stage = stages.validate(Order)
    assert stage.name == "Order"
    assert await passes(stage) is EVENT
    found = await settle(wrap(Handler(), stage), new(data={"id": "x"}))
    assert isinstance(found, Nack)
    assert (found.status, found.retryable) == (422, False)
    assert "id" in found.reason
    with pytest.raises(TypeError):
        stages.validate(Handler)


async def test_an_event_error_of_another_event_is_a_failure_of_the_check() -> None:
    other = new(id="other", data={"id": "x"})

    def check(event: Event) -> None:
        other.as_type(Order)

    found = await settle(wrap(Handler(), stages.validate(check)), EVENT)
    assert found == Nack(status=500, reason="the handler failed", retryable=True)


@both
async def test_enrich_goes_on_with_what_the_function_returns_or_with_the_same_event(form: Form) -> None:
    stage = stages.enrich(form(lambda event: event.evolve(subject="x") if event.data["id"] == 1 else None))
    other = new(data={"id": 2})
    assert await passes(stage) == EVENT.evolve(subject="x")
    assert await passes(stage, other) is other
    assert stage.counts == {"enriched": 1, "unchanged": 1}


@both
async def test_enrich_that_fails_half_way_leaves_the_event_as_it_was(
    form: Form, caplog: pytest.LogCaptureFixture
) -> None:
    """K-P1: the change is not kept, and what failed is counted and logged."""

    def half(event: Event) -> Event:
        event.evolve(subject="half")
        event.data["half"] = True
        raise RuntimeError("lookup down")

    stage = stages.enrich(form(half), name="customers")
    event = new(data={"id": 1})
    seen = await passes(stage, event)
    assert seen is event
    assert (seen.subject, seen.raw) == (None, event.raw)
    assert stage.counts == {"failed": 1}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "stage customers: enrichment failed" in record.message
    assert record.exc_info is not None


@both
@pytest.mark.parametrize("error", [Retry(), Retry(7, "limit", 429), OSError()], ids=repr)
async def test_enrich_keeps_the_event_that_a_lookup_wants_to_see_later(form: Form, error: Exception) -> None:
    """K-P1: only what is final is a verdict about the event."""
    stage = stages.enrich(form(lambda event: _raise(error)), mark="enriched")
    seen = await passes(stage)
    assert seen is not None
    assert (seen["enriched"], stage.counts) == (False, {"failed": 1})
    with pytest.raises((type(error), StageError)) as caught:
        await passes(stages.enrich(form(lambda event: _raise(error)), on_error="fail"))
    assert error in {caught.value, caught.value.__cause__}


@both
async def test_a_final_verdict_of_a_lookup_holds(form: Form) -> None:
    stage = stages.enrich(form(lambda event: _raise(Reject("unknown customer"))))
    assert await settle(wrap(Handler(), stage), EVENT) == Nack(status=422, reason="unknown customer")
    assert stage.counts == {}


async def test_a_lookup_that_is_guarded_does_not_stop_the_event() -> None:
    async def lookup(event: Event) -> None:
        raise ConnectionError

    guarded: Any = wrap(lookup, stages.circuit_breaker(failures=2))
    stage = stages.enrich(guarded)
    for _ in range(4):
        assert await passes(stage) is EVENT
    assert stage.counts == {"failed": 4}


@pytest.mark.parametrize("mark", ["id", "specversion", "time", "partitionkey", "deprecated", "authid", "tracestate"])
def test_a_mark_is_an_extension_of_ones_own(mark: str) -> None:
    with pytest.raises(ValueError, match=f"mark: {mark} has a meaning of its own"):
        stages.enrich(lambda event: None, mark=mark)


async def test_a_mark_tells_whether_the_event_was_enriched() -> None:
    """K-P1: also for the one whose enrichment failed."""

    def by_id(event: Event) -> Event | None:
        return {1: event.evolve(subject="x"), 2: None}[event.data["id"]]

    stage = stages.enrich(by_id, mark="enriched")
    for number, mark in ((1, True), (2, False), (3, False)):
        seen = await passes(stage, new(data={"id": number}))
        assert seen is not None
        assert seen["enriched"] is mark
    assert stage.parameters == {"on_error": "keep", "mark": "enriched"}
    assert stages.keep_if(lambda event: True).parameters == {"otherwise": "drop"}
    assert stages.validate(Order, status=400).parameters == {"status": 400}


# What fails.


@every_kind
@both
async def test_a_function_that_raises_stops_with_an_error_that_says_where(kind: str, form: Form) -> None:
    """K-P1: with the event's key, the path of stages, a duration and the cause. K-P9: told once, and nothing to the
    peer.
    """
    error = KeyError(SECRET)

    def fail(event: Event) -> None:
        raise error

    handler = Handler()
    chain = wrap(handler, stages.tap(lambda event: None, name="outer"), MAKERS[kind](form(fail)))
    for _ in range(3):
        with pytest.raises(StageError) as caught:
            await chain(EVENT)
        name = "waiting" if form is later else "fail"
        assert caught.value.path == ("outer", name)
        assert caught.value.key == EVENT.key
        assert caught.value.elapsed > 0
        assert caught.value.__cause__ is error
    assert handler.events == []
    assert await settle(chain, EVENT) == Nack(status=500, reason="the handler failed", retryable=True)


@every_kind
async def test_a_failure_is_logged_once_with_its_traceback(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """K-P9: and the next event is handled."""
    failing = iter([True, False])

    def once(event: Event) -> Any:
        if next(failing):
            raise RuntimeError("broken")
        return event if kind == "transform" else None if kind != "keep_if" else True

    chain = wrap(Handler(), MAKERS[kind](once))
    assert not await settle(chain, EVENT)
    assert await settle(chain, EVENT)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "stage once: failed" in record.message


@every_kind
@both
@pytest.mark.parametrize("verdict", [Reject("no"), Retry(after=3)])
async def test_a_verdict_passes_as_it_is(kind: str, form: Form, verdict: Exception) -> None:
    def judge(event: Event) -> None:
        raise verdict

    with pytest.raises(type(verdict)) as caught:
        await wrap(Handler(), stages.tap(lambda event: None), MAKERS[kind](form(judge)))(EVENT)
    assert caught.value is verdict
    assert caught.value.__cause__ is None


@every_kind
@virtual
async def test_a_cancellation_gets_out(kind: str) -> None:
    """K-P1: and is no failure."""
    entered = asyncio.Event()

    async def wait(event: Event) -> None:
        entered.set()
        await asyncio.sleep(3600)

    stage = stages.enrich(wait) if kind == "enrich" else MAKERS[kind](wait)
    task = asyncio.create_task(settle(wrap(Handler(), stage), EVENT))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stage.counts == {}


@pytest.mark.parametrize(
    ("kind", "returned", "reason"),
    [
        ("transform", None, "x: must return the event that goes on, not NoneType"),
        ("validate", 1, "x: a check returns None or True, or False or a reason, not int"),
        ("enrich", 1, "x: must return the enriched event, or None, not int"),
    ],
)
async def test_what_a_function_must_not_return_is_named(kind: str, returned: Any, reason: str) -> None:
    def x(event: Event) -> Any:
        return returned

    with pytest.raises(StageError) as caught:
        await wrap(Handler(), MAKERS[kind](x))(EVENT)
    assert isinstance(caught.value.__cause__, TypeError)
    assert str(caught.value.__cause__) == reason


async def test_an_error_of_the_handler_is_not_the_function_s() -> None:
    """It passes through without a StageError; enrich does not excuse it."""

    async def fail(event: Event) -> None:
        raise DataError("rule")

    stage = stages.enrich(lambda event: None)
    with pytest.raises(DataError):
        await wrap(fail, stages.tap(lambda event: None), stage)(EVENT)
    assert stage.counts == {"unchanged": 1}


async def test_a_stage_error_raised_by_a_function_keeps_its_cause() -> None:
    """A function may run a chain of its own."""
    cause = KeyError("deep")
    inner = wrap(Handler(), stages.tap(lambda event: _raise(cause), name="inner"))
    with pytest.raises(StageError) as caught:
        await wrap(Handler(), stages.tap(inner, name="outer"))(EVENT)
    assert caught.value.path == ("outer", "inner")
    assert caught.value.__cause__ is cause


def _raise(error: Exception) -> None:
    raise error


# What can be made.


@pytest.mark.parametrize("kind", [*MAKERS])
def test_what_cannot_be_called_is_refused_at_once(kind: str) -> None:
    with pytest.raises(TypeError, match="must be callable"):
        MAKERS[kind](None)


def test_settings_that_make_no_sense_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="otherwise: must be 'drop' or 'reject'"):
        stages.keep_if(lambda event: True, otherwise="nack")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on_error: must be 'keep' or 'fail'"):
        stages.enrich(lambda event: None, on_error="drop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not 503"):
        stages.validate(Order, status=503)
    with pytest.raises(ValueError, match="Bad_Name: attribute names"):
        stages.enrich(lambda event: None, mark="Bad_Name")
    with pytest.raises(TypeError, match="name: must be a str"):
        stages.tap(lambda event: None, name=1)  # type: ignore[arg-type]


def test_a_stage_is_named_after_its_function() -> None:
    def audit(event: Event) -> None: ...

    assert repr(stages.tap(audit)) == "<tap 'audit'>"
    assert repr(stages.tap(lambda event: None)) == "<tap>"
    assert stages.tap(audit, name="log").name == "log"


async def test_one_stage_may_be_part_of_several_chains() -> None:
    stage = stages.keep_if(lambda event: event.id == "1")
    first, second = Handler(), Handler()
    one, two = wrap(first, stage), wrap(second, stage)
    await asyncio.gather(one(EVENT), two(new(id="2")), two(EVENT))
    assert (len(first.events), len(second.events)) == (1, 1)
    assert stage.counts == {"dropped": 1}


@pytest.mark.parametrize("change", [{"source": "/elsewhere"}, {"id": "another"}, {"subject": "s"}])
@pytest.mark.parametrize("after", [(), (stages.tap(lambda event: event.as_type(str)),)])
async def test_data_that_does_not_fit_is_the_events_fault_whatever_a_stage_made_of_it(
    change: dict[str, Any], after: tuple[Stage, ...]
) -> None:
    async def typed(event: Event) -> None:
        event.as_type(str)

    async def other(event: Event) -> None:
        new(id="not this one", data=5).as_type(str)

    handler = wrap(typed, stages.transform(lambda event: event.evolve(**change)), *after)
    assert (await settle(handler, EVENT)).status == 422
    handler = wrap(other, stages.transform(lambda event: event.evolve(**change)))
    assert (await settle(handler, EVENT)).status == 500
