"""`route` and `when`: an event goes to the branch that a function or an attribute chooses, and nowhere in silence."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from cloudevents_kit import Event, Nack, Outcome, Receiver, Reject, RetryPolicy, Sender, current_event, settle, wrap
from cloudevents_kit.stages import PASS, REJECT, Stage, StageError, chain, field, route, transform, when
from tests.support.branches import BROKEN, SECRET, Seen
from tests.support.events import new


async def follow(seen: Seen, stage: Stage, event: Event) -> Outcome:
    return await wrap(seen.handler("next"), stage)(event)


def by_subject(event: Event) -> str | None:
    return event.subject


async def by_subject_later(event: Event) -> str | None:
    return event.subject


@pytest.mark.parametrize("by", [by_subject, by_subject_later, "subject"], ids=["sync", "async", "attribute"])
async def test_the_key_chooses_the_branch(by: Any) -> None:
    seen = Seen()
    stage = route(
        by,
        {"a": seen.handler("a"), "b": seen.sink("b"), "c": seen.stage("c"), None: seen.handler("none")},
        default=seen.handler("default"),
    )
    for subject in ("a", "b", "c", None, "x"):
        seen.append(f"{subject}:")
        await follow(seen, stage, new(subject=subject))
    assert seen == ["a:", "a", "b:", "b", "c:", "c", "next", "None:", "none", "x:", "default"]
    assert stage.counts == {"unknown": 1}


async def test_an_extension_may_be_the_key_and_keys_may_be_other_than_text() -> None:
    seen = Seen()
    stage = route("number", {5: seen.handler("five"), "5": seen.handler("text")}, default=REJECT)
    await follow(seen, stage, new(number=5))
    await follow(seen, stage, new(number="5"))
    assert seen == ["five", "text"]
    assert list(stage.branches) == ["5", "5 2"]


async def test_a_branch_gives_the_reply() -> None:
    answer = new(id="2")
    stage = route("type", {"t": Seen().handler("a", answer)}, default=PASS)
    assert await wrap(Seen().handler("next"), stage)(new()) is answer


async def test_a_plain_function_is_a_branch_and_knows_its_event() -> None:
    found: list[Event | None] = []
    handler = wrap(
        Seen().handler("next"), route("type", {"t": lambda event: found.append(current_event())}, default=PASS)
    )
    event = new()
    await settle(handler, event)
    assert found == [event]


async def test_without_a_default_there_is_no_route() -> None:
    """K-P8: what becomes of an unknown key is never left open."""
    with pytest.raises(TypeError, match="default"):
        route("type", {"t": PASS})  # type: ignore[call-arg]


async def test_an_unknown_key_is_refused_and_counted() -> None:
    """K-P8."""
    seen = Seen()
    stage = route("type", {"u": seen.handler("u")}, default=REJECT)
    result = await settle(wrap(seen.handler("next"), stage), new())
    assert result == Nack(status=422, reason="there is no branch for this event", retryable=False)
    assert (seen, stage.counts) == ([], {"unknown": 1})


async def test_an_unknown_key_passes_if_asked_to() -> None:
    """K-P8."""
    seen = Seen()
    stage = route("type", {"u": seen.handler("u")}, default=PASS)
    assert await settle(wrap(seen.handler("next"), stage), new())
    assert (seen, stage.counts) == (["next"], {"unknown": 1})


async def test_the_branch_is_chosen_by_the_event_as_it_comes_to_the_stage() -> None:
    """K-P8: a key that an earlier stage sets is found."""
    seen = Seen()
    stages = (
        transform(lambda event: event.evolve(region="eu")),
        route("region", {"eu": seen.handler("eu")}, default=REJECT),
    )
    await wrap(seen.handler("next"), *stages)(new())
    assert seen == ["eu"]


@pytest.mark.parametrize("value", [[], {}, [1]])
async def test_what_cannot_be_a_key_is_an_unknown_one(value: object) -> None:
    """K-P8: a peer may send what it likes."""
    seen = Seen()
    stage = route(field("data.action"), {"open": PASS}, default=seen.handler("default"))
    await follow(seen, stage, new(data={"action": value}))
    assert (seen, stage.counts) == (["default"], {"unknown": 1})


@pytest.mark.parametrize("by", BROKEN, ids=["sync", "async"])
async def test_a_function_that_fails_is_an_error_of_the_stage(by: Callable[[Event], Any]) -> None:
    stage = route(by, {"t": PASS}, default=PASS, name="region")
    with pytest.raises(StageError, match="stage outer > region: failed after") as caught:
        await follow(Seen(), chain(stage, name="outer"), new())
    assert caught.value.path == ("outer", "region")
    assert caught.value.key == ("/s", "1")
    assert isinstance(caught.value.__cause__, LookupError)


@pytest.mark.parametrize("by", BROKEN)
async def test_a_broken_function_is_reported_once_and_the_server_lives(
    by: Callable[[Event], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """K-P9: for key functions and predicates alike; the peer is told nothing of it."""
    flow = chain(
        when(lambda event: event.type == "when", when(by, PASS)),
        when(lambda event: event.type == "route", route(by, {"t": PASS}, default=PASS)),
    )
    async with (
        Receiver(Seen().handler("end"), flow, port=0) as receiver,
        Sender(receiver.url, retry=RetryPolicy.none()) as sender,
    ):
        for kind in ("when", "route"):
            caplog.clear()
            result = await sender.send(new(type=kind))
            assert isinstance(result, Nack)
            assert (result.status, result.reason) == (500, "the handler failed")
            (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
            assert record.exc_info is not None
            assert SECRET in caplog.text
            assert await sender.send(new(type="fine"))


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_verdict_of_the_function_passes(is_async: bool) -> None:
    def refuse(event: Event) -> str:
        raise Reject("closed", 410)

    async def refuse_later(event: Event) -> str:
        raise Reject("closed", 410)

    stage = route(refuse_later if is_async else refuse, {"t": PASS}, default=PASS)
    assert await settle(wrap(Seen().handler("next"), stage), new()) == Nack(status=410, reason="closed")


async def test_what_a_branch_raises_passes_unchanged() -> None:
    error = LookupError()
    with pytest.raises(LookupError) as caught:
        await follow(Seen(), route("type", {"t": Seen().failing("a", error)}, default=PASS), new())
    assert caught.value is error
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("holds", [True, False, 1, 0, "", None])
async def test_a_predicate_chooses_one_of_two(holds: Any, is_async: bool) -> None:
    seen = Seen()

    async def later(event: Event) -> Any:
        return holds

    predicate: Any = later if is_async else lambda event: holds
    await follow(seen, when(predicate, seen.sink("then"), seen.stage("otherwise")), new())
    assert seen == (["then"] if holds else ["otherwise", "next"])


async def test_what_the_predicate_does_not_hold_for_goes_on() -> None:
    seen = Seen()
    stage = when(lambda event: event.type == "t", seen.handler("then"))
    await follow(seen, stage, new())
    await follow(seen, stage, new(type="u"))
    assert seen == ["then", "next"]


@pytest.mark.parametrize("predicate", BROKEN)
async def test_a_predicate_that_fails_is_an_error_of_the_stage(predicate: Callable[[Event], Any]) -> None:
    with pytest.raises(StageError) as caught:
        await follow(Seen(), when(predicate, PASS), new())
    assert isinstance(caught.value.__cause__, LookupError)


def test_they_describe_themselves() -> None:
    seen = Seen()
    a, b = seen.handler("a"), seen.handler("b")
    stage = route(by_subject, {"a": a, 1: b, "default": a}, default=b)
    assert (stage.kind, stage.name, dict(stage.parameters)) == (
        "route",
        "by_subject",
        {"by": "by_subject", "default": "branch"},
    )
    assert stage.branches == {"a": a, "1": b, "default": a, "default 2": b}
    assert dict(route("type", {"a": a, "b": PASS}, default=REJECT).parameters) == {"by": "type", "default": "reject"}
    assert route("type", {"a": a, "b": PASS}, default=REJECT).branches == {"a": a}
    assert dict(route(lambda event: 1, {1: a}, default=PASS).parameters) == {"by": "function", "default": "pass"}
    condition = when(lambda event: True, a)
    assert (condition.kind, condition.name, condition.branches) == ("when", "when", {"then": a})
    assert dict(condition.parameters) == {"otherwise": "pass"}
    assert when(by_subject, a, b, name="x").branches == {"then": a, "otherwise": b}  # type: ignore[arg-type]
    assert repr(REJECT) == "REJECT"


async def middleware(event: Event, call_next: Any) -> None: ...


any_route: Any = route  # takes anything, as far as types go
any_when: Any = when  # takes anything, as far as types go


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: any_route(1, {"a": PASS}, default=PASS), "by: must be callable, not int"),
        (lambda: any_route("Type", {"a": PASS}, default=PASS), "by: Type: attribute names use only a-z and 0-9"),
        (lambda: any_route("type", {}, default=PASS), "branches: there must be at least one"),
        (lambda: any_route("type", [PASS], default=PASS), "branches: must be a dict of branches by key, not list"),
        (
            lambda: any_route("type", {"a": middleware}, default=PASS),
            r"branches\['a'\]: must be a handler, a sink or a stage",
        ),
        (lambda: any_route("type", {"a": PASS}, default=None), "default: must be a handler, a sink or a stage"),
        (lambda: any_when("type", PASS), "predicate: must be callable, not str"),
        (lambda: any_when(by_subject, Seen), "then: must be a handler"),
        (lambda: any_when(by_subject, PASS, 1), "otherwise: must be a handler"),
    ],
)
def test_a_wrong_argument_is_named(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()
