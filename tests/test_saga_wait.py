"""Steps that raise `Wait`: run again later, which is no failure and leaves no doubt."""

import asyncio
from typing import Any

import pytest

from cloudevents_kit import Reject, RetryPolicy
from cloudevents_kit.saga import Context, InDoubt, Step, Wait
from tests.support.events import new
from tests.support.saga import EVENT, Shop, over
from tests.support.virtual import LoopClock, virtual


class Polls:
    """A step that waits ``times`` times, or for ever, and notes when and how it was run."""

    def __init__(self, clock: LoopClock, times: float = float("inf"), **wait: Any) -> None:
        self.clock, self.times, self.wait = clock, times, wait
        self.runs: list[tuple[float, int, bool, bool]] = []

    async def __call__(self, step: Context) -> int:
        self.runs.append((round(self.clock.monotonic()), step.attempt, step.in_doubt, step.woken))
        if len(self.runs) <= self.times:
            raise Wait(10, **self.wait)
        return len(self.runs)


@virtual
async def test_a_step_may_wait_as_often_as_it_likes_and_that_is_no_attempt(clock: LoopClock) -> None:
    shop, polls = Shop(), Polls(clock, times=20)
    async with shop.saga(clock, steps=[Step("poll", polls, shop.work("undo"))]) as saga:
        await saga(EVENT)
        report = await over(saga)
    assert (report.status, report.results, report.errors) == ("completed", {"poll": 21}, {})
    assert polls.runs == [(10 * number, 1, False, False) for number in range(21)]


@pytest.mark.parametrize("in_doubt", [False, True])
@virtual
async def test_the_deadline_ends_it_and_only_a_step_that_says_so_is_in_doubt(clock: LoopClock, in_doubt: bool) -> None:
    shop, polls = Shop(), Polls(clock, in_doubt=in_doubt)
    async with shop.saga(clock, steps=[Step("poll", polls, shop.work("undo"))], deadline=95) as saga:
        await saga(EVENT)
        report = await over(saga)
    assert (report.status, report.reason) == ("compensated", "step poll: out of time: the deadline of 95 s passed")
    assert (len(polls.runs), shop.done) == (10, ["undo"] if in_doubt else [])
    assert {run[2] for run in polls.runs[1:]} == {in_doubt}


@virtual
async def test_what_failed_before_and_after_a_wait_counts_and_the_wait_itself_does_not(clock: LoopClock) -> None:
    """Neither do its seconds, of those that a policy allows."""
    runs: list[int] = []
    ends = [OSError(), Wait(500), OSError(), Wait(500), Wait(500), OSError("the third")]

    async def run(step: Context) -> None:
        runs.append(step.attempt)
        raise ends.pop(0)

    policy = RetryPolicy(attempts=3, initial=10, factor=1, jitter=False, deadline=60)
    async with Shop().saga(clock, steps=[Step("a", run)], retry=policy) as saga:
        await saga(EVENT)
        report = await over(saga)
    assert (report.reason, runs) == ("step a: OSError: the third", [1, 2, 2, 3, 3, 3])


@virtual
async def test_a_doubt_from_before_a_wait_stays(clock: LoopClock) -> None:
    shop = Shop(pay=[InDoubt(), Wait(10), OSError(), OSError()])
    async with shop.saga(clock) as saga:
        await saga(EVENT)
        await over(saga)
    assert shop.done == ["reserve", "pay_undo", "reserve_undo"]


@virtual
async def test_an_event_wakes_it_and_then_it_waits_as_long_as_it_says(clock: LoopClock) -> None:
    polls = Polls(clock, times=3)
    async with Shop().saga(clock, steps=[Step("poll", polls)], key=lambda _: "7") as saga:
        await saga(EVENT)
        await asyncio.sleep(14)
        await saga.deliver(new(id="wakes"))
        await over(saga)
    assert polls.runs == [(0, 1, False, False), (10, 1, False, False), (14, 1, False, True), (24, 1, False, False)]


@virtual
async def test_a_compensation_may_wait_too_whatever_the_deadline(clock: LoopClock) -> None:
    shop, polls = Shop(ship=[Reject()]), Polls(clock, times=20)
    steps = [Step("pay", shop.work("pay"), polls), shop.step("ship")]
    async with shop.saga(clock, steps=steps, deadline=15) as saga:
        await saga(EVENT)
        assert (await over(saga)).status == "compensated"
    assert len(polls.runs) == 21


@pytest.mark.parametrize("given", [{"seconds": 0}, {"seconds": "1"}, {"seconds": 1, "in_doubt": "yes"}])
def test_a_wait_that_makes_no_sense_cannot_be_raised(given: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^(seconds|in_doubt): "):
        Wait(**given)


@pytest.mark.parametrize("after", [-1, "1"])
def test_nor_can_a_doubt(after: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^after: "):
        InDoubt(after=after)
