"""What a filter of rules does with events."""

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudevents_kit import (
    Event,
    HandlerSink,
    Nack,
    Receiver,
    Reject,
    RetryPolicy,
    Sender,
    settle,
    stages,
    wrap,
)
from cloudevents_kit.stages import Condition, Rule, RuleError, RuleFilter, StageError, hinted, route_hints, rule_filter
from tests.stages.test_conditions import conditions
from tests.support.events import new
from tests.support.rules import first_rule


class Inside:
    """What follows the filter: keeps the events and the hints that were to be seen with them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.hints: list[tuple[str, ...]] = []

    async def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.hints.append(route_hints(event))


def rule(name: str, action: Any, *when: Any, **more: Any) -> Rule:
    return Rule(name=name, action=action, when=when, **more)


HIGH = Condition("level", "gt", 3)


def high(name: str, action: Any, **more: Any) -> Rule:
    return rule(name, action, HIGH, **more)


async def test_an_event_that_no_rule_is_for_passes() -> None:
    inside = Inside()
    event = new(level=1)
    assert await settle(wrap(inside, rule_filter([high("a", "block")])), event)
    assert await settle(wrap(inside, rule_filter([])), event)
    assert inside.events[0] is inside.events[1] is event


async def test_a_blocked_event_is_acknowledged_and_not_handled() -> None:
    """K-D5."""
    inside = Inside()
    filtered = rule_filter([high("a", "block")])
    result = await settle(wrap(inside, filtered), new(level=5))
    assert (result.is_ack, inside.events) == (True, [])
    assert filtered.counts == {"dropped": 1, "blocked": 1}


async def test_an_allowed_event_passes_at_once_and_may_be_marked() -> None:
    inside = Inside()
    filtered = rule_filter([high("a", "allow", set={"checked": "a"}, priority=1), rule("b", "block")])
    handler = wrap(inside, filtered)
    assert await settle(handler, new(level=5))
    assert await settle(handler, new(level=1))
    (event,) = inside.events
    assert event["checked"] == "a"
    assert filtered.counts == {"allowed": 1, "dropped": 1, "blocked": 1}


REFUSALS: list[tuple[dict[str, Any], Nack]] = [
    ({}, Nack(status=422, reason="refused by a rule")),
    ({"reason": "closed", "status": 410}, Nack(status=410, reason="closed")),
    ({"status": 429}, Nack(status=429, reason="refused by a rule", retryable=True)),
    ({"retry_after": 5}, Nack(status=503, reason="refused by a rule", retryable=True, retry_after=5)),
    ({"retry_after": 5, "status": 500}, Nack(status=500, reason="refused by a rule", retryable=True, retry_after=5)),
]


@pytest.mark.parametrize(("more", "nack"), REFUSALS)
async def test_a_refused_event_is_answered_as_the_rule_says(more: dict[str, Any], nack: Nack) -> None:
    """K-D5."""
    inside = Inside()
    filtered = rule_filter([high("a", "nack", **more)])
    assert await settle(wrap(inside, filtered), new(level=5)) == nack
    assert (inside.events, filtered.counts) == ([], {"refused": 1})


async def test_a_rule_sees_what_a_stage_before_it_has_set() -> None:
    """K-D5: a filter placed after the enrichment matches on its fields."""
    inside = Inside()
    enrich = stages.enrich(lambda event: event.evolve(level=9))
    filtered = rule_filter([high("a", "transform", set={"seen": True})])
    assert await settle(wrap(inside, enrich, filtered), new())
    assert inside.events[0]["seen"] is True
    assert filtered.statistics == {"a": {"matched": 1, "errors": 0}}


async def test_the_first_rule_by_priority_and_then_by_order_decides() -> None:
    """K-D5."""
    rules = [
        rule("late", "nack", priority=-1),
        rule("first", "transform", set={"by": "first"}),
        rule("second", "transform", set={"by": "second"}),
        rule("high", "transform", Condition("level", "eq", 1), set={"by": "high"}, priority=5),
    ]
    inside = Inside()
    filtered = rule_filter(rules)
    for level in (0, 1):
        assert await settle(wrap(inside, filtered), new(level=level))
    assert [event["by"] for event in inside.events] == ["first", "high"]
    assert [one.name for one in filtered.rules] == ["high", "first", "second", "late"]


async def test_after_a_rule_that_says_continue_the_next_ones_see_the_changed_event() -> None:
    rules = [
        rule("a", "transform", set={"level": 5, "extra": 1}, continue_=True),
        high("b", "transform", remove=["extra"], continue_=True),
        high("c", "route", to="vip", set={"routed": True}, continue_=True),
        high("d", "route", to=("audit", "vip")),
        rule("e", "block"),
    ]
    inside = Inside()
    filtered = rule_filter(rules)
    assert await settle(wrap(inside, filtered), new())
    (event,) = inside.events
    assert dict(event.extensions) == {"level": 5, "routed": True}
    assert inside.hints == [("vip", "audit")]
    assert filtered.counts == {"transformed": 2, "routed": 2}


async def test_a_changed_type_is_met_by_the_rules_of_that_type_that_come_later() -> None:
    rules = [
        rule("new before", "block", Condition("type", "eq", "new")),
        rule("rename", "transform", Condition("type", "in", ["t", "u"]), set={"type": "new"}, continue_=True),
        rule("old after", "block", Condition("type", "eq", "t")),
        rule("new after", "transform", Condition("type", "eq", "new"), set={"x": 1}, continue_=True),
    ]
    inside = Inside()
    assert await settle(wrap(inside, rule_filter(rules)), new(type="t"))
    assert (inside.events[0].type, inside.events[0]["x"]) == ("new", 1)


async def test_many_rules_that_say_continue_take_no_longer_than_others() -> None:
    rules = [rule(f"{at}", "route", to=[f"{at} {n}" for n in range(100)], continue_=True) for at in range(2_000)]
    inside = Inside()
    handler = wrap(inside, rule_filter(rules))
    began = time.process_time()
    await settle(handler, new())
    assert time.process_time() - began < 0.3
    assert len(inside.hints[0]) == 200_000


async def later(event: Event) -> Event:
    await asyncio.sleep(0)
    return event.evolve(by="later")


FUNCTIONS: list[Callable[[Event], Any]] = [lambda event: event.evolve(by="later"), later]


@pytest.mark.parametrize("function", FUNCTIONS)
async def test_a_function_may_change_the_event(function: Any) -> None:
    inside = Inside()
    rules = [
        high("a", "transform", function=function, set={"x": 1}, continue_=True),
        rule("b", "block", Condition("by", "ne", "later", missing=True)),
    ]
    assert await settle(wrap(inside, rule_filter(rules)), new(level=5))
    assert (inside.events[0]["by"], inside.events[0]["x"]) == ("later", 1)


async def test_a_verdict_of_a_function_passes_unchanged() -> None:
    def refuse(event: Event) -> Event:
        raise Reject("no", 410)

    filtered = rule_filter([rule("a", "transform", function=refuse)])
    assert await settle(wrap(Inside(), filtered), new()) == Nack(status=410, reason="no")
    assert filtered.statistics == {"a": {"matched": 1, "errors": 0}}


# Destinations.


async def test_hints_lead_to_the_branch_of_a_later_stage_and_survive_what_stands_between() -> None:
    """K-D5: and nothing of them is in the event."""
    vip, rest = Inside(), Inside()
    handler = wrap(
        rest,
        rule_filter([high("a", "route", to=["audit", "vip"])]),
        stages.enrich(lambda event: event.evolve(subject="changed", data=1)),
        stages.route(hinted("vip", "bulk"), {"vip": vip}, default=stages.PASS),
    )
    assert await settle(handler, new(level=5))
    assert await settle(handler, new(level=1))
    assert ([event.get("level") for event in vip.events], [event["level"] for event in rest.events]) == ([5], [1])
    assert vip.hints == [("audit", "vip")]
    assert {*vip.events[0].extensions} == {"level"}


async def test_a_publisher_sends_to_all_destinations_that_rules_have_named() -> None:
    """K-D5: the list of a route rule is used by what sends."""
    arrived = {"a": Inside(), "b": Inside(), "c": Inside()}
    sinks = {name: HandlerSink(inside) for name, inside in arrived.items()}

    async def publish(event: Event) -> None:
        for name in route_hints(event):
            (await sinks[name].send(event)).raise_for_outcome()

    assert await settle(wrap(publish, rule_filter([high("a", "route", to=["c", "a"])])), new(level=5))
    assert {name: len(inside.events) for name, inside in arrived.items()} == {"a": 1, "b": 0, "c": 1}


async def test_hints_hold_for_one_event_and_while_it_is_handled() -> None:
    seen: list[Any] = []

    async def handler(event: Event) -> None:
        seen.append((route_hints(event), hinted()(event), hinted("b")(event), hinted("x")(event)))
        seen.append((route_hints(new(id="other")), hinted()(new(id="other"))))
        await asyncio.create_task(asyncio.sleep(0))
        seen.append(await asyncio.create_task(in_task(event)))

    async def in_task(event: Event) -> tuple[str, ...]:
        return route_hints(event)

    chain = wrap(handler, rule_filter([rule("a", "route", to=["a", "b"])]))
    event = new()
    await chain(event)
    assert seen == [(("a", "b"), "a", "b", None), ((), None), ("a", "b")]
    assert route_hints(event) == ()


async def test_hints_of_two_filters_add_up_and_end_with_what_gave_them() -> None:
    inside = Inside()
    first = rule_filter([rule("a", "route", to=["a", "b"])], name="first")
    second = rule_filter([rule("b", "route", to=["b", "c"])], name="second")
    outer: list[tuple[str, ...]] = []

    async def between(event: Event, call_next: Any) -> Any:
        outcome = await call_next(event)
        outer.append(route_hints(event))
        return outcome

    assert await settle(wrap(inside, first, between, second), new())
    assert (inside.hints, outer) == ([("a", "b", "c")], [("a", "b")])


async def test_hints_of_events_at_once_do_not_mix() -> None:
    seen: dict[str, tuple[str, ...]] = {}

    async def handler(event: Event) -> None:
        await asyncio.sleep(0)
        seen[event.id] = route_hints(event)

    rules = [rule(f"{at}", "route", Condition("level", "eq", at), to=[f"to {at}"]) for at in range(5)]
    chain = wrap(handler, rule_filter(rules))
    await asyncio.gather(*(chain(new(id=f"{at}", level=at % 6)) for at in range(50)))
    assert seen == {f"{at}": (f"to {at % 6}",) if at % 6 < 5 else () for at in range(50)}


async def test_nothing_of_a_hint_is_sent() -> None:
    """K-D5."""
    arrived: list[Event] = []
    async with Receiver(arrived.append, port=0) as receiver, Sender(receiver.url, retry=RetryPolicy.none()) as sender:
        chain = wrap(stages.chain(rule_filter([rule("a", "route", to="x")])).compose(_send_by(sender)))
        event = new()
        await chain(event)
    assert arrived == [event]


def _send_by(sender: Sender) -> Any:
    async def send(event: Event) -> None:
        assert route_hints(event) == ("x",)
        (await sender.send(event)).raise_for_outcome()

    return send


def test_a_destination_that_is_not_among_those_known_is_refused() -> None:
    """K-D5."""
    rules = [rule("a", "route", to=["vip", "bluk"])]
    with pytest.raises(RuleError, match=r"rule 'a': to: 'bluk' is no destination \(did you mean 'bulk'\?\)"):
        rule_filter(rules, destinations=["vip", "bulk"])
    filtered = rule_filter([], destinations=["vip"])
    with pytest.raises(RuleError, match="is no destination"):
        filtered.replace(rules)
    assert [*filtered.rules] == []
    filtered.replace([rule("a", "route", to="vip")])
    assert [one.to for one in filtered.rules] == [("vip",)]


# Errors while events pass.

BROKEN = {"data": b"{", "datacontenttype": "application/json"}


def fail(event: Event) -> Event:
    raise KeyError("secret")


FAILING: list[tuple[Rule, dict[str, Any], int]] = [
    (rule("a", "block", Condition("data.x", "eq", 1)), BROKEN, 422),
    (rule("a", "block", sql="INT(word) = 5"), {"word": "x"}, 500),
    (rule("a", "transform", function=fail), {}, 500),
    (rule("a", "transform", function=lambda event: None), {}, 500),
    (rule("a", "transform", remove=["severitynumber"]), {"severitynumber": 1, "severitytext": "info"}, 500),
    (rule("a", "block", Condition("data", "regex", "a.{400}")), {"data": "b" * 100_000}, 500),
]


@pytest.mark.parametrize(("failing", "event", "status"), FAILING, ids=range(len(FAILING)))
async def test_a_rule_that_fails_does_not_match_and_the_others_are_asked(
    failing: Rule, event: dict[str, Any], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    inside = Inside()
    filtered = rule_filter([failing, rule("b", "transform", set={"by": "b"})])
    given_event = new(**event)
    with caplog.at_level(logging.WARNING):
        assert await settle(wrap(inside, filtered), given_event)
    assert inside.events == [given_event.evolve(by="b")]
    assert filtered.statistics == {"a": {"matched": 0, "errors": 1}, "b": {"matched": 1, "errors": 0}}
    assert filtered.counts == {"errors": 1, "transformed": 1}
    assert "stage rule_filter: rule 'a' failed: id='1'" in caplog.text


@pytest.mark.parametrize(("failing", "event", "status"), FAILING, ids=range(len(FAILING)))
async def test_a_rule_that_fails_stops_the_event_if_it_is_told_to(
    failing: Rule, event: dict[str, Any], status: int
) -> None:
    inside = Inside()
    filtered = rule_filter([failing], on_error="nack", name="rules")
    handler = wrap(inside, filtered)
    result = await settle(handler, new(**event))
    assert isinstance(result, Nack)
    assert (result.status, result.retryable, inside.events) == (status, status == 500, [])
    assert filtered.statistics == {"a": {"matched": 0, "errors": 1}}
    with pytest.raises(StageError) as caught:
        await handler(new(**event))
    assert caught.value.path == ("rules",)


async def test_a_missing_attribute_is_no_error_of_sql() -> None:
    filtered = rule_filter([rule("a", "block", sql="region = 'eu'"), rule("b", "block", sql="region <> 'eu'")])
    inside = Inside()
    for extensions in ({}, {"region": "us"}, {"region": "eu"}):
        assert await settle(wrap(inside, filtered), new(**extensions))
    assert len(inside.events) == 1
    assert filtered.statistics == {"a": {"matched": 1, "errors": 0}, "b": {"matched": 1, "errors": 0}}


async def test_conditions_and_sql_must_both_hold() -> None:
    filtered = rule_filter([high("a", "block", sql="region = 'eu'")])
    inside = Inside()
    for extensions in ({"level": 5}, {"region": "eu"}, {"level": 5, "region": "eu"}):
        assert await settle(wrap(inside, filtered), new(**extensions))
    assert len(inside.events) == 2


async def test_data_is_read_only_when_a_rule_asks_for_it() -> None:
    rules = [
        rule("a", "allow", Condition("level", "eq", 1)),
        rule("b", "block", Condition("type", "eq", "other"), Condition("data.x", "eq", 1)),
        rule("c", "block", Condition("level", "eq", 2), Condition("data.x", "eq", 1)),
    ]
    filtered = rule_filter(rules, on_error="nack")
    handler = wrap(Inside(), filtered)
    assert await settle(handler, new(level=1, **BROKEN))
    assert await settle(handler, new(level=3, **BROKEN))
    assert not await settle(handler, new(level=2, **BROKEN))


async def test_data_that_cannot_be_read_is_read_again_once_it_was_changed() -> None:
    rules = [
        rule("a", "block", Condition("data.x", "eq", 1)),
        rule("b", "transform", function=lambda event: event.evolve(data={"x": 1}), continue_=True),
        rule("c", "block", Condition("data.x", "eq", 1)),
    ]
    filtered = rule_filter(rules)
    assert await settle(wrap(Inside(), filtered), new(**BROKEN))
    assert filtered.counts == {"errors": 1, "transformed": 1, "dropped": 1, "blocked": 1}


async def test_a_cancellation_in_a_function_passes_and_counts_as_nothing() -> None:
    entered = asyncio.Event()

    async def wait(event: Event) -> Event:
        entered.set()
        await asyncio.Event().wait()
        raise AssertionError

    filtered = rule_filter([rule("a", "transform", function=wait)])
    task = asyncio.create_task(settle(wrap(Inside(), filtered), new()))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (filtered.counts, filtered.statistics) == ({}, {"a": {"matched": 0, "errors": 0}})


# Replacing.


async def test_an_event_ends_on_the_rules_on_which_it_began() -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def wait(event: Event) -> Event:
        entered.set()
        await go_on.wait()
        return event

    inside = Inside()
    filtered = rule_filter(
        [rule("wait", "transform", function=wait, continue_=True), rule("last", "transform", set={"by": "old"})]
    )
    handler = wrap(inside, filtered)
    under_way = [asyncio.create_task(settle(handler, new(id=f"{at}"))) for at in range(50)]
    await entered.wait()
    filtered.replace([rule("last", "transform", set={"by": "new"}), rule("fresh", "block", priority=-1)])
    assert await settle(handler, new(id="next"))
    go_on.set()
    assert all(await asyncio.gather(*under_way))
    assert [event["by"] for event in inside.events] == ["new", *["old"] * 50]
    assert filtered.statistics == {"last": {"matched": 51, "errors": 0}, "fresh": {"matched": 0, "errors": 0}}
    assert filtered.counts == {"transformed": 101, "replaced": 1}


async def test_rules_that_cannot_be_used_replace_nothing() -> None:
    filtered = rule_filter([rule("a", "block")])
    with pytest.raises(RuleError):
        filtered.replace([{"name": "b", "action": "allow"}, {"name": "c", "action": "no"}])
    assert [one.name for one in filtered.rules] == ["a"]
    inside = Inside()
    assert await settle(wrap(inside, filtered), new())
    assert (inside.events, filtered.counts["replaced"]) == ([], 0)


async def test_a_rule_that_stays_goes_on_counting_and_one_that_went_begins_anew() -> None:
    filtered = rule_filter([rule("a", "block")])
    handler = wrap(Inside(), filtered)
    await handler(new())
    filtered.replace([rule("a", "allow")])
    await handler(new())
    assert filtered.statistics == {"a": {"matched": 2, "errors": 0}}
    filtered.replace([])
    filtered.replace([rule("a", "allow")])
    assert filtered.statistics == {"a": {"matched": 0, "errors": 0}}


# What can be seen from outside.


async def test_the_status_lists_the_rules_with_their_counts() -> None:
    filtered = rule_filter([rule("a", "block"), high("b", "allow", priority=1)], name="mine")
    await wrap(Inside(), filtered)(new())
    assert filtered.status == {
        "dropped": 1,
        "blocked": 1,
        "on_error": "allow",
        "rules": {
            "b": {"action": "allow", "priority": 1, "matched": 0, "errors": 0},
            "a": {"action": "block", "priority": 0, "matched": 1, "errors": 0},
        },
    }
    assert filtered.parameters == {"rules": 2, "on_error": "allow"}
    assert (repr(filtered), isinstance(filtered, RuleFilter)) == ("<rule_filter 'mine'>", True)


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"on_error": "ignore"}, ValueError, "on_error: must be 'allow' or 'nack'"),
    ({"destinations": "vip"}, TypeError, "destinations: must be a list of names, not str"),
    ({"destinations": 5}, TypeError, "destinations: must be a list of names, not int"),
    ({"destinations": ["a", 5]}, TypeError, "destinations: must be a list of str, as in the rules, not int"),
    ({"name": 5}, TypeError, "name: must be a str"),
]


@pytest.mark.parametrize(("more", "kind", "message"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_argument_is_named(more: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        rule_filter([], **more)


def test_names_of_hints_are_text() -> None:
    with pytest.raises(TypeError, match="names: must be str"):
        hinted(5)  # type: ignore[arg-type]


# Many rules, and rules at random.


async def test_rules_for_other_types_are_not_even_asked() -> None:
    asked: list[str] = []

    class Spy(str):
        """A text that notes when it is compared."""

        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            asked.append(str(self))
            return str(self) == other

        __hash__ = str.__hash__

    rules = [
        rule(f"{at}", "block", Condition("type", "eq", f"t{at}"), Condition("subject", "eq", Spy(f"s{at}")))
        for at in range(1000)
    ]
    filtered = rule_filter([*rules, rule("any", "transform", set={"by": "any"}, priority=1, continue_=True)])
    inside = Inside()
    handler = wrap(inside, filtered)
    asked.clear()
    assert await settle(handler, new(type="t7", subject="x"))
    assert await settle(handler, new(type="none", subject="x"))
    assert await settle(handler, new(type="t7", subject="s7"))
    assert ({*asked}, len(inside.events)) == ({"s7"}, 2)


async def test_a_type_may_be_compared_with_what_is_no_text() -> None:
    rules = [rule("a", "block", Condition("type", "in", ["t", 7])), rule("b", "block", Condition("type", "eq", 8))]
    inside = Inside()
    handler = wrap(inside, rule_filter(rules))
    for kind in ("t", "7", "8", "9"):
        assert await settle(handler, new(type=kind))
    assert [event.type for event in inside.events] == ["9"]


async def test_types_that_no_rule_names_are_not_remembered() -> None:
    filtered = rule_filter([rule("a", "block", Condition("type", "eq", "t")), rule("b", "allow")])
    handler = wrap(Inside(), filtered)
    for at in range(2000):
        await handler(new(type=f"t{at}"))
    await handler(new(type="t"))
    gc.collect()
    assert [*filtered._plan._merged] == ["t"]


NODES = st.recursive(
    st.one_of(
        conditions(("x", "y", "data.x", "data.l[0]")),
        st.builds(Condition, st.just("type"), st.just("eq"), st.sampled_from("ab")),
        st.builds(Condition, st.just("type"), st.just("in"), st.lists(st.sampled_from("abc"), min_size=1)),
    ),
    lambda nodes: st.builds(
        lambda join, members: {join: members}, st.sampled_from(["all", "any"]), st.lists(nodes, min_size=1, max_size=3)
    ),
    max_leaves=4,
)
RULES = st.lists(st.tuples(st.lists(NODES, max_size=2), st.integers(0, 2)), max_size=6)
EVENTS = st.lists(
    st.builds(
        lambda kind, extensions, data: new(type=kind, data=data, **extensions),
        st.sampled_from("abcd"),
        st.dictionaries(st.sampled_from("xy"), st.one_of(st.integers(-12, 12), st.sampled_from(["5", "true", "ten"]))),
        st.fixed_dictionaries({}, optional={"x": st.integers(-12, 12), "l": st.lists(st.sampled_from(["5", 5, None]))}),
    ),
    max_size=4,
)


@given(RULES, EVENTS)
def test_the_rule_that_decides_is_the_one_that_a_plain_reading_finds(
    made: list[tuple[list[Any], int]], events: list[Event]
) -> None:
    """K-D5."""
    rules = [
        Rule(name=f"{at}", action="transform", when=nodes, priority=priority, set={"by": f"{at}"})
        for at, (nodes, priority) in enumerate(made)
    ]
    inside = Inside()
    filtered = rule_filter(rules, on_error="nack")
    handler = wrap(inside, filtered)
    for event in events:
        with pytest.raises(StopIteration):  # it has nothing to wait for, so that it needs no loop
            handler(event).send(None)  # type: ignore[attr-defined]
    decided = [event.get("by") for event in inside.events]
    assert decided == [first_rule(rules, event) for event in events]
    matched = {name: counts["matched"] for name, counts in filtered.statistics.items()}
    assert matched == {one.name: decided.count(one.name) for one in rules}


MODES: list[Literal["binary", "structured"]] = ["binary", "structured"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_rule_on_a_number_matches_an_event_that_came_in_http_headers(
    mode: Literal["binary", "structured"],
) -> None:
    """K-D5: what is a number when it is sent may be text when it arrives."""
    filtered = rule_filter([high("a", "block"), rule("b", "nack", Condition("flag", "eq", True))])
    inside = Inside()
    async with (
        Receiver(inside, filtered, port=0) as receiver,
        Sender(receiver.url, mode=mode, retry=RetryPolicy.none()) as sender,
    ):
        results = [await sender.send(new(**more)) for more in ({"level": 10}, {"level": 3}, {"flag": True})]
    assert [result.is_ack for result in results] == [True, True, False]
    assert len(inside.events) == 1
    assert filtered.counts == {"dropped": 1, "blocked": 1, "refused": 1}
