"""The stage that hands an event on again."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from cloudevents_kit import (
    ACCEPTED,
    Ack,
    Event,
    Nack,
    Outcome,
    Reject,
    Retry,
    RetryPolicy,
    current_event,
    settle,
    stages,
    wrap,
)
from cloudevents_kit._errors import StageError
from tests.support.events import new
from tests.support.virtual import LoopClock, virtual

STEADY = RetryPolicy(attempts=4, initial=0.1, factor=2, max_delay=0.3, jitter=False)


class Script:
    """A handler that raises what it is told, one after the other, then returns."""

    def __init__(self, *ends: BaseException | Outcome, takes: float = 0.0) -> None:
        self.ends = list(ends)
        self.takes = takes
        self.times: list[float] = []
        self.running = 0

    async def __call__(self, event: Event) -> Outcome:
        assert current_event() in {event, None}
        assert self.running == 0, "two executions at once"
        self.running += 1
        try:
            self.times.append(round(asyncio.get_running_loop().time(), 6))
            if self.takes:
                await asyncio.sleep(self.takes)
            if not self.ends:
                return None
            if isinstance(self.ends[0], BaseException):
                raise self.ends.pop(0)  # type: ignore[misc]
            return self.ends.pop(0)  # type: ignore[return-value]
        finally:
            self.running -= 1


def always(make: Callable[[], Exception], times: int = 10) -> list[Exception]:
    return [make() for _ in range(times)]


@pytest.mark.parametrize("outcome", [None, ACCEPTED, new(id="reply")])
async def test_what_succeeds_at_once_is_handed_on_once(outcome: Outcome) -> None:
    handler = Script(outcome)
    guard = stages.retry()
    assert await wrap(handler, guard)(new()) is outcome
    assert (len(handler.times), dict(guard.counts)) == (1, {})


@pytest.mark.parametrize("outcome", [None, ACCEPTED, new(id="reply")])
@virtual
async def test_what_succeeds_later_gives_its_own_outcome(clock: LoopClock, outcome: Outcome) -> None:
    """K-C3: refused, then taken."""
    handler = Script(ConnectionRefusedError(), outcome)
    guard = stages.retry(STEADY, clock=clock)
    assert await wrap(handler, guard)(new()) is outcome
    assert (handler.times, dict(guard.counts)) == ([0, 0.1], {"retried": 1})


@virtual
async def test_the_waits_grow_up_to_their_bound_and_none_follows_the_last_attempt(clock: LoopClock) -> None:
    """K-C3: 4 attempts with gaps of 0.1, 0.2 and 0.3 s."""
    handler = Script(*always(lambda: Retry(reason="busy")))
    guard = stages.retry(STEADY, clock=clock)
    result = await settle(wrap(handler, guard), new())
    assert handler.times == [0, 0.1, 0.3, 0.6]
    assert clock.monotonic() == pytest.approx(0.6)
    assert result == Nack(status=503, reason="busy", retryable=True)
    assert guard.counts == {"retried": 3, "exhausted": 1}


@virtual
async def test_what_it_raises_in_the_end_tells_the_attempts_and_comes_from_the_last_error(clock: LoopClock) -> None:
    errors = always(lambda: ConnectionError("no"), 4)
    inner = stages.stage(lambda event, call_next: call_next(event), name="inner")
    with pytest.raises(StageError) as caught:
        await wrap(Script(*errors), stages.retry(STEADY, clock=clock, name="again"), inner)(new())
    error = caught.value
    assert (error.kind, error.attempts, error.path, error.key) == ("exhausted", 4, ("again",), new().key)
    assert error.elapsed == pytest.approx(0.6, abs=0.1)
    assert error.__cause__ is errors[-1]


@virtual
async def test_the_cause_is_not_the_error_of_a_stage_further_in(clock: LoopClock) -> None:
    cause = ValueError("broken")

    def fail(event: Event) -> None:
        raise cause

    chain = [stages.retry(STEADY, clock=clock), stages.tap(fail)]
    with pytest.raises(StageError) as caught:
        await wrap(Script(), *chain)(new())
    assert (caught.value.path, caught.value.__cause__) == (("retry", "fail"), cause)


@pytest.mark.parametrize("status", [400, 410, 413, 415, 422])
async def test_what_is_final_passes_at_once(status: int) -> None:
    """K-C3: one attempt only."""
    verdict = Reject("no", status)
    handler = Script(verdict)
    with pytest.raises(Reject) as caught:
        await wrap(handler, stages.retry(STEADY))(new())
    assert caught.value is verdict
    assert len(handler.times) == 1


@virtual
async def test_what_is_final_after_another_error_passes_unchanged(clock: LoopClock) -> None:
    verdict = Reject("no")
    guard = stages.retry(STEADY, clock=clock)
    with pytest.raises(Reject) as caught:
        await wrap(Script(OSError(), verdict), guard)(new())
    assert caught.value is verdict
    assert guard.counts == {"retried": 1}


@virtual
async def test_the_policy_says_which_statuses_are_worth_it(clock: LoopClock) -> None:
    policy = RetryPolicy(statuses=frozenset({429}), jitter=False)
    handler = Script(Retry(status=409))
    with pytest.raises(Retry):
        await wrap(handler, stages.retry(policy, clock=clock))(new())
    again = Script(Retry(status=429))
    assert await wrap(again, stages.retry(policy, clock=clock))(new()) is None
    assert (len(handler.times), len(again.times)) == (1, 2)


@pytest.mark.parametrize("policy", [RetryPolicy.none(), RetryPolicy(attempts=1, deadline=None)])
async def test_one_attempt_passes_everything_through(policy: RetryPolicy) -> None:
    error = OSError()
    with pytest.raises(OSError) as caught:
        await wrap(Script(error), stages.retry(policy))(new())
    assert caught.value is error


@virtual
async def test_jitter_stays_within_the_bound_and_a_seed_repeats_it(clock: LoopClock) -> None:
    """K-C3."""
    seen = []
    for _ in range(2):
        handler = Script(*always(OSError))
        policy = RetryPolicy(attempts=4, initial=0.1, factor=2, max_delay=0.3, seed=7)
        began = clock.monotonic()
        with pytest.raises(StageError):
            await wrap(handler, stages.retry(policy, clock=clock))(new())
        gaps = [round(b - a, 5) for a, b in zip(handler.times, handler.times[1:], strict=False)]
        assert handler.times[0] == pytest.approx(began, abs=1e-5)
        assert all(0 <= gap <= bound for gap, bound in zip(gaps, [0.1, 0.2, 0.3], strict=True))
        seen.append(gaps)
    assert seen[0] == seen[1]


@virtual
async def test_retry_after_is_obeyed(clock: LoopClock) -> None:
    """K-C3."""
    handler = Script(Retry(after=2, status=429))
    assert await wrap(handler, stages.retry(STEADY, clock=clock))(new()) is None
    assert handler.times == [0, 2]


@virtual
async def test_retry_after_beyond_the_deadline_ends_it_at_once_and_is_told(clock: LoopClock) -> None:
    """K-C3."""
    handler = Script(Retry(after=20), takes=3)
    policy = RetryPolicy(deadline=22, jitter=False)  # 3 seconds are gone already
    result = await settle(wrap(handler, stages.retry(policy, clock=clock)), new())
    assert isinstance(result, Nack)
    assert result.retry_after == 20
    assert clock.monotonic() == pytest.approx(3)


@virtual
async def test_the_time_of_every_attempt_counts_towards_the_deadline(clock: LoopClock) -> None:
    handler = Script(OSError(), Retry(after=20), takes=3)
    policy = RetryPolicy(initial=1, deadline=25, jitter=False)
    with pytest.raises(StageError) as caught:
        await wrap(handler, stages.retry(policy, clock=clock))(new())
    assert (caught.value.kind, caught.value.attempts, clock.monotonic()) == ("exhausted", 2, 7)


@virtual
async def test_a_wait_that_the_dice_make_too_long_is_not_begun(clock: LoopClock) -> None:
    policy = RetryPolicy(initial=100, max_delay=100, deadline=1, seed=1)
    error = OSError()
    with pytest.raises(OSError) as caught:
        await wrap(Script(error), stages.retry(policy, clock=clock))(new())
    assert (caught.value, clock.monotonic()) == (error, 0)


@virtual
async def test_the_deadline_holds_over_everything_and_cuts_an_attempt_short(clock: LoopClock) -> None:
    handler = Script(*always(OSError), takes=4)
    policy = RetryPolicy(initial=1, factor=1, deadline=12, jitter=False)
    guard = stages.retry(policy, clock=clock)
    with pytest.raises(StageError) as caught:
        await wrap(handler, guard)(new())
    assert handler.times == [0, 5, 10]
    assert clock.monotonic() == pytest.approx(12)
    assert (caught.value.kind, caught.value.attempts) == ("timeout", 3)
    assert caught.value.elapsed == pytest.approx(12, abs=0.1)
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert handler.running == 0
    assert guard.counts == {"retried": 2, "timed_out": 1}


@virtual
async def test_without_a_deadline_it_goes_on_to_the_last_attempt(clock: LoopClock) -> None:
    handler = Script(*always(OSError), takes=1000)
    with pytest.raises(StageError) as caught:
        await wrap(handler, stages.retry(RetryPolicy(attempts=3, deadline=None), clock=clock))(new())
    assert (caught.value.kind, caught.value.attempts) == ("exhausted", 3)


@virtual
async def test_the_deadline_of_a_stage_further_in_is_not_its_own(clock: LoopClock) -> None:
    inner = stages.retry(RetryPolicy(attempts=1, deadline=1), clock=clock, name="inner")
    handler = Script(takes=5)
    with pytest.raises(StageError) as caught:
        await wrap(handler, stages.retry(STEADY, clock=clock, name="outer"), inner)(new())
    assert (caught.value.path, caught.value.kind, caught.value.attempts) == (("outer", "inner"), "exhausted", 4)
    assert inner.counts == {"timed_out": 4}


@virtual
async def test_a_timeout_inside_never_leaves_two_executions_at_once(clock: LoopClock) -> None:
    """K-P3: what was given up is cancelled, and has ended, before the next attempt begins."""
    ended: list[float] = []

    async def slow_to_end(event: Event) -> None:
        assert len(ended) == len(started)
        started.append(clock.monotonic())
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.5)  # its cleaning up takes time
            ended.append(clock.monotonic())

    started: list[float] = []
    policy = RetryPolicy(attempts=3, initial=0, jitter=False)
    with pytest.raises(StageError) as caught:
        await wrap(slow_to_end, stages.retry(policy, clock=clock), stages.timeout(1))(new())
    assert started == pytest.approx([0, 1.5, 3.0], abs=0.001)
    assert ended == pytest.approx([1.5, 3.0, 4.5], abs=0.001)
    assert caught.value.path == ("retry", "timeout")


@pytest.mark.parametrize("moment", ["in the first attempt", "in a wait", "in a later attempt"])
@virtual
async def test_cancellation_leaves_at_once_and_nothing_else_runs(clock: LoopClock, moment: str) -> None:
    handlers = [Script(*always(OSError), takes=1.0) for _ in range(50)]
    policy = RetryPolicy(initial=10, jitter=False, deadline=1000)
    guard = stages.retry(policy, clock=clock)
    tasks = [asyncio.create_task(_run(wrap(handler, guard)(new()))) for handler in handlers]
    after, attempts = {"in the first attempt": (0.5, 1), "in a wait": (5, 1), "in a later attempt": (11.5, 2)}[moment]
    await asyncio.sleep(after)
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends)
    assert clock.monotonic() == after
    await asyncio.sleep(100)
    assert {len(handler.times) for handler in handlers} == {attempts}
    assert "exhausted" not in guard.counts


async def _run(work: Any) -> Any:
    return await work


@virtual
async def test_many_events_are_retried_at_once_each_on_its_own(clock: LoopClock) -> None:
    handlers = [Script(*always(OSError, number % 4)) for number in range(50)]
    guard = stages.retry(STEADY, clock=clock)
    outcomes = await asyncio.gather(*[wrap(handler, guard)(new()) for handler in handlers])
    assert outcomes == [None] * 50
    assert [len(handler.times) for handler in handlers] == [number % 4 + 1 for number in range(50)]


@virtual
async def test_errors_are_let_go_of(clock: LoopClock) -> None:
    class Heavy(OSError):
        pass

    def fail() -> weakref.ref[Exception]:
        error = Heavy()
        handler.ends.append(error)
        return weakref.ref(error)

    handler = Script()
    guarded = wrap(handler, stages.retry(STEADY, clock=clock))
    gc.disable()  # nothing refers to itself
    try:
        gone = fail()
        assert await guarded(new()) is None
        assert gone() is None
    finally:
        gc.enable()


def test_it_describes_its_policy() -> None:
    assert stages.retry(STEADY).parameters == {
        "attempts": 4, "initial": 0.1, "factor": 2, "max_delay": 0.3, "deadline": 60.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"policy": 3}, "policy: must be a RetryPolicy, not int"), ({"clock": 3}, "clock: must be a Clock, not int")],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        stages.retry(**arguments)


def test_a_policy_that_makes_no_sense_cannot_be_built() -> None:
    """K-C3."""
    with pytest.raises(ValueError, match="attempts"):
        stages.retry(RetryPolicy(attempts=0))
    with pytest.raises(ValueError, match="factor"):
        stages.retry(RetryPolicy(factor=0.5))


async def test_settled_it_is_an_ack() -> None:
    assert await settle(wrap(Script(), stages.retry()), new()) == Ack()
