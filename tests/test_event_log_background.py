"""Projections in the background: checkpoints, leases, retries, dead letters, lag; in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cloudevents_kit import Event, HandlerSink, Nack, Reject, Retry, RetryPolicy
from cloudevents_kit.event_log import (
    EventLog,
    Lag,
    Projection,
    age,
    all_of,
    any_of,
    count,
)
from cloudevents_kit.stores import StoreError
from cloudevents_kit.stores.memory_event_log import MemoryEventLogStore
from tests.support.event_log import SOON, View, append, nothing
from tests.support.virtual import LoopClock, virtual

# In the background.


@virtual
async def test_a_restart_continues_at_the_checkpoint_and_nothing_is_lost_or_comes_twice(clock: LoopClock) -> None:
    """K-D9.2: nothing is lost, nothing comes twice."""
    view = View()
    store = MemoryEventLogStore(clock=clock)
    log = EventLog(store, Projection("view", view, batch=3))
    await append(log, *"12345")
    async with log:
        await log.reached("view")
        await append(log, *"67")
        await log.reached("view", 7)
    await append(log, *"89")
    async with EventLog(store, Projection("view", view)) as again:
        await again.reached("view")
    assert view.got == [*"123456789"]
    assert [(one.name, one.position, one.waiting) for one in await log.status()] == [("view", 9, 0)]


@virtual
async def test_two_processes_take_turns_and_one_that_dies_is_followed_when_its_lease_ends(clock: LoopClock) -> None:
    store = MemoryEventLogStore(clock=clock)
    first, second = View(), View()
    one = EventLog(store, Projection("view", first, lease=30, poll=1))
    async with EventLog(store, Projection("view", second, lease=30, poll=1)) as two:
        async with one:
            await append(one, "1")
            await one.reached("view")
            [here], [there] = await one.status(), await two.status()
            assert here.here != there.here
        await append(one, "2")
        await two.reached("view")
        assert clock.monotonic() < 5  # given back: nobody waits for the lease
    assert sorted(first.got + second.got) == ["1", "2"]
    await store.checkpoints.lease("view", "dead", 30)
    await append(one, "3")
    began = clock.monotonic()
    async with one:
        await one.reached("view")
    assert 29 <= clock.monotonic() - began <= 32


@virtual
async def test_an_event_that_fails_is_tried_again_and_those_behind_it_wait(clock: LoopClock) -> None:
    view = View(_2=3)
    policy = RetryPolicy(attempts=9, initial=1.0, jitter=False)
    log = EventLog(MemoryEventLogStore(clock=clock), Projection("view", view, retry=policy))
    await append(log, *"123")
    async with log:
        await asyncio.sleep(2)
        [status] = await log.status()
        assert (status.position, status.waiting, status.attempts, status.here) == (1, 2, 2, True)
        assert isinstance(status.error, OSError)
        assert status.oldest >= 2
        await log.reached("view")
        [status] = await log.status()
        assert (status.error, status.attempts, status.oldest) == (None, 0, 0.0)
    assert view.got == [*"123"]
    assert [round(time) for time in view.times] == [0, 0, 1, 3, 7, 7]


@virtual
async def test_after_its_last_attempt_an_event_goes_to_the_dead_letters_and_the_others_go_on(clock: LoopClock) -> None:
    view, dead = View(_2=99), []
    projection = Projection("view", view, retry=SOON, dead_letter=lambda event, error: dead.append((event.id, error)))
    async with EventLog(MemoryEventLogStore(clock=clock), projection) as log:
        await append(log, *"123")
        await log.reached("view")
    assert view.got == ["1", "3"]
    assert dead == [("2", view.error)]
    assert clock.monotonic() >= 3


@virtual
async def test_attempts_are_those_of_one_event(clock: LoopClock) -> None:
    view, dead = View(_1=2, _2=2), []
    projection = Projection("view", view, retry=SOON, dead_letter=lambda event, _: dead.append(event.id))
    async with EventLog(MemoryEventLogStore(clock=clock), projection) as log:
        await append(log, *"12")
        await log.reached("view")
    assert (view.got, dead) == (["1", "2"], [])


@virtual
async def test_the_lease_is_kept_while_an_event_waits_for_its_next_attempt(clock: LoopClock) -> None:
    view, store = View(_1=1), MemoryEventLogStore(clock=clock)
    policy = RetryPolicy(initial=60, max_delay=60, jitter=False)
    async with EventLog(store, Projection("view", view, retry=policy, lease=10)) as log:
        await append(log, "1")
        for _ in range(50):
            await asyncio.sleep(1)
            assert await store.checkpoints.lease("view", "thief", 10) is None
        await log.reached("view")
    assert [round(time) for time in view.times] == [0, 60]


@virtual
async def test_what_this_process_appends_comes_at_once_and_what_others_do_at_the_next_look(clock: LoopClock) -> None:
    view, store = View(), MemoryEventLogStore(clock=clock)
    async with EventLog(store, Projection("view", view, poll=30)) as log:
        await asyncio.sleep(1)
        await append(log, "1")
        await log.reached("view")
        assert clock.monotonic() < 1.5
        await append(EventLog(store), "2")
        await log.reached("view")
        assert 30 < clock.monotonic() < 32
    assert view.got == ["1", "2"]


@virtual
async def test_what_no_further_attempt_can_help_is_a_dead_letter_at_once(clock: LoopClock) -> None:
    view, dead = View(_1=99), []

    async def keep(event: Event, error: Exception) -> None:
        dead.append(event.id)

    view.error = Reject("never")
    async with EventLog(
        MemoryEventLogStore(clock=clock), Projection("view", view, retry=SOON, dead_letter=keep)
    ) as log:
        await append(log, *"12")
        await log.reached("view")
    assert (dead, view.got, len(view.times)) == (["1"], ["2"], 2)
    assert clock.monotonic() < 1


@virtual
async def test_a_handler_may_say_when_to_come_again(clock: LoopClock) -> None:
    view = View(_1=1)
    view.error = Retry(after=20)
    async with EventLog(MemoryEventLogStore(clock=clock), Projection("view", view, retry=SOON)) as log:
        await append(log, "1")
        await log.reached("view")
    assert [round(time) for time in view.times] == [0, 20]


@pytest.mark.parametrize("broken", ["none", "raises", "refuses", "sink"])
def test_without_dead_letters_or_if_they_fail_it_is_tried_for_ever(
    broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: Event, error: Exception) -> Nack:
        if broken == "raises":
            raise OSError("full")
        return Nack(503, "full")

    async def refuse(event: Event) -> None:
        raise OSError("full")

    takers: dict[str, Any] = {"none": None, "sink": HandlerSink(refuse)}

    @virtual
    async def test(clock: LoopClock) -> None:
        view = View(_1=5)
        policy = RetryPolicy(attempts=2, initial=1, max_delay=10, jitter=False)
        projection = Projection("view", view, retry=policy, dead_letter=takers.get(broken, fail))
        async with EventLog(MemoryEventLogStore(clock=clock), projection) as log:
            await append(log, "1")
            await log.reached("view")
        assert [round(time) for time in view.times] == [0, 1, 11, 21, 31, 41]

    test()
    assert ("stands before" if broken == "none" else "could not be handed over") in caplog.text


@virtual
async def test_a_handler_has_half_the_lease_and_a_lease_is_kept_while_others_wait(clock: LoopClock) -> None:
    store = MemoryEventLogStore(clock=clock)
    tries: list[float] = []

    async def slow(event: Event) -> None:
        tries.append(clock.monotonic())
        await asyncio.sleep(9 if event.id != "hang" or len(tries) > 4 else 99)

    async with EventLog(store, Projection("view", slow, lease=20, retry=SOON)) as log:
        await append(log, "1", "2", "3", "hang")
        for _ in range(40):
            await asyncio.sleep(1)
            assert await store.checkpoints.lease("view", "thief", 20) is None
        await log.reached("view")
    assert tries == [0, 9, 18, 27, 38]


class Flaky(MemoryEventLogStore):
    """Fails when it is told to."""

    failing = 0

    async def read(self, stream: str | None, after: int, most: int, /) -> Any:
        if self.failing:
            self.failing -= 1
            raise StoreError("gone")
        return await super().read(stream, after, most)


def test_a_store_that_fails_delays_and_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    @virtual
    async def test(clock: LoopClock) -> None:
        view, store = View(), Flaky(clock=clock)
        store.failing = 3
        async with EventLog(store, Projection("view", view)) as log:
            await append(log, "1")
            await log.reached("view")
            assert log._projections["view"].counts == {
                "handled": 1,
                "failed": 0,
                "dead_lettered": 0,
                "dead_letter_failed": 0,
                "store_failed": 3,
            }
        assert view.got == ["1"]

    test()
    assert caplog.text.count("projection view: the event log failed") == 3


@virtual
async def test_what_was_handled_but_not_saved_is_saved_later_and_not_handled_again(clock: LoopClock) -> None:
    view, store = View(), MemoryEventLogStore(clock=clock)
    marks, failed = store.checkpoints, [StoreError("gone")] * 2
    advance = marks.advance

    async def flaky(*given: Any) -> bool:
        if failed:
            raise failed.pop()
        return await advance(*given)

    marks.advance = flaky  # type: ignore[method-assign]
    async with EventLog(store, Projection("view", view)) as log:
        await append(log, *"12")
        await log.reached("view")
    assert view.got == [*"12"]


@virtual
async def test_a_transaction_that_the_store_fails_to_make_is_no_failure_of_the_handler(clock: LoopClock) -> None:
    view, store = View(), MemoryEventLogStore(clock=clock)
    marks, failed = store.checkpoints, [StoreError("gone")] * 2
    advance = marks.advance

    async def flaky(*given: Any) -> bool:
        if failed:
            raise failed.pop()
        return await advance(*given)

    marks.advance = flaky  # type: ignore[method-assign]
    async with EventLog(store, Projection("view", view, transaction=True)) as log:
        await append(log, *"12")
        await log.reached("view")
        assert log._projections["view"].counts == {
            "handled": 2,
            "failed": 0,
            "dead_lettered": 0,
            "dead_letter_failed": 0,
            "store_failed": 2,
        }
    assert view.got == [*"12"]


@virtual
async def test_a_rebuild_while_an_event_is_handled_begins_again_after_it(clock: LoopClock) -> None:
    view = View()

    async def slow(event: Event) -> None:
        await asyncio.sleep(5)
        await view(event)

    async with EventLog(MemoryEventLogStore(clock=clock), Projection("view", slow, reset=nothing)) as log:
        await append(log, *"12")
        await asyncio.sleep(7)
        await log.rebuild("view")
        await log.reached("view")
    assert view.got == [*"1212"]
    assert clock.monotonic() < 25


@virtual
async def test_closing_lets_a_handler_end_and_cuts_one_that_does_not(clock: LoopClock) -> None:
    store, got = MemoryEventLogStore(clock=clock), []

    async def slow(event: Event) -> None:
        await asyncio.sleep(5 if event.id == "1" else 500)
        got.append(event.id)

    log = EventLog(store, Projection("view", slow, lease=10_000), grace=10)
    await append(log, *"123")
    async with log:
        await asyncio.sleep(1)
    assert (got, clock.monotonic()) == (["1"], 5)
    async with log:
        await asyncio.sleep(1)
    assert clock.monotonic() == 16
    assert [one.position for one in await log.status()] == [1]
    assert await store.checkpoints.lease("view", "next", 1) == 1


@virtual
async def test_what_was_done_when_a_handler_is_cut_off_is_remembered(clock: LoopClock) -> None:
    view, store = View(), MemoryEventLogStore(clock=clock)

    async def hang(event: Event) -> None:
        await view(event)
        await asyncio.sleep(0 if event.id == "1" else 999)

    log = EventLog(store, Projection("view", hang, lease=10_000), grace=0)
    await append(log, *"12")
    async with log:
        await asyncio.sleep(1)
    assert [one.position for one in await log.status()] == [1]


# Lag.


def test_conditions_are_of_count_and_age_and_can_be_joined() -> None:
    """K-D9.3: any_of and all_of."""
    many, old = count(3), age(10.0)
    for lag, hold in (
        (Lag(2, 9.9), (False, False, False, False)),
        (Lag(3, 9.9), (True, False, True, False)),
        (Lag(1, 10.0), (False, True, True, False)),
        (Lag(3, 10.0), (True, True, True, True)),
        (Lag(0, 10.0), (False, False, False, False)),
    ):
        conditions = many, old, any_of(many, old), all_of(many, old)
        assert tuple(condition(lag) for condition in conditions) == hold
    assert any_of(all_of(count(1), age(1)), count(9))(Lag(1, 1.0))
    for make, told in (
        (lambda: count(0), "least: must be 1 or more"),
        (lambda: age(0), "seconds: must be above 0"),
        (any_of, "conditions: must be at least one"),
        (lambda: all_of(5), "conditions: must be callable"),  # type: ignore[arg-type]
    ):
        with pytest.raises((TypeError, ValueError), match=told):
            make()


@virtual
async def test_a_condition_fires_also_for_fewer_events_than_a_batch(clock: LoopClock) -> None:
    """K-D9.3: three of a hundred by count, and a single one by age."""
    view = View()
    projection = Projection("view", view, when=any_of(count(3), age(10)), batch=100, poll=1)
    async with EventLog(MemoryEventLogStore(clock=clock), projection) as log:
        await append(log, "1")
        await asyncio.sleep(2)
        await append(log, "2")
        await asyncio.sleep(2)
        assert view.got == []
        await append(log, "3")
        await log.reached("view")
        assert clock.monotonic() < 5
        await append(log, "4")
        began = clock.monotonic()
        await log.reached("view")
        assert 10 <= clock.monotonic() - began <= 12
    assert view.got == [*"1234"]


@virtual
async def test_all_of_fires_when_both_hold_and_hands_over_all_that_waits_in_batches(clock: LoopClock) -> None:
    """K-D9.3: enough of them, and old enough."""
    view = View()
    store = MemoryEventLogStore(clock=clock)
    async with EventLog(store, Projection("view", view, when=all_of(count(5), age(10)), batch=2, poll=1)) as log:
        await append(log, *"123")
        await asyncio.sleep(20)
        assert view.got == []
        await append(log, *"45678")
        await log.reached("view")
        assert clock.monotonic() < 22
    assert view.got == [*"12345678"]
