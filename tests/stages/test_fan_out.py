"""`fan_out`: a result per branch, and never a success that hides a failure."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from cloudevents_kit import (
    ACCEPTED,
    Ack,
    DeliveryError,
    Event,
    Nack,
    Receiver,
    Reject,
    Result,
    Retry,
    RetryPolicy,
    Sender,
    Undelivered,
    current_event,
    settle,
    wrap,
)
from cloudevents_kit._errors import Refusal
from cloudevents_kit.stages import Branch, Quorum, fan_out, keep_if, quorum
from cloudevents_kit.stages._stage import fate
from tests.support.branches import BROKEN, DOWN, SECRET, Seen, Slow, other_tasks
from tests.support.events import new
from tests.support.virtual import LoopClock, virtual

LIMITS = pytest.mark.parametrize("limit", [1, 2, None])


class Reports(list[tuple[Event, Mapping[str, Result]]]):
    def __call__(self, event: Event, results: Mapping[str, Result]) -> None:
        self.append((event, results))


@LIMITS
async def test_every_branch_has_its_result_and_the_event_goes_on(limit: int | None) -> None:
    seen, reports = Seen(), Reports()
    reply = new(id="2")
    stage = fan_out(
        {"a": seen.handler("a", reply), "b": seen.sink("b"), "c": seen.stage("c"), "d": seen.handler("d", ACCEPTED)},
        limit=limit,
        report=reports,
    )
    event = new()
    assert await settle(wrap(seen.handler("next"), stage), event) == Ack()
    assert sorted(seen[:4]) == ["a", "b", "c", "d"]
    assert seen[4:] == ["next"]
    assert reports == [(event, {"a": Ack(status=200, reply=reply), "b": Ack(), "c": Ack(), "d": Ack(status=202)})]
    assert stage.counts == {}


async def test_a_branch_that_is_gone_does_not_close_the_receiver() -> None:
    seen = Seen()
    stage = fan_out({"a": seen.handler("a"), "b": seen.failing("b", Reject("retired", 410))})
    assert await settle(wrap(seen.handler("next"), stage), new()) == Nack(
        status=422, reason="1 of 2 branches failed: b (410)"
    )


@LIMITS
async def test_with_policy_all_one_failure_refuses_the_event_with_a_result_per_branch(limit: int | None) -> None:
    """K-C6: the others have run, and the failed ones are named."""
    seen, reports = Seen(), Reports()
    stage = fan_out(
        {"a": seen.handler("a"), "b": seen.sink("b", DOWN), "c": seen.handler("c")}, limit=limit, report=reports
    )
    event = new()
    with pytest.raises(Refusal) as caught:
        await wrap(seen.handler("next"), stage)(event)
    assert sorted(seen) == ["a", "b", "c"]
    error = caught.value
    assert (error.status, error.retryable, error.after) == (503, True, 7.0)
    assert error.reason == "1 of 3 branches failed: b (503)"
    group = error.__cause__
    assert isinstance(group, ExceptionGroup)
    (cause,) = group.exceptions
    assert isinstance(cause, DeliveryError)
    assert (cause.result, str(cause)) == (DOWN, "b: nack 503: down")
    assert reports == [(event, {"a": Ack(), "b": DOWN, "c": Ack()})]
    assert stage.counts == {"failed.b": 1, "refused": 1}


async def test_over_the_wire_the_failure_of_a_branch_is_a_nack() -> None:
    """K-C6."""
    seen = Seen()
    stage = fan_out({"a": seen.handler("a"), "b": seen.sink("b", Undelivered(reason="refused"))})
    async with (
        Receiver(seen.handler("next"), stage, port=0) as receiver,
        Sender(receiver.url, retry=RetryPolicy.none()) as sender,
    ):
        result = await sender.send(new())
    assert isinstance(result, Nack)
    assert (result.status, result.reason) == (502, "1 of 2 branches failed: b (502)")


@pytest.mark.parametrize(("count", "goes_on"), [(1, True), (2, True), (3, False)])
async def test_a_quorum_is_enough(count: int, goes_on: bool, caplog: pytest.LogCaptureFixture) -> None:
    """K-C6: and even then the failure is named."""
    seen, reports = Seen(), Reports()
    branches: dict[str, Branch] = {"a": seen.handler("a"), "b": seen.sink("b", DOWN), "c": seen.handler("c")}
    stage = fan_out(branches, policy=quorum(count), report=reports)
    assert (await settle(wrap(seen.handler("next"), stage), new())).is_ack is goes_on
    assert ("next" in seen) is goes_on
    assert reports[0][1]["b"] == DOWN
    assert ("went on without b (503)" in caplog.text) is goes_on


async def test_best_effort_goes_on_and_names_what_failed(caplog: pytest.LogCaptureFixture) -> None:
    """K-C6, K-P7: a failure is logged, counted and reported, if all fail, too."""
    seen, reports = Seen(), Reports()
    stage = fan_out(
        {"a": seen.failing("a", OSError(SECRET)), "b": seen.failing("b", Reject())},
        policy="best_effort",
        report=reports,
    )
    assert await settle(wrap(seen.handler("next"), stage), new())
    assert seen[-1] == "next"
    assert {name: result.outcome for name, result in reports[0][1].items()} == {"a": "nack", "b": "nack"}
    assert stage.counts == {"failed.a": 1, "failed.b": 1}
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["stage fan_out: went on without a (500), b (422): id='1' source='/s' type='t'"]


@pytest.mark.parametrize(
    ("errors", "status", "retryable", "after"),
    [
        ((Reject(), Reject("no", 400)), 422, False, None),
        ((Reject(), OSError()), 500, True, None),
        ((Retry(after=3), Retry(after=9, status=429), Reject("no", 499)), 503, True, 9.0),
        ((Retry(after=3), OSError(), Retry(status=504)), 504, True, 3.0),
        ((TimeoutError(), Reject()), 503, True, None),
    ],
)
async def test_the_worst_answer_of_a_branch_is_that_of_all(
    errors: tuple[Exception, ...], status: int, retryable: bool, after: float | None
) -> None:
    branches = {str(number): Seen().failing("x", error) for number, error in enumerate(errors)}
    result = await settle(wrap(Seen().handler("next"), fan_out(branches)), new())
    assert isinstance(result, Nack)
    assert (result.status, result.retryable, result.retry_after) == (status, retryable, after)


@pytest.mark.parametrize(("limit", "seconds"), [(1, 10), (2, 5), (3, 4), (10, 1), (None, 1)])
@virtual
async def test_no_more_than_the_limit_run_at_once(clock: LoopClock, limit: int | None, seconds: float) -> None:
    """K-C6: limit 2 and 10 branches."""
    slow = Slow(1)
    await wrap(Seen().handler("next"), fan_out({str(number): slow for number in range(10)}, limit=limit))(new())
    assert (slow.most, len(slow.ended)) == (limit or 10, 10)
    assert clock.monotonic() == pytest.approx(seconds)


async def test_one_by_one_needs_no_task() -> None:
    tasks = set[asyncio.Task[Any] | None]()

    async def look(event: Event) -> None:
        tasks.add(asyncio.current_task())

    await wrap(look, fan_out({"a": look, "b": look}, limit=1))(new())
    assert tasks == {asyncio.current_task()}


@LIMITS
async def test_branches_know_their_event_and_so_does_what_follows(limit: int | None) -> None:
    found: list[Event | None] = []

    async def look(event: Event) -> None:
        found.append(current_event())

    event = new()
    await settle(wrap(look, fan_out({"a": look, "b": look}, limit=limit)), event)
    assert found == [event] * 3


@LIMITS
async def test_what_becomes_of_the_event_in_a_branch_is_not_what_becomes_of_it(limit: int | None) -> None:
    noted: list[str] = []
    fate.set(noted)
    drop, late = keep_if(lambda event: False), keep_if(lambda event: False)
    await wrap(Seen().handler("next"), fan_out({"a": drop, "b": drop}, limit=limit), late)(new())
    assert (noted, drop.counts) == (["dropped"], {"dropped": 2})


@LIMITS
@virtual
async def test_fifty_events_of_which_half_are_cancelled_leave_nothing_behind(limit: int | None) -> None:
    """K-C6: cancelled branches have ended before the cancellation goes on."""
    first, second = Slow(10), Slow(10, OSError())
    stage = fan_out({"a": first, "b": second}, limit=limit, policy="best_effort")
    seen = Seen()
    handler = wrap(seen.handler("next"), stage)
    tasks = [asyncio.create_task(settle(handler, new(id=str(number)))) for number in range(50)]
    await asyncio.sleep(5)
    for task in tasks[::2]:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError, Ack] * 25
    assert sorted(first.ends) == ["cancelled"] * 25 + ["done"] * 25
    assert second.ends.count("failed") == 25
    assert (len(seen), stage.counts) == (25, {"failed.b": 25})
    assert not other_tasks()


@virtual
async def test_a_time_limit_around_it_is_a_time_out() -> None:
    """K-P7: never a success."""
    slow = Slow(60)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await wrap(Seen().handler("next"), fan_out({"a": slow, "b": slow}, policy="best_effort"))(new())
    assert slow.ends == ["cancelled"] * 2
    assert not other_tasks()


@virtual
async def test_a_branch_that_was_cancelled_by_somebody_else_has_failed() -> None:
    tasks: list[asyncio.Task[Any] | None] = []

    async def run(event: Event) -> None:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(1)

    async def cancel(event: Event) -> None:
        await asyncio.sleep(0.5)
        for task in tasks:
            assert task is not None
            task.cancel()

    result = await settle(wrap(Seen().handler("next"), fan_out({"a": cancel, "b": run}, limit=2)), new())
    assert result == Nack(status=500, reason="1 of 2 branches failed: b (500)", retryable=True)


async def stray(event: Event) -> None:
    """End as if cancelled."""
    task = asyncio.create_task(asyncio.sleep(10))
    await asyncio.sleep(0)
    task.cancel()
    await task


@pytest.mark.parametrize("names", [("stray", "slow"), ("slow", "stray"), ("stray", "stray 2", "slow")], ids=repr)
@LIMITS
@virtual
async def test_a_branch_that_ends_as_if_cancelled_has_failed_and_harms_no_other(
    limit: int | None, names: tuple[str, ...]
) -> None:
    slow, seen, reports = Slow(5), Seen(), Reports()
    branches: dict[str, Branch] = {name: slow if name == "slow" else stray for name in names}
    stage = fan_out(branches, limit=limit, policy="best_effort", report=reports)
    assert await settle(wrap(seen.handler("next"), stage), new())
    assert (slow.ends, seen) == (["done"], ["next"])
    ((_, results),) = reports
    cut_off = Nack(status=500, reason="the branch was cancelled", retryable=True)
    assert results == {name: Ack() if name == "slow" else cut_off for name in names}
    assert not other_tasks()


async def test_a_report_cannot_change_the_results() -> None:
    def report(event: Event, results: Any) -> None:
        results.clear()

    stage = fan_out({"a": Seen().failing("a", OSError())}, report=report)
    assert isinstance(await settle(wrap(Seen().handler("next"), stage), new()), Nack)
    assert stage.counts == {"failed.a": 1, "report_failed": 1, "refused": 1}


@pytest.mark.parametrize("report", BROKEN)
@pytest.mark.parametrize("policy", ["all", "best_effort"])
async def test_a_report_that_fails_changes_nothing(report: Any, policy: Any, caplog: pytest.LogCaptureFixture) -> None:
    """K-P9: it is logged once, with its traceback."""
    seen = Seen()
    stage = fan_out({"a": seen.handler("a")}, policy=policy, report=report)
    assert await settle(wrap(seen.handler("next"), stage), new())
    (record,) = caplog.records
    assert (record.levelname, stage.counts) == ("ERROR", {"report_failed": 1})
    assert f"LookupError: {SECRET}" in caplog.text


async def test_an_async_report_is_awaited() -> None:
    seen = Seen()

    async def report(event: Event, results: Mapping[str, Result]) -> None:
        await asyncio.sleep(0)
        seen.append("report")

    await wrap(seen.handler("next"), fan_out({"a": seen.handler("a")}, report=report))(new())
    assert seen == ["a", "report", "next"]


async def test_a_broken_branch_is_reported_once_and_not_to_the_peer(caplog: pytest.LogCaptureFixture) -> None:
    """K-P9."""
    stage = fan_out({"a": Seen().failing("a", OSError(SECRET))})
    result = await settle(wrap(Seen().handler("next"), stage), new())
    assert result == Nack(status=500, reason="1 of 1 branches failed: a (500)", retryable=True)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_it_describes_itself() -> None:
    a, b = Seen().handler("a"), Seen().sink("b")
    stage = fan_out({"a": a, "b": b}, policy=quorum(1), limit=10, name="x")
    assert (stage.kind, stage.name, stage.branches) == ("fan_out", "x", {"a": a, "b": b})
    assert dict(stage.parameters) == {"policy": "quorum(1)", "limit": 2}
    assert dict(fan_out({"a": a}).parameters) == {"policy": "all", "limit": 1}
    assert quorum(2) == Quorum(2)


any_fan_out: Any = fan_out  # takes anything, as far as types go


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: any_fan_out({}), "branches: there must be at least one"),
        (lambda: any_fan_out([print]), "branches: must be a dict of branches by name, not list"),
        (lambda: any_fan_out({1: print}), "branches: must be named with a str, not int"),
        (lambda: any_fan_out({"a": 1}), r"branches\['a'\]: must be a handler, a sink or a stage"),
        (lambda: any_fan_out({"a": print}, policy="some"), "policy: must be 'all', 'best_effort' or quorum"),
        (lambda: any_fan_out({"a": print}, policy=quorum(2)), r"policy: quorum\(2\) cannot be reached by 1 branches"),
        (lambda: quorum(0), "count: must be 1 or more, not 0"),
        (lambda: any_fan_out({"a": print}, limit=0), "limit: must be 1 or more, not 0"),
        (lambda: any_fan_out({"a": print}, report=1), "report: must be callable, not int"),
    ],
)
def test_a_wrong_argument_is_named(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()
