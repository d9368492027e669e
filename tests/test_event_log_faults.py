"""Projections whose handlers or dead letters misbehave: nobody else pays for it, and the status tells the truth."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from cloudevents_kit import Event, Reject, RetryPolicy, stages
from cloudevents_kit.event_log import EventLog, Projection, current_record
from cloudevents_kit.stores.memory_event_log import MemoryEventLogStore
from tests.support.event_log import SOON, View, append, nothing
from tests.support.virtual import LoopClock, virtual


async def cancelled() -> None:
    """End as what awaits a task does that somebody else has cancelled."""
    task = asyncio.create_task(asyncio.sleep(99))
    task.cancel()
    await task


@virtual
async def test_a_handler_that_ends_as_if_cancelled_has_failed_and_is_tried_again(clock: LoopClock) -> None:
    view, times = View(), 2

    async def handler(event: Event) -> None:
        nonlocal times
        if event.id == "2" and times:
            times -= 1
            await cancelled()
        await view(event)

    async with EventLog(MemoryEventLogStore(clock=clock), Projection("view", handler, retry=SOON)) as log:
        await append(log, *"123")
        await asyncio.sleep(0.5)
        [status] = await log.status()
        assert "ended as if it had been cancelled" in str(status.error)
        await asyncio.wait_for(log.reached("view"), 60)
    assert view.got == [*"123"]


@virtual
async def test_an_inline_handler_that_ends_as_if_cancelled_fails_the_append(clock: LoopClock) -> None:
    async def handler(event: Event) -> None:
        await cancelled()

    log = EventLog(MemoryEventLogStore(clock=clock), Projection("view", handler, delivery="inline"))
    with pytest.raises(RuntimeError, match="the handler ended as if it had been cancelled"):
        await append(log, "1")
    assert await log.find() == 0


@virtual
async def test_an_append_that_is_cancelled_while_an_inline_handler_runs_is_cancelled(clock: LoopClock) -> None:
    async def handler(event: Event) -> None:
        await asyncio.sleep(3)

    log = EventLog(MemoryEventLogStore(clock=clock), Projection("view", handler, delivery="inline"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(append(log, "1"), 1)
    assert await log.find() == 0
    await append(log, "1")


@pytest.mark.parametrize("how", ["hangs", "is cancelled"])
def test_dead_letters_that_do_not_answer_are_asked_again(how: str, caplog: pytest.LogCaptureFixture) -> None:
    @virtual
    async def test(clock: LoopClock) -> None:
        view, dead, store = View(_1=99), [], MemoryEventLogStore(clock=clock)
        view.error = Reject("never")

        async def keep(event: Event, error: Exception) -> None:
            dead.append(event.id)
            if len(dead) < 3:
                await (asyncio.sleep(9999) if how == "hangs" else cancelled())

        policy = RetryPolicy(initial=1, max_delay=1, jitter=False)
        projection = Projection("view", view, retry=policy, dead_letter=keep, lease=20)
        async with EventLog(store, projection) as log:
            await append(log, "1", "2")
            for _ in range(25):
                await asyncio.sleep(1)
                if len(dead) < 3:
                    assert await store.checkpoints.lease("view", "thief", 20) is None
            await log.reached("view")
        assert (dead, view.got) == (["1", "1", "1"], ["2"])
        assert projection.counts == {
            "handled": 1,
            "failed": 3,
            "dead_lettered": 1,
            "dead_letter_failed": 2,
            "store_failed": 0,
        }

    test()
    assert caplog.text.count("could not be handed over") == 2


@virtual
async def test_who_waits_says_until_when_and_can_be_told_to_go_on(
    clock: LoopClock, caplog: pytest.LogCaptureFixture
) -> None:
    view, store = View(_1=3), MemoryEventLogStore(clock=clock)
    policy = RetryPolicy(attempts=2, initial=5, max_delay=300, jitter=False)
    log, other = (EventLog(store, Projection("view", view, retry=policy, lease=60)) for _ in range(2))
    async with log, other:
        assert not log.retry("view")
        await append(log, "1")
        await asyncio.sleep(1)
        [status] = await log.status()
        assert (status.attempts, status.retry_in) == (1, pytest.approx(4, abs=0.1))
        await asyncio.sleep(9)
        [status] = await log.status()
        assert (status.attempts, status.retry_in) == (2, pytest.approx(295, abs=0.1))
        assert "projection view: stands before id='1' source='/s' type='t' at position 1, tried again in 300 s" in (
            caplog.text
        )
        [status] = await other.status()  # which does not know
        assert (status.waiting, status.error, status.attempts, status.retry_in) == (1, None, 0, 0.0)
        assert not other.retry("view")
        await append(log, "2")  # does not
        await asyncio.sleep(1)
        assert len(view.times) == 2
        assert log.retry("view")
        await asyncio.sleep(1)
        [status] = await log.status()
        assert (status.attempts, status.retry_in) == (3, pytest.approx(299, abs=0.1))
        assert log.retry("view")
        await log.reached("view")
        [status] = await log.status()
        assert (status.error, status.attempts, status.retry_in) == (None, 0, 0.0)
        assert not log.retry("view")
    assert not log.retry("view")
    assert (view.got, view.times) == (["1", "2"], pytest.approx([0, 5, 11, 12, 12], abs=0.1))
    with pytest.raises(ValueError, match="no projection of this log is called 'other'"):
        log.retry("other")


@virtual
async def test_closing_ends_dead_letters_that_hang(clock: LoopClock) -> None:
    async def hang(event: Event, error: Exception) -> None:
        await asyncio.sleep(9999)

    view = View(_1=99)
    view.error = Reject("never")
    log = EventLog(MemoryEventLogStore(clock=clock), Projection("view", view, dead_letter=hang), grace=3)
    await append(log, "1")
    async with log:
        await asyncio.sleep(1)
    assert clock.monotonic() == 4
    assert [one.position for one in await log.status()] == [0]


@virtual
async def test_who_has_lost_the_lease_makes_no_dead_letter(clock: LoopClock) -> None:
    store, dead = MemoryEventLogStore(clock=clock), []

    async def stall(event: Event) -> None:  # as a process that was stopped for a while
        store.checkpoints["view"].token = "other"
        store.checkpoints["view"].until = clock.monotonic() + 50
        log._workers["view"]._leased -= 99
        raise Reject

    projection = Projection("view", stall, dead_letter=lambda event, _: dead.append(event.id))
    async with EventLog(store, projection) as log:
        await append(log, "1")
        await asyncio.sleep(20)
        [status] = await log.status()
        assert (dead, status.here, status.position) == ([], False, 0)
        await store.checkpoints.advance("view", "other", 0, 1, None)
        [status] = await log.status()
        assert (status.position, status.error, status.attempts) == (1, None, 0)


@pytest.mark.parametrize("transaction", [True, False])
def test_a_batch_of_who_has_lost_the_lease_moves_nothing(transaction: bool) -> None:
    @virtual
    async def test(clock: LoopClock) -> None:
        store = MemoryEventLogStore(clock=clock)

        async def stall(event: Event) -> None:
            log._workers["view"]._leased -= 99

        projection = Projection("view", stall, transaction=transaction, batch=1)
        async with EventLog(store, projection) as log:
            await append(log, "1")
            await log.reached("view")
            store.checkpoints["view"].token = "other"
            store.checkpoints["view"].until = clock.monotonic() + 50
            log._workers["view"]._leased += 99  # it does not know
            await append(log, "2")
            await asyncio.sleep(5)
            [status] = await log.status()
            assert (status.here, status.position) == (False, 1)
            assert projection.counts["handled"] == (1 if transaction else 2)  # what was done outside is done

    test()


@virtual
async def test_a_lease_that_is_lost_while_an_event_waits_for_its_next_attempt_ends_the_waiting(
    clock: LoopClock,
) -> None:
    store, view = MemoryEventLogStore(clock=clock), View(_1=1)
    policy = RetryPolicy(initial=100, max_delay=100, jitter=False)
    async with EventLog(store, Projection("view", view, retry=policy, lease=10)) as log:
        await append(log, "1", "2")
        await asyncio.sleep(1)
        store.checkpoints["view"].token = "other"
        store.checkpoints["view"].until = clock.monotonic() + 20
        assert await store.checkpoints.advance("view", "other", 0, 1, None)
        await log.reached("view")
    assert view.got == ["2"]
    assert clock.monotonic() < 30


@virtual
async def test_a_rebuild_stops_the_batch_that_is_being_handled(clock: LoopClock) -> None:
    view = View()

    async def slow(event: Event) -> None:
        await asyncio.sleep(1)
        await view(event)

    projection = Projection("view", slow, reset=lambda _: view.got.clear())
    async with EventLog(MemoryEventLogStore(clock=clock), projection) as log:
        await append(log, *"12345")
        await asyncio.sleep(2.5)
        await log.rebuild("view")
        assert (view.got, clock.monotonic()) == ([], 3.0)
        await log.reached("view")
    assert view.got == [*"12345"]


@virtual
async def test_a_rebuild_begins_at_once_also_before_a_first_event_that_fails(clock: LoopClock) -> None:
    view = View(_1=1)
    policy = RetryPolicy(initial=100, max_delay=100, jitter=False)
    projection = Projection("view", view, retry=policy, reset=nothing)
    async with EventLog(MemoryEventLogStore(clock=clock), projection) as log:
        await append(log, *"12")
        await asyncio.sleep(1)
        await log.rebuild("view")
        await log.reached("view")
        assert clock.monotonic() < 2


@virtual
async def test_a_rebuild_counts_also_if_the_store_answers_the_worker_late(clock: LoopClock) -> None:
    """The answer to a move, or to a lease, is of before the reset, and comes after it."""
    view, store = View(), MemoryEventLogStore(clock=clock)
    marks, advance = store.checkpoints, store.checkpoints.advance

    async def late(*given: Any) -> bool:
        done = await advance(*given)
        await asyncio.sleep(5)
        return done

    marks.advance = late  # type: ignore[method-assign]
    async with EventLog(store, Projection("view", view, transaction=True, lease=10_000, reset=nothing)) as log:
        await append(log, *"12")
        await asyncio.sleep(1)
        await log.rebuild("view")
        await asyncio.sleep(20)
    assert view.got == [*"1212"]


@virtual
async def test_an_upcast_that_drops_events_is_told_and_no_view_goes_on_without_them(clock: LoopClock) -> None:
    view, store, drop = View(), MemoryEventLogStore(clock=clock), stages.keep_if(lambda event: event.id != "2")
    async with EventLog(store, Projection("view", view, retry=SOON), upcast=drop) as log:
        await append(log, *"123")
        await asyncio.sleep(1)
        [status] = await log.status()
        assert (view.got, status.position, str(status.error)) == (["1"], 1, "upcast: must pass on every event")


# Time.


@pytest.mark.parametrize("delivery", ["inline", "background"])
def test_a_handler_that_is_cut_off_is_told_as_such(delivery: Any) -> None:
    @virtual
    async def test(clock: LoopClock) -> None:
        async def hang(event: Event) -> None:
            await asyncio.sleep(999)

        async with EventLog(MemoryEventLogStore(clock=clock), Projection("view", hang, delivery=delivery)) as log:
            if delivery == "inline":
                with pytest.raises(TimeoutError, match="the handler was cut off after 5 s"):
                    await append(log, "1")
            else:
                await append(log, "1")
                await asyncio.sleep(31)
                assert "the handler was cut off after 30 s" in str((await log.status())[0].error)

    test()


@virtual
async def test_a_batch_that_is_too_slow_for_one_transaction_is_made_smaller_and_nothing_has_failed(
    clock: LoopClock,
) -> None:
    got: list[int] = []

    async def slow(event: Event) -> None:
        await asyncio.sleep(3)
        got.append(current_record().position)

    projection = Projection("view", slow, transaction=True, lease=20, batch=100, retry=SOON)
    log = EventLog(MemoryEventLogStore(clock=clock), projection)
    await append(log, *(f"{number}" for number in range(20)))
    async with log:
        await log.reached("view")
    assert projection.counts == {
        "handled": 20,
        "failed": 0,
        "dead_lettered": 0,
        "dead_letter_failed": 0,
        "store_failed": 0,
    }
    assert sorted({*got}) == [*range(1, 21)]


# What makes no sense.


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda log: log.read_all(until=-1), "until: must be 0 or more"),
        (lambda log: log.read_all(until="5"), "until: must be a whole number"),
        (lambda log: log.reached("view", "5"), "position: must be a whole number"),
        (lambda log: log.find("today"), "before: must be a datetime"),
        (lambda log: EventLog(log._store, grace=-1), "grace: must be finite and not negative"),
    ],
)
async def test_what_makes_no_sense_is_said_by_name(call: Callable[[EventLog], Any], told: str) -> None:
    log = EventLog(MemoryEventLogStore(), Projection("view", View()))
    with pytest.raises((TypeError, ValueError), match=told):
        await call(log)


async def test_an_empty_log_can_be_replayed_up_to_its_end() -> None:
    log = EventLog(MemoryEventLogStore())
    report = await log.replay(View(), until=await log.find())
    assert (report.handled, report.position) == (0, 0)
