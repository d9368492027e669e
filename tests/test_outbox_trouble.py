"""The relay when the store is slow, or the destination dead: it always gets on, and never in a frenzy."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cloudevents_kit import Ack, Attempt, Event, Nack, Result, RetryPolicy, Undelivered
from cloudevents_kit.dead_letter import DeadLetter, keeper
from cloudevents_kit.outbox import Outbox
from cloudevents_kit.stores import open_store
from cloudevents_kit.stores.memory_outbox import MemoryOutboxStore
from tests.support.events import new

Found = Sequence[tuple[str, Event, int, str | None]]
AWAY = Nack(status=503, retryable=True)
FAILED = Nack(status=500, retryable=True)


class Sink:
    """Answers whatever ``answer`` is at the moment."""

    concurrency = 8

    def __init__(self, answer: Result, seconds: float = 0.0) -> None:
        self.answer, self.seconds = answer, seconds
        self.got: list[str] = []
        self.times: list[float] = []
        self.active = self.most_active = 0

    async def send(self, event: Event) -> Result:
        self.got.append(event.id)
        self.times.append(asyncio.get_running_loop().time())
        self.active += 1
        self.most_active = max(self.active, self.most_active)
        await asyncio.sleep(self.seconds)
        self.active -= 1
        return self.answer

    async def send_batch(self, events: Sequence[Event]) -> list[Result]:
        return [await self.send(event) for event in events]


class Store(MemoryOutboxStore):
    """Takes its time to tell what it has leased, and notes how much that was."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.leased: list[int] = []

    async def lease(self, most: int, seconds: float, /) -> Found:
        found = await super().lease(most, seconds)
        await asyncio.sleep(self.seconds)
        self.leased.append(len(found))
        return found


async def until(reached: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not reached():  # noqa: ASYNC110 - as others see it, who have no event to wait for
            await asyncio.sleep(0.002)


async def filled(count: int, store: MemoryOutboxStore | None = None) -> MemoryOutboxStore:
    store = MemoryOutboxStore() if store is None else store
    for number in range(count):
        await store.add(new(id=str(number)), key=None)
    return store


# A slow store.


@pytest.mark.parametrize("seconds", [0.06, 0.15])
async def test_leases_that_are_told_too_late_to_be_used_are_asked_for_with_more_time(seconds: float) -> None:
    """A store that takes most of the lease, or more, to say what is leased must not keep the relay leasing for ever."""
    store, sink = await filled(50, Store(seconds)), Sink(Ack())
    async with Outbox(store, sink, lease=0.1, poll=0.005, batch=20):
        await until(lambda: not len(store))
    assert Counter(sink.got) == {str(number): 1 for number in range(50)}


async def test_what_waits_here_for_too_long_is_leased_in_smaller_parts() -> None:
    """And in larger ones again when it goes faster."""
    store, sink = Store(), Sink(Ack(), 0.02)
    await filled(300, store)
    async with Outbox(store, sink, lease=0.2, poll=0.005, batch=64, concurrency=1):
        await until(lambda: len(sink.got) > 20)
        assert max(store.leased) == 64
        assert min(size for size in store.leased if size) <= 8
        assert sum(store.leased) < 25 * len(sink.got)
        sink.seconds = 0.0
        del store.leased[:]
        await until(lambda: not len(store))
    assert max(store.leased) > 8
    assert Counter(sink.got) == {str(number): 1 for number in range(300)}


# A dead destination.

PATIENT = RetryPolicy(attempts=3, initial=0.1, max_delay=0.2, jitter=False)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("answer", [AWAY, Undelivered(reason="refused")])
async def test_a_dead_destination_gets_a_probe_now_and_then_and_all_when_it_is_back(
    answer: Result, batched: bool
) -> None:
    """And the events have their attempts left: those who wait are not tried."""
    lost: list[str] = []
    store, sink = await filled(500), Sink(answer)
    outbox = Outbox(
        store,
        sink,
        retry=PATIENT,
        poll=0.01,
        batched=batched,
        batch=20,
        dead_letter=lambda event, _: lost.append(event.id),
    )
    async with outbox:
        await until(lambda: len(sink.got) >= 10)
        await asyncio.sleep(0.7)
        assert 12 <= len(sink.got) <= 50
        sink.answer, sink.seconds, sink.most_active = Ack(), 0.001, 0
        await until(lambda: not len(store))
    assert lost == []
    assert outbox.counts["sent"] == 500
    assert batched or sink.most_active == 8


async def test_in_an_outage_probes_wait_for_what_was_sent_before_it() -> None:
    """Nobody is sent anything while one is under way; closing does not wait for the next probe."""
    store, sink = await filled(40), Sink(AWAY, 0.01)
    outbox = Outbox(store, sink, retry=RetryPolicy(attempts=9, initial=0.02, max_delay=0.03, jitter=False), poll=0.01)
    async with outbox:
        await until(lambda: len(sink.got) > 20)
        sink.most_active = 0
        await until(lambda: len(sink.got) > 30)
        assert sink.most_active == 1
        sink.answer = Nack(status=503, retryable=True, retry_after=100)
        await asyncio.sleep(0.1)
        count, began = len(sink.got), asyncio.get_running_loop().time()
        await asyncio.sleep(0.1)
    assert len(sink.got) == count
    assert asyncio.get_running_loop().time() - began < 5


async def test_one_that_ends_well_late_ends_the_outage() -> None:
    """It was sent before the others failed."""
    store, gate = await filled(40), asyncio.Event()
    got: list[str] = []

    class Late:
        concurrency = 2

        async def send(self, event: Event) -> Result:
            got.append(event.id)
            if event.id == "0":
                await gate.wait()
            return Ack() if gate.is_set() else AWAY

    async with Outbox(store, Late(), retry=RetryPolicy(initial=60, jitter=False), poll=0.01):
        await until(lambda: len(got) == 11)
        await asyncio.sleep(0.05)
        assert len(got) == 11
        gate.set()
        await until(lambda: len(store) == 10)  # those that failed
    assert len(got) == 40


async def test_failures_that_may_be_due_to_the_events_let_the_others_through_soon() -> None:
    bad = {str(number) for number in range(30)}

    class Picky(Sink):
        async def send(self, event: Event) -> Result:
            await super().send(event)
            return FAILED if event.id in bad else Ack()

    store, sink = await filled(200), Picky(Ack())
    async with asyncio.timeout(5), Outbox(store, sink, retry=RetryPolicy(initial=60, jitter=False), poll=0.01):
        await until(lambda: len(store) == 30)
    assert len(sink.got) == 200
    assert sink.times[29] - sink.times[9] > 0.1


async def test_an_event_reaches_its_dead_letter_by_its_attempts_though_the_destination_stays_dead() -> None:
    letters: list[DeadLetter] = []
    handed: list[Any] = []
    store, sink = await filled(4), Sink(Undelivered(reason="refused", attempts=(Attempt(1), Attempt(2))))
    async with open_store("memory:") as kept:
        keep = keeper(kept.dead_letters, "shop")

        async def hook(event: Event, error: Exception) -> None:
            handed.append(error)
            await keep(event, error)

        policy = RetryPolicy(attempts=5, initial=0.01, max_delay=0.02)
        async with Outbox(store, sink, retry=policy, poll=0.005, dead_letter=hook):
            await until(lambda: not len(store))
        letters += await kept.dead_letters.read(0, 10)
    assert Counter(sink.got) == {str(number): 5 for number in range(4)}
    assert [error.attempts for error in handed] == [6] * 4  # the last time counts in full, others once
    assert [letter.attempts for letter in letters] == [6] * 4


async def test_a_dead_letter_may_be_a_sink() -> None:
    store, taken = await filled(3), Sink(FAILED)
    async with Outbox(store, Sink(Nack(status=422)), poll=0.01, dead_letter=taken, retry=PATIENT):
        await until(lambda: len(taken.got) == 3)
        assert len(store) == 3
        taken.answer = Ack()
        await until(lambda: not len(store))


STILL = "bills: still not delivered, tried again later:"


async def test_what_is_logged_names_the_outbox(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryOutboxStore):
        async def lease(self, most: int, seconds: float, /) -> Found:
            raise OSError("no\nand more")

    class Raises:
        async def send(self, event: Event) -> Result:
            raise LookupError

    outbox = Outbox(Broken(), Sink(Ack()), name="orders")
    async with outbox:
        await until(lambda: outbox.counts["store_failed"])
    outbox = Outbox(await filled(1), Raises(), name="bills", retry=RetryPolicy.none())
    async with outbox:
        await until(lambda: outbox.counts["failed"])
    assert [record.message for record in caplog.records] == [
        "orders: nothing can be leased: OSError: no",
        "bills: the sink raised: id='0' source='/s' type='t'",
        f"{STILL} id='0' source='/s' type='t': undelivered, unknown: LookupError:  (the event may have arrived)",
    ]
