"""Sagas, doubts and deadlines: what may have happened is taken back, and what has not is not."""

import asyncio
import time
from typing import Any

import pytest

from cloudevents_kit import Event, HandlerSink, Reject, RetryPolicy, stages, wrap
from cloudevents_kit.saga import Context, InDoubt, Saga, Step, ask
from cloudevents_kit.stores.memory_journal import MemoryJournal
from tests.support.saga import EVENT, Shop, answer, over
from tests.support.virtual import LoopClock, virtual


@pytest.mark.parametrize("error", [TimeoutError(), InDoubt("who knows")])
@virtual
async def test_a_step_that_stays_in_doubt_is_compensated_as_well(clock: LoopClock, error: Exception) -> None:
    shop = Shop(pay=[error, OSError(), OSError()])
    async with shop.saga(clock) as saga:
        await saga(EVENT)
        await over(saga)
    assert shop.done == ["reserve", "pay_undo", "reserve_undo"]
    assert [one.in_doubt for one in shop.contexts] == [False, False, True, True, True, False]


@virtual
async def test_a_final_refusal_ends_a_doubt(clock: LoopClock) -> None:
    shop = Shop(pay=[TimeoutError(), Reject("that key was never seen")])
    async with shop.saga(clock) as saga:
        await saga(EVENT)
        await over(saga)
    assert shop.done == ["reserve", "reserve_undo"]


@virtual
async def test_a_step_that_takes_too_long_is_cancelled_and_in_doubt(clock: LoopClock) -> None:
    shop = Shop()
    shop.takes = 60
    async with shop.saga(clock, lease=60, retry=RetryPolicy.none()) as saga:
        await saga(EVENT)
        await asyncio.sleep(53)
        report: Any = await saga.find(saga.id_of(EVENT))
        assert report.status == "running"
        shop.takes = 0
        report = await over(saga)
    assert report.reason == "step reserve: TimeoutError (cut off by nine tenths of the lease of 60 s)"
    assert (report.status, shop.done) == ("compensated", ["reserve_undo"])


@virtual
async def test_a_step_that_is_cut_off_is_in_doubt_whatever_it_makes_of_that(clock: LoopClock) -> None:
    shop = Shop()

    async def stubborn(step: Context) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise OSError("the connection was closed") from None

    steps = [Step("pay", stubborn, shop.work("pay_undo"))]
    async with shop.saga(clock, lease=60, steps=steps, retry=RetryPolicy.none()) as saga:
        await saga(EVENT)
        report = await over(saga)
    cut = "(cut off by nine tenths of the lease of 60 s)"
    assert (report.reason, shop.done) == (f"step pay: OSError: the connection was closed {cut}", ["pay_undo"])


@virtual
async def test_a_step_that_calls_what_has_stages_is_in_doubt_when_the_time_of_one_is_up(clock: LoopClock) -> None:
    shop = Shop()
    handler = wrap(_slow, stages.timeout(1))

    async def pay(step: Context) -> None:
        await handler(step.event)

    steps = [Step("pay", pay, shop.work("pay_undo"))]
    async with shop.saga(clock, steps=steps, retry=RetryPolicy.none()) as saga:
        await saga(EVENT)
        await over(saga)
    assert shop.done == ["pay_undo"]


async def _slow(event: Event) -> None:
    await asyncio.sleep(10)


@virtual
async def test_a_doubt_among_several_errors_is_one(clock: LoopClock) -> None:
    shop = Shop(pay=[ExceptionGroup("two", [OSError(), ExceptionGroup("one", [TimeoutError()])])])
    async with shop.saga(clock, retry=RetryPolicy.none()) as saga:
        await saga(EVENT)
        await over(saga)
    assert shop.done == ["reserve", "pay_undo", "reserve_undo"]


@virtual
async def test_an_error_that_no_journal_can_keep_is_kept_as_well_as_can_be(clock: LoopClock) -> None:
    shop = Shop(pay=[FileNotFoundError("\udc80.txt"), Reject("x" * 10_000)])
    async with shop.saga(clock) as saga:
        await saga(EVENT)
        await asyncio.sleep(1)
        report: Any = await saga.find(saga.id_of(EVENT))
        assert report.errors == {"pay": r"FileNotFoundError: \udc80.txt"}
        assert 450 < len((await over(saga)).errors["pay"]) <= 500


@virtual
async def test_no_line_of_the_log_has_the_data(clock: LoopClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    shop = Shop(pay=[OSError(), Reject("no")], reserve_undo=[Reject("never")])

    async def full(event: Event, error: Exception) -> None:
        raise OSError("full")

    async with shop.saga(clock, dead_letter=full) as saga:
        await saga(EVENT.evolve(data={"password": "hunter2"}))
        await asyncio.sleep(100)
    assert "failed for good" in caplog.text
    assert "could not be handed over" in caplog.text
    assert "hunter2" not in caplog.text


@virtual
async def test_a_step_that_was_cancelled_from_within_is_in_doubt(clock: LoopClock) -> None:
    async def broken(step: Context) -> None:
        if step.attempt == 1:
            raise asyncio.CancelledError

    shop = Shop()
    async with shop.saga(clock, steps=[Step("a", broken)]) as saga:
        await saga(EVENT)
        assert (await over(saga)).status == "completed"
    assert saga.counts["retried"] == 1


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (float("nan"), "holds NaN or Infinity at data, which JSON cannot carry (use None, or text)"),
        ({"sizes": [{1, 2}]}, "holds a set at data.sizes[0] (sets have no order: use a list)"),
        ({1: "a"}, "has a key at data that is no string (members of a JSON object have names: use str(key))"),
    ],
)
@virtual
async def test_a_result_that_json_would_change_leaves_the_step_in_doubt(
    clock: LoopClock, result: object, error: str
) -> None:
    shop = Shop()

    async def run(step: Context) -> object:
        return result

    async with shop.saga(clock, steps=[Step("a", run, shop.work("a_undo"))]) as saga:
        await saga(EVENT)
        report = await over(saga)
    assert (report.status, shop.done, report.results) == ("compensated", ["a_undo"], {})
    assert report.reason == f"step a: InDoubt: the result of step a {error}"


@virtual
async def test_what_a_compensation_returns_does_not_matter(clock: LoopClock) -> None:
    shop = Shop()

    async def undo(step: Context) -> object:
        return object()

    async with shop.saga(clock, steps=[Step("a", shop.work("a"), undo), Step("b", rejects)]) as saga:
        await saga(EVENT)
        assert (await over(saga)).compensated == ("a",)


async def rejects(step: Context) -> None:
    raise Reject("no such address")


# What is told of it.


@virtual
async def test_the_log_tells_of_each_failure_the_saga_its_id_and_the_step(
    clock: LoopClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The event that started it was accepted, and refused by nobody."""
    caplog.set_level("INFO")
    shop = Shop(pay=[InDoubt("who\nknows"), Reject("no money")])
    async with shop.saga(clock) as saga:
        await saga(EVENT)
        id = (await over(saga)).id
    assert [record.getMessage() for record in caplog.records] == [
        f"saga order: pay is tried again in 10 s: {id}: InDoubt: who knows",
        f"saga order: pay failed for good: {id}: Reject: no money",
    ]


@virtual
async def test_what_a_service_refused_is_told_as_if_the_step_had(clock: LoopClock) -> None:
    steps = [Step("pay", ask(HandlerSink(no_money), lambda step: step.make(type="pay", source="/orders")))]
    async with Shop().saga(clock, steps=steps) as saga:
        await saga(EVENT)
        assert (await over(saga)).reason == "step pay: Reject: no money"


async def no_money(event: Event) -> None:
    raise Reject("no money")


@virtual
async def test_secrets_in_an_error_are_not_kept(clock: LoopClock) -> None:
    async with Shop(pay=[Reject("https://me:hunter2@bank/?token=hunter2")]).saga(clock, wait=True) as saga:
        answered = await answer(saga, EVENT)
        assert "hunter2" not in f"{answered} {await over(saga)}"


@virtual
async def test_a_result_that_is_no_json_leaves_the_step_in_doubt(clock: LoopClock) -> None:
    shop = Shop()

    async def run(step: Context) -> object:
        return object()

    steps = [Step("a", run, shop.work("a_undo"))]
    async with shop.saga(clock, steps=steps) as saga:
        await saga(EVENT)
        report = await over(saga)
    assert (report.status, shop.done) == ("compensated", ["a_undo"])
    assert report.errors["a"].startswith("InDoubt: the result of step a cannot be written as JSON")


# Deadlines.


@virtual
async def test_past_the_deadline_no_step_begins_and_what_was_done_is_compensated(clock: LoopClock) -> None:
    """K-D8.5."""
    shop = Shop(pay=[OSError()])
    async with shop.saga(clock, deadline=5) as saga:
        await saga(EVENT)
        report = await over(saga)
        assert 5 <= clock.monotonic() < 6  # not after the pause of 10 seconds
    assert report.reason == "step pay: OSError, then out of time: the deadline of 5 s passed"
    assert (report.status, shop.done) == ("compensated", ["reserve", "reserve_undo"])


@virtual
async def test_the_deadline_between_two_steps_and_in_the_middle_of_one(clock: LoopClock) -> None:
    shop = Shop()
    shop.takes = 4
    async with shop.saga(clock, deadline=4) as between, shop.saga(clock, deadline=6) as within:
        await between(EVENT)
        report = await over(between)
        cut = "TimeoutError (cut off by the deadline of 4 s)"
        assert (report.compensated, report.reason) == (("reserve",), f"step reserve: {cut}")
        shop.done.clear()
        await within(EVENT)
        report = await over(within)
    assert report.compensated == ("pay", "reserve")  # pay was cut off: it may have happened
    assert report.reason == "step pay: TimeoutError (cut off by the deadline of 6 s)"
    assert shop.done == ["reserve", "pay_undo", "reserve_undo"]


async def test_a_plain_function_is_not_left_running_beside_what_takes_it_back() -> None:
    """K-D8.5. A thread cannot be cancelled: the deadline waits for its end."""
    done: list[str] = []

    def pay(step: Context) -> None:
        time.sleep(0.2)
        done.append("pay")

    steps = [Step("pay", pay, lambda step: done.append("pay_undo")), Step("ship", lambda step: done.append("ship"))]
    async with Saga("order", steps, journal=MemoryJournal(), deadline=0.05, wait=True) as saga:
        assert (await answer(saga, EVENT)).reason == "this order was compensated: step ship: out of time"
        assert (await over(saga)).reason == "step ship: out of time: the deadline of 0.05 s passed"
    assert done == ["pay", "pay_undo"]


@virtual
async def test_a_deadline_does_not_undo_what_is_complete(clock: LoopClock) -> None:
    shop = Shop()
    async with shop.saga(clock, deadline=0.001) as saga:
        await saga(EVENT)
        assert (await over(saga)).status == "completed"
