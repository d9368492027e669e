"""`race`: the first success wins, the others are cancelled and awaited."""

import asyncio
from typing import Any

import pytest

from cloudevents_kit import ACCEPTED, Ack, Event, Nack, Outcome, Reject, Retry, current_event, settle, wrap
from cloudevents_kit.stages import StageError, keep_if, race
from cloudevents_kit.stages._stage import fate
from tests.support.branches import BROKEN, DOWN, Seen, Slow, other_tasks
from tests.support.events import new
from tests.support.virtual import LoopClock, virtual


@virtual
async def test_the_first_success_wins_and_the_losers_have_ended_before_it_returns(clock: LoopClock) -> None:
    """K-P7: no task is left pending."""
    fast, slow, slower = Slow(1), Slow(2), Slow(3)
    assert await wrap(Seen().handler("next"), race(slow, fast, slower))(new()) is None
    assert clock.monotonic() == pytest.approx(1)
    assert (slow.ends, fast.ends, slower.ends) == (["cancelled"], ["done"], ["cancelled"])
    assert not other_tasks()


@virtual
async def test_a_loser_that_takes_its_time_to_end_is_awaited(clock: LoopClock) -> None:
    """K-P7."""

    async def stubborn(event: Event) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(5)

    assert await wrap(Seen().handler("next"), race(Slow(1), stubborn))(new()) is None
    assert clock.monotonic() == pytest.approx(6)
    assert not other_tasks()


@virtual
async def test_a_loser_that_fails_as_it_ends_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def bad_loser(event: Event) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise OSError("while it ended")

    assert await wrap(Seen().handler("next"), race(Slow(1), bad_loser))(new()) is None
    (record,) = caplog.records
    assert record.getMessage() == "stage race: a branch failed as it ended: id='1' source='/s' type='t'"
    assert "while it ended" in caplog.text


async def test_of_two_that_end_together_the_one_named_first_wins() -> None:
    seen = Seen()
    stage = race(seen.handler("a", ACCEPTED), seen.handler("b"))
    assert await wrap(seen.handler("next"), stage)(new()) is ACCEPTED
    assert seen == ["a", "b"]


@virtual
async def test_a_branch_that_fails_does_not_end_the_race_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """K-P9."""
    stage = race(Slow(0, OSError("down")), Slow(1, Reject()), Slow(2), Slow(3))
    assert await settle(wrap(Seen().handler("next"), stage), new())
    (record,) = caplog.records
    assert (record.levelname, stage.counts) == ("WARNING", {})
    assert "OSError: down" in caplog.text
    assert "Reject: rejected" in caplog.text


@virtual
async def test_when_all_fail_the_error_holds_every_cause() -> None:
    """K-P7: never a success."""
    stage = race(Slow(3, OSError("a")), Slow(1, Retry(after=3)), Seen().sink("c", DOWN))
    with pytest.raises(StageError) as caught:
        await wrap(Seen().handler("next"), stage)(new())
    assert caught.value.path == ("race",)
    group = caught.value.__cause__
    assert isinstance(group, ExceptionGroup)
    assert [str(error) for error in group.exceptions] == ["down", "try again later", "a"]
    assert stage.counts == {"failed": 1}


async def test_when_all_reject_the_event_is_not_to_be_sent_again() -> None:
    seen = Seen()
    stage = race(seen.failing("a", Reject("x")), seen.failing("b", Reject("y", 400)))
    assert await settle(wrap(seen.handler("next"), stage), new()) == Nack(status=422, reason="x")


@virtual
async def test_a_deadline_during_a_race_is_a_time_out_and_never_the_event() -> None:
    """K-P7."""
    branches = Slow(60), Slow(90)
    seen = Seen()
    handler = wrap(seen.handler("next"), race(*branches, seen.stage("c"), accept=lambda outcome: False))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await handler(new())
    assert [branch.ends for branch in branches] == [["cancelled"], ["cancelled"]]
    assert not other_tasks()


@virtual
async def test_fifty_races_of_which_half_are_cancelled_leave_nothing_behind() -> None:
    """K-P7."""
    fast, slow = Slow(10), Slow(20)
    handler = wrap(Seen().handler("next"), race(slow, fast))
    tasks = [asyncio.create_task(settle(handler, new(id=str(number)))) for number in range(50)]
    await asyncio.sleep(5)
    for task in tasks[::2]:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError, Ack] * 25
    assert slow.ends == ["cancelled"] * 50
    assert sorted(fast.ends) == ["cancelled"] * 25 + ["done"] * 25
    assert not other_tasks()


@virtual
async def test_a_second_cancellation_does_not_leave_branches_behind() -> None:
    async def stubborn(event: Event) -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(settle(wrap(Seen().handler("next"), race(stubborn)), new()))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not other_tasks()


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_outcome_must_be_accepted(is_async: bool) -> None:
    def accept(outcome: Outcome) -> bool:
        return outcome is ACCEPTED

    async def accept_later(outcome: Outcome) -> bool:
        return outcome is ACCEPTED

    seen = Seen()
    test = accept_later if is_async else accept
    stage = race(seen.handler("a"), seen.handler("b", ACCEPTED), accept=test)
    assert await wrap(seen.handler("next"), stage)(new()) is ACCEPTED
    with pytest.raises(StageError) as caught:
        await wrap(seen.handler("next"), race(seen.handler("a"), accept=test))(new())
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert [str(error) for error in caught.value.__cause__.exceptions] == ["the outcome was not accepted"]


@pytest.mark.parametrize("accept", BROKEN)
async def test_a_test_that_fails_makes_its_branch_fail(accept: Any, caplog: pytest.LogCaptureFixture) -> None:
    """K-P9: it is reported once, and not to the peer."""
    result = await settle(wrap(Seen().handler("next"), race(Seen().handler("a"), accept=accept)), new())
    assert result == Nack(status=500, reason="the handler failed", retryable=True)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "LookupError: secret" in caplog.text


async def test_a_branch_that_cancels_itself_has_failed() -> None:
    async def give_up(event: Event) -> None:
        raise asyncio.CancelledError

    seen = Seen()
    assert await settle(wrap(seen.handler("next"), race(give_up, seen.handler("b"))), new())
    result = await settle(wrap(seen.handler("next"), race(give_up)), new())
    assert result == Nack(status=500, reason="the handler failed", retryable=True)


async def test_a_stage_races_with_what_follows_it_and_all_know_their_event() -> None:
    found: list[Event | None] = []

    async def end(event: Event) -> None:
        found.append(current_event())

    seen = Seen()
    event = new()
    assert await settle(wrap(end, race(seen.stage("a"), seen.failing("b", OSError()))), event)
    assert (seen, found) == (["a", "b"], [event])


@virtual
async def test_only_the_winner_decides_what_became_of_the_event() -> None:
    drop = keep_if(lambda event: False)
    late = Slow(1)
    for branches, wanted in (([drop, late], ["dropped"]), ([late, drop], ["dropped"]), ([late], [])):
        noted: list[str] = []
        fate.set(noted)
        await wrap(Seen().handler("next"), race(*branches))(new())
        assert noted == wanted

    async def late_drop(event: Event) -> None:
        drop.note("dropped")
        await asyncio.sleep(5)

    noted = []
    fate.set(noted)
    await wrap(Seen().handler("next"), race(late_drop, late))(new())
    assert noted == []


def test_it_describes_itself() -> None:
    a, b = Seen().handler("a"), Seen().handler("b")
    stage = race(a, b, b)
    assert (stage.kind, stage.name, stage.branches) == ("race", "race", {"a": a, "b": b, "b 2": b})


any_race: Any = race  # takes anything, as far as types go


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (any_race, "branches: there must be at least one"),
        (lambda: any_race(1), "branch 1: must be a handler, a sink or a stage"),
        (lambda: any_race(print, accept=1), "accept: must be callable, not int"),
    ],
)
def test_a_wrong_argument_is_named(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()
