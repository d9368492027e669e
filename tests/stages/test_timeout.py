"""The stage that limits time."""

import asyncio
from typing import Any

import pytest

from cloudevents_kit import Event, Nack, Outcome, Reject, RetryPolicy, settle, stages, wrap
from cloudevents_kit._deadline import Deadlines, Expired
from cloudevents_kit._errors import StageError
from tests.support.events import new
from tests.support.virtual import LoopClock, virtual


def sleeping(seconds: float, ended: list[str] | None = None) -> Any:
    async def handler(event: Event) -> Outcome:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            if ended is not None:
                ended.append("cancelled")
            raise
        return event.evolve(id="reply")

    return handler


@virtual
async def test_what_takes_too_long_is_cancelled(clock: LoopClock) -> None:
    """K-P3."""
    ended: list[str] = []
    guard = stages.timeout(0.05, name="quick")
    with pytest.raises(StageError) as caught:
        await wrap(sleeping(10, ended), guard)(new())
    error = caught.value
    assert (error.kind, error.path, error.attempts) == ("timeout", ("quick",), 1)
    assert error.elapsed == pytest.approx(0.05, abs=0.01)
    assert isinstance(error.__cause__, TimeoutError)
    assert clock.monotonic() == pytest.approx(0.05, abs=0.001)
    assert (ended, dict(guard.counts)) == (["cancelled"], {"timed_out": 1})
    task: Any = asyncio.current_task()
    assert task.cancelling() == 0


async def test_in_real_time_it_is_no_different() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(StageError) as caught:
        await wrap(sleeping(10), stages.timeout(0.05))(new())
    assert 0.05 <= loop.time() - began < 2
    assert 0.05 <= caught.value.elapsed < 2


@virtual
async def test_the_answer_is_503_to_be_sent_again() -> None:
    result = await settle(wrap(sleeping(10), stages.timeout(1)), new())
    assert result == Nack(status=503, reason="the handler ran out of time", retryable=True)


@pytest.mark.parametrize("steps", [1, 5])
@virtual
async def test_success_at_the_very_end_is_success(clock: LoopClock, steps: int) -> None:
    """K-P3: also if it takes the loop some more turns to come through."""

    async def handler(event: Event) -> Outcome:
        async def deeper(left: int) -> None:
            if left:
                return await asyncio.create_task(deeper(left - 1))
            return await asyncio.sleep(0.5)

        await deeper(steps)
        return event.evolve(id="reply")

    reply = await wrap(handler, stages.timeout(0.5))(new())
    assert isinstance(reply, Event)
    assert clock.monotonic() == pytest.approx(0.5)


@virtual
async def test_a_result_that_came_before_a_loop_that_was_held_up_is_in_time() -> None:
    loop: Any = asyncio.get_running_loop()
    loop.call_later(0.1, lambda: setattr(loop._virtual, "passed", 1.0))  # something blocks for most of a second
    assert await wrap(sleeping(0.4), stages.timeout(0.5))(new()) is not None


@virtual
async def test_what_never_waits_needs_no_timer() -> None:
    async def handler(event: Event) -> None:
        assert not limit._deadlines._running

    limit: Any = stages.timeout(1)
    assert await wrap(handler, limit)(new()) is None


@virtual
async def test_a_timeout_error_of_the_handler_is_its_own(clock: LoopClock) -> None:
    own = TimeoutError("mine")

    async def handler(event: Event) -> None:
        await asyncio.sleep(0.1)
        raise own

    async def with_a_limit(event: Event) -> None:
        async with asyncio.timeout(0.1):
            await asyncio.sleep(1)

    guard = stages.timeout(5)
    with pytest.raises(TimeoutError) as caught:
        await wrap(handler, guard)(new())
    assert caught.value is own
    with pytest.raises(TimeoutError):
        await wrap(with_a_limit, guard)(new())
    assert not guard.counts


@virtual
async def test_a_verdict_passes_unchanged() -> None:
    verdict = Reject()

    async def handler(event: Event) -> None:
        await asyncio.sleep(0)
        raise verdict

    with pytest.raises(Reject) as caught:
        await wrap(handler, stages.timeout(5))(new())
    assert caught.value is verdict


@pytest.mark.parametrize(("outer", "inner", "path"), [(1, 2, ("outer",)), (2, 1, ("outer", "inner"))])
@virtual
async def test_the_shorter_of_two_limits_counts(clock: LoopClock, outer: float, inner: float, path: Any) -> None:
    chain = [stages.timeout(outer, name="outer"), stages.timeout(inner, name="inner")]
    with pytest.raises(StageError) as caught:
        await wrap(sleeping(10), *chain)(new())
    assert caught.value.path == path
    assert clock.monotonic() == pytest.approx(1, abs=0.001)
    assert chain[1].counts == ({"timed_out": 1} if len(path) == 2 else {})


@virtual
async def test_of_two_equal_limits_the_outer_one_is_told(clock: LoopClock) -> None:
    chain = [stages.timeout(1, name="outer"), stages.timeout(1, name="inner")]
    with pytest.raises(StageError):
        await wrap(sleeping(10), *chain)(new())
    task: Any = asyncio.current_task()
    assert task.cancelling() == 0
    await asyncio.sleep(1)


@virtual
async def test_one_stage_may_stand_in_a_chain_twice(clock: LoopClock) -> None:
    guard = stages.timeout(1)
    with pytest.raises(StageError):
        await wrap(sleeping(10), guard, guard)(new())
    assert await wrap(sleeping(0.5), guard, guard)(new()) is not None
    assert clock.monotonic() == pytest.approx(1.5, abs=0.001)


@pytest.mark.parametrize("guard", [stages.timeout(5), stages.retry(RetryPolicy.none())], ids=repr)
@virtual
async def test_the_end_of_somebody_elses_limit_is_not_its_own(guard: stages.Stage) -> None:
    others = Deadlines(1)

    async def handler(event: Event) -> None:
        with others:
            await asyncio.sleep(10)

    with pytest.raises(Expired) as caught:
        await wrap(handler, guard)(new())
    assert caught.value.deadlines is others
    assert str(caught.value) == "out of time after 1.000 s"
    assert not guard.counts


@virtual
async def test_cancellation_from_outside_is_no_timeout(clock: LoopClock) -> None:
    """Also when it comes in the same turn of the loop."""
    guard = stages.timeout(1)
    for after in (0.5, 1.0 + 1e-6):
        ended: list[str] = []
        tasks = [asyncio.ensure_future(wrap(sleeping(10, ended), guard)(new())) for _ in range(50)]
        await asyncio.sleep(after)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(end) for end in ends} == {asyncio.CancelledError}
        assert ended == ["cancelled"] * 50


@virtual
async def test_many_events_have_each_their_own_time(clock: LoopClock) -> None:
    guard = stages.timeout(1)

    async def one(number: int) -> bool:
        await asyncio.sleep(number / 10)
        try:
            return await wrap(sleeping(0.9 if number % 2 else 1.1), guard)(new()) is not None
        except StageError:
            return False

    assert await asyncio.gather(*[one(number) for number in range(50)]) == [bool(n % 2) for n in range(50)]
    assert guard.counts["timed_out"] == 25


@virtual
async def test_a_handler_that_answers_although_it_was_cancelled_has_answered() -> None:
    async def handler(event: Event) -> Outcome:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            return event.evolve(id="saved")
        return None

    assert isinstance(await wrap(handler, stages.timeout(1))(new()), Event)


@virtual
async def test_any_awaitable_will_do() -> None:
    def later(event: Event) -> Any:
        return asyncio.ensure_future(sleeping(seconds)(event))

    later.is_async_handler = True  # type: ignore[attr-defined]
    seconds = 0.5
    assert await wrap(later, stages.timeout(1))(new()) is not None
    seconds = 2.0
    with pytest.raises(StageError):
        await wrap(later, stages.timeout(1))(new())


def test_the_limit_must_be_above_0_and_is_told() -> None:
    assert stages.timeout(3).parameters == {"seconds": 3}
    for wrong in (0, -1, float("inf")):
        with pytest.raises(ValueError, match="seconds"):
            stages.timeout(wrong)
    with pytest.raises(TypeError, match="seconds"):
        stages.timeout("3")  # type: ignore[arg-type]
