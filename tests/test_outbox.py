"""The outbox: what is added is sent until it is acknowledged, in virtual time where time matters."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from cloudevents_kit import (
    Ack,
    DeliveryError,
    Event,
    HandlerSink,
    Nack,
    Receiver,
    Reject,
    Result,
    RetryPolicy,
    Sender,
    Undelivered,
)
from cloudevents_kit.outbox import Lag, Outbox, OutboxStore
from cloudevents_kit.stores import StoreError, open_store
from cloudevents_kit.stores.memory_outbox import MemoryOutboxStore
from cloudevents_kit.testing import OutboxStoreConformance
from tests.support.clock import ManualClock
from tests.support.events import new

SOON = RetryPolicy(attempts=3, initial=0.001, max_delay=0.002)


class TestMemory(OutboxStoreConformance):
    @pytest.fixture
    def store(self) -> OutboxStore:
        self.clock = ManualClock()
        return MemoryOutboxStore(clock=self.clock)

    async def passes(self, ticks: float) -> None:
        await self.clock.sleep(ticks * self.tick)


class Scripted:
    """A sink that answers an event's attempts with what ``answers`` tells for its id, and then with Ack."""

    concurrency = 8

    def __init__(self, **answers: Iterable[Any]) -> None:
        self.answers = {id: iter(results) for id, results in answers.items()}
        self.got: list[tuple[str, str]] = []
        self.active = self.most_active = 0
        self.gate: asyncio.Event | None = None

    async def send(self, event: Event) -> Result:
        self.got.append(event.key)
        self.active += 1
        self.most_active = max(self.active, self.most_active)
        try:
            await (asyncio.sleep(0) if self.gate is None else self.gate.wait())
            result = next(self.answers.get(event.id, iter(())), Ack())
            if isinstance(result, BaseException):
                raise result
            return result
        finally:
            self.active -= 1

    @property
    def ids(self) -> list[str]:
        return [id for _, id in self.got]


class Batches(Scripted):
    def __init__(self, **answers: Iterable[Any]) -> None:
        super().__init__(**answers)
        self.sizes: list[int] = []

    async def send_batch(self, events: Sequence[Event]) -> list[Result]:
        self.sizes.append(len(events))
        return [await self.send(event) for event in events]


async def empty(outbox: Outbox) -> None:
    """Wait until everything is delivered."""
    async with asyncio.timeout(5):
        while (await outbox.lag()).waiting:  # noqa: ASYNC110 - as others see it, who have no event to wait for
            await asyncio.sleep(0.001)


async def until(reached: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not reached():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)


async def relayed(sink: Any, *events: Event, **options: Any) -> Outbox:
    outbox = Outbox(MemoryOutboxStore(), sink, **{"retry": SOON, "poll": 0.005, **options})
    for event in events:
        await outbox.add(event)
    async with outbox:
        await empty(outbox)
    return outbox


async def test_what_was_added_before_and_after_it_was_opened_is_sent() -> None:
    """The lag tells what is not sent yet."""
    sink = Scripted()
    outbox = Outbox(MemoryOutboxStore(), sink, poll=30)
    await outbox.add(new(id="before"))
    lag = await outbox.lag()
    assert isinstance(lag, Lag)
    assert lag.waiting == 1
    async with outbox:
        await empty(outbox)
        await outbox.add(new(id="after"))  # and does not wait for the next look into the store
        await empty(outbox)
    assert sink.ids == ["before", "after"]
    assert outbox.counts == {
        "sent": 2,
        "failed": 0,
        "dead_lettered": 0,
        "dead_letter_failed": 0,
        "store_failed": 0,
    }


async def test_what_fails_is_sent_again_with_the_same_source_and_id() -> None:
    sink = Scripted(a=[Nack(retryable=True), Undelivered(reason="refused")], b=[ValueError("no sink does that")])
    outbox = await relayed(sink, new(id="a"), new(id="b"))
    assert Counter(sink.got) == {("/s", "a"): 3, ("/s", "b"): 2}
    assert outbox.counts["failed"] == 3


@pytest.mark.parametrize("nonsense", [None, "ack"])
async def test_what_is_no_result_is_no_acknowledgement(nonsense: object) -> None:
    sink = Scripted(a=[nonsense])
    await relayed(sink, new(id="a"))
    assert sink.ids == ["a", "a"]


async def test_a_sink_that_ends_as_if_cancelled_does_not_end_the_relay() -> None:
    sink = Scripted(a=[asyncio.CancelledError()])
    await relayed(sink, new(id="a"), concurrency=1)
    assert sink.ids == ["a", "a"]


@pytest.mark.parametrize("is_async", [True, False])
async def test_after_the_last_attempt_the_hook_has_it(is_async: bool) -> None:
    handed: list[tuple[str, Exception]] = []

    def hook(event: Event, error: Exception) -> None:
        handed.append((event.id, error))

    async def async_hook(event: Event, error: Exception) -> None:
        hook(event, error)

    sink = Scripted(a=[Nack(status=503, retryable=True)] * 9, b=[Nack(status=422)])
    outbox = await relayed(sink, new(id="a"), new(id="b"), dead_letter=async_hook if is_async else hook)
    assert sorted(sink.ids) == ["a", "a", "a", "b"]
    told = dict(handed)
    assert isinstance(told["a"], DeliveryError)
    assert told["a"].result.status == 503
    assert len(handed) == outbox.counts["dead_lettered"] == 2


async def test_without_a_hook_or_if_it_fails_the_event_stays_and_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = Scripted(a=[Nack(status=422)] * 5)
    await relayed(sink, new(id="a"))
    assert len(sink.got) == 6
    assert "still not delivered, tried again later: id='a'" in caplog.text
    hooked = Scripted(a=[Nack(status=422)] * 2)
    outbox = await relayed(hooked, new(id="a"), dead_letter=lambda event, error: 1 / 0)
    assert len(hooked.got) == 3
    assert "could not be handed over: id='a'" in caplog.text
    assert (outbox.counts["dead_lettered"], outbox.counts["dead_letter_failed"]) == (0, 2)


async def test_with_a_key_events_are_sent_one_after_the_other_and_wait_for_one_that_fails() -> None:
    sink = Scripted(a1=[Nack(retryable=True)] * 2)
    events = [new(id=f"{key}{number}", partitionkey=key) for number in range(1, 4) for key in "abc"]
    free = [new(id=f"free{number}") for number in range(3)]
    outbox = await relayed(sink, *events, *free, key=lambda event: event.get("partitionkey"))
    assert [id for id in sink.ids if id[0] == "a"] == ["a1", "a1", "a1", "a2", "a3"]
    for key in "bc":
        assert [id for id in sink.ids if id[0] == key] == [f"{key}1", f"{key}2", f"{key}3"]
    assert outbox.counts["sent"] == 12


async def test_events_of_one_key_are_never_in_one_batch() -> None:
    """Which has no order; and those behind one that is a dead letter go on."""
    sink = Batches(a2=[Nack(status=422)], b1=[Nack(retryable=True)])
    events = [new(id=f"{key}{number}", partitionkey=key) for key in "ab" for number in range(1, 5)]
    await relayed(
        sink,
        *events,
        key=lambda event: event.get("partitionkey"),
        batched=True,
        concurrency=1,
        dead_letter=lambda event, error: None,
    )
    assert [id for id in sink.ids if id[0] == "a"] == ["a1", "a2", "a3", "a4"]
    assert [id for id in sink.ids if id[0] == "b"] == ["b1", "b1", "b2", "b3", "b4"]
    assert max(sink.sizes) == 2


async def test_a_chain_ends_where_the_relay_is_closed() -> None:
    sink, store = Scripted(), MemoryOutboxStore()
    sink.gate = asyncio.Event()
    outbox = Outbox(store, sink, key=lambda event: "k")
    for number in range(5):
        await outbox.add(new(id=str(number)))
    async with outbox:
        await until(lambda: sink.got)
        asyncio.get_running_loop().call_soon(sink.gate.set)
    assert sink.ids == ["0"]
    assert [event.id for _, event, *_ in await store.lease(100, 60)] == ["1", "2", "3", "4"]


async def test_no_more_are_sent_at_once_than_the_sink_wants() -> None:
    sink = Scripted()
    await relayed(sink, *(new(id=str(number)) for number in range(100)))
    assert sink.most_active == 8
    few = Scripted()
    await relayed(few, *(new(id=str(number)) for number in range(100)), concurrency=3, batch=5)
    assert few.most_active == 3
    assert len(few.got) == 100


async def test_batches_are_sent_as_batches_with_a_result_for_each() -> None:
    sink = Batches(a=[Nack(retryable=True)])
    await relayed(sink, new(id="a"), *(new(id=str(number)) for number in range(99)), batched=True, batch=50)
    assert max(sink.sizes) == 50
    assert Counter(sink.ids)["a"] == 2
    assert len(sink.got) == 101


async def test_a_delivery_that_takes_too_long_for_its_lease_is_cut_off() -> None:
    sink = Scripted()
    sink.gate = asyncio.Event()
    store = MemoryOutboxStore()
    outbox = Outbox(store, sink, lease=0.1, poll=0.005, retry=SOON)
    await outbox.add(new(id="a"))
    async with outbox:
        await until(lambda: outbox.counts["failed"])
        sink.gate.set()
        await empty(outbox)
    assert len(sink.got) > 1


async def test_what_waited_here_for_too_long_of_its_lease_is_given_back_at_once() -> None:
    """One place to send from, which the first event holds: the second is leased again, not left until that is over."""
    sink, store = Scripted(), MemoryOutboxStore()
    sink.gate = asyncio.Event()
    outbox = Outbox(store, sink, lease=2.0, poll=0.005, concurrency=1, retry=SOON)
    await outbox.add(new(id="a"))
    await outbox.add(new(id="b"))
    leased: list[Sequence[Any]] = []
    lease = store.lease

    async def seen(most: int, seconds: float, /) -> Sequence[tuple[str, Event, int, str | None]]:
        leased.append(await lease(most, seconds))
        return leased[-1]

    store.lease = seen  # type: ignore[method-assign]
    began = asyncio.get_running_loop().time()
    async with outbox:
        await until(lambda: sink.got)
        await asyncio.sleep(0.6)
        sink.gate.set()
        await empty(outbox)
    assert asyncio.get_running_loop().time() - began < 1.8
    assert sink.ids == ["a", "b"]
    assert [[event.id for _, event, *_ in found] for found in leased if found] == [["a", "b"], ["b"]]


async def test_a_hook_that_hangs_is_cut_off_and_the_event_stays(caplog: pytest.LogCaptureFixture) -> None:
    hooked = []

    async def hang(event: Event, error: Exception) -> None:
        hooked.append(event.id)
        if len(hooked) == 1:
            await asyncio.Event().wait()

    sink = Scripted(a=[Nack(status=422)] * 2)
    async with asyncio.timeout(5):
        outbox = await relayed(sink, new(id="a"), new(id="b"), lease=0.2, concurrency=1, dead_letter=hang)
    assert hooked == ["a", "a"]
    assert "could not be handed over: id='a'" in caplog.text
    assert outbox.counts["dead_lettered"] == 1


async def test_closing_cuts_off_a_hook_and_its_event_stays() -> None:
    hooked, store = asyncio.Event(), MemoryOutboxStore()

    async def hang(event: Event, error: Exception) -> None:
        hooked.set()
        await asyncio.Event().wait()

    outbox = Outbox(store, Scripted(a=[Nack(status=422)]), dead_letter=hang, grace=0.01)
    await outbox.add(new(id="a"))
    async with outbox:
        await hooked.wait()
    assert [(event.id, attempts) for _, event, attempts, _ in await store.lease(9, 60)] == [("a", 0)]


async def test_when_hooks_take_all_the_time_the_rest_of_the_batch_is_sent_again() -> None:
    """With its attempts as before: its last one has had no end."""
    handed: list[str] = []

    def slow(event: Event, error: Exception) -> None:
        time.sleep(0.11)
        handed.append(event.id)

    ids = [str(number) for number in range(4)]
    sink = Batches(**{id: [Nack(status=422)] * 9 for id in ids})
    await relayed(sink, *(new(id=id) for id in ids), batched=True, concurrency=1, lease=0.2, dead_letter=slow)
    assert sorted(handed) == ids
    assert len(sink.got) > len(ids)


async def test_a_hook_that_ends_as_if_cancelled_does_not_end_the_relay() -> None:
    async def cancelled(event: Event, error: Exception) -> None:
        raise asyncio.CancelledError

    sink = Scripted(a=[Nack(status=422)])
    outbox = await relayed(sink, new(id="a"), new(id="b"), concurrency=1, dead_letter=cancelled)
    assert sorted(sink.ids) == ["a", "a", "b"]
    assert outbox.counts["dead_lettered"] == 0


class Failing:
    """A store that fails when it is told to."""

    def __init__(self) -> None:
        self.inner = MemoryOutboxStore()
        self.fails: dict[str, int] = {}

    def _check(self, name: str) -> None:
        left = self.fails.get(name, 0)
        self.fails[name] = left - 1
        if left > 0:
            raise StoreError("is locked")

    async def add(self, event: Event, /, *, key: str | None, due: datetime | float = 0.0) -> None:
        self._check("add")
        await self.inner.add(event, key=key, due=due)

    def insert(self, connection: Any, event: Event, /, *, key: str | None, due: datetime | float = 0.0) -> None:
        self.inner.insert(connection, event, key=key, due=due)

    async def cancel(self, source: str, id: str, /) -> bool:
        return await self.inner.cancel(source, id)

    async def lease(self, most: int, seconds: float, /) -> Sequence[tuple[str, Event, int, str | None]]:
        self._check("lease")
        return await self.inner.lease(most, seconds)

    async def settle(self, ends: Mapping[str, tuple[int, float] | None], /) -> None:
        self._check("settle")
        await self.inner.settle(ends)

    async def lag(self) -> Lag:
        return await self.inner.lag()

    async def clear(self) -> int:
        return await self.inner.clear()


async def test_a_store_that_fails_for_a_while_loses_nothing_and_repeats_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink, store = Scripted(), Failing()
    store.fails = {"add": 1, "lease": 2, "settle": 3}
    outbox = Outbox(store, sink, poll=0.005)
    with pytest.raises(StoreError):
        await outbox.add(new(id="a"))
    await outbox.add(new(id="a"))
    async with outbox:
        await empty(outbox)
    assert outbox.counts["store_failed"] == 5
    assert sink.got == [("/s", "a")]
    assert "nothing can be leased" in caplog.text
    assert "1 ends were not stored" in caplog.text


async def test_while_no_end_can_be_stored_not_much_is_sent() -> None:
    """Since it would be sent again; and at the end it is tried once more."""
    sink, store = Scripted(), Failing()
    store.fails = {"settle": 10**6}
    outbox = Outbox(store, sink, poll=0.002, batch=5)
    for number in range(100):
        await outbox.add(new(id=str(number)))
    async with outbox:
        await until(lambda: outbox.counts["store_failed"] > 7)
        assert len(sink.got) < 30
        store.fails = {"settle": 0}
    assert (await outbox.lag()).waiting == 100 - len(sink.got)
    store.fails = {"settle": 10**6}
    async with outbox:
        before = outbox.counts["store_failed"]
        await until(lambda: len(sink.got) == 100 or outbox.counts["store_failed"] > before + 7)
    assert outbox.counts["store_failed"] > before + 7


async def test_closing_lets_what_is_sent_end_and_gives_back_the_rest() -> None:
    sink, store = Scripted(), MemoryOutboxStore()
    sink.gate = asyncio.Event()
    outbox = Outbox(store, sink, concurrency=2)
    for number in range(10):
        await outbox.add(new(id=str(number)))
    async with outbox:
        await until(lambda: len(sink.got) == 2)
        asyncio.get_running_loop().call_soon(sink.gate.set)
    assert sink.ids == ["0", "1"]
    assert [event.id for _, event, *_ in await store.lease(100, 60)] == [str(number) for number in range(2, 10)]


class Slow(MemoryOutboxStore):
    """Takes its time to tell what it has leased."""

    def __init__(self) -> None:
        super().__init__()
        self.leasing, self.gate = asyncio.Event(), asyncio.Event()

    async def lease(self, most: int, seconds: float, /) -> Sequence[tuple[str, Event, int, str | None]]:
        found = await super().lease(most, seconds)
        self.leasing.set()
        await self.gate.wait()
        return found


async def test_what_is_leased_while_it_is_closed_is_given_back() -> None:
    sink, store = Scripted(), Slow()
    outbox = Outbox(store, sink)
    await outbox.add(new(id="a"))
    async with outbox:
        await store.leasing.wait()
        asyncio.get_running_loop().call_soon(store.gate.set)
    assert not sink.got
    assert [event.id for _, event, *_ in await store.lease(100, 60)] == ["a"]


async def test_closing_that_is_cancelled_leaves_nothing_running() -> None:
    """And gives back everything."""
    sink, store = Scripted(), MemoryOutboxStore()
    sink.gate = asyncio.Event()
    outbox = Outbox(store, sink, concurrency=2)
    for number in range(5):
        await outbox.add(new(id=str(number)))
    before = asyncio.all_tasks()
    await outbox.__aenter__()
    await until(lambda: len(sink.got) == 2)
    closing = asyncio.create_task(outbox.__aexit__())
    await asyncio.sleep(0.01)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert asyncio.all_tasks() == before
    assert [event.id for _, event, *_ in await store.lease(100, 60)] == ["0", "1", "2", "3", "4"]


async def test_it_can_be_opened_again_but_not_twice() -> None:
    outbox = Outbox(MemoryOutboxStore(), Scripted())
    async with outbox:
        with pytest.raises(RuntimeError, match="is open already"):
            await outbox.__aenter__()
    async with outbox:
        await outbox.add(new())
        await empty(outbox)
    await outbox.__aexit__()


async def test_an_outbox_without_a_sink_only_adds() -> None:
    outbox = Outbox(MemoryOutboxStore())
    await outbox.add(new())
    with pytest.raises(RuntimeError, match="sink: is None"):
        await outbox.__aenter__()


async def test_an_event_that_is_added_while_another_is_handled_names_its_cause() -> None:
    """K-E4.1."""
    store = MemoryOutboxStore()
    outbox = Outbox(store)

    async def handler(event: Event) -> None:
        await outbox.add(new(id="effect"))

    assert await HandlerSink(handler).send(new(id="cause"))
    [(_, event, *_)] = await store.lease(1, 60)
    assert (event["causationid"], event["correlationid"]) == ("cause", "cause")


async def test_it_delivers_over_http() -> None:
    got: list[str] = []

    async def handler(event: Event) -> None:
        if event.id == "3":
            raise Reject("never")
        got.append(event.id)

    lost: list[str] = []
    once = RetryPolicy.none()
    async with Receiver(handler, port=0) as receiver, Sender(receiver.url, max_batch=10, retry=once) as sender:
        for batched in (False, True):
            await relayed(
                sender,
                *(new(id=str(number)) for number in range(10)),
                batched=batched,
                dead_letter=lambda event, error: lost.append(event.id),
            )
    assert lost == ["3", "3"]
    assert Counter(got) == {str(number): 2 for number in range(10) if number != 3}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"store": object()}, "store: must be an OutboxStore"),
        ({"sink": object()}, "sink: must be a Sink"),
        ({"sink": Scripted(), "batched": True}, "sink: must be a Sink.*send_batch"),
        ({"key": "partitionkey"}, "key: must be callable"),
        ({"dead_letter": 1}, "dead_letter: must be callable"),
        ({"retry": 3}, "retry: must be a RetryPolicy"),
        ({"lease": 0}, "lease: must be above 0"),
        ({"poll": 0}, "poll: must be above 0"),
        ({"grace": -1}, "grace: must be finite and not negative"),
        ({"batch": 0}, "batch: must be 1 or more"),
        ({"concurrency": 0}, "concurrency: must be 1 or more"),
        ({"batched": 1}, "batched: must be True or False"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        Outbox(**{"store": MemoryOutboxStore(), **options})


async def test_what_cannot_be_added_is_refused() -> None:
    outbox = Outbox(MemoryOutboxStore(), key=lambda event: event.subject)
    with pytest.raises(TypeError, match="event: must be an Event, not dict"):
        await outbox.add({})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the memory has no transactions"):
        outbox.add_sync(new(), object())
    with pytest.raises(TypeError, match="key: must be a function that returns a str"):
        await Outbox(MemoryOutboxStore(), key=lambda event: 5).add(new())  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match=r"key: must not be empty .return None for an event that follows no other"):
        await Outbox(MemoryOutboxStore(), key=lambda event: "").add(new())
    async with open_store("memory:") as store:
        assert await store.outbox.lag() == (0, 0.0, 0)


# Scheduled and delayed.


async def scheduled(**given: Any) -> tuple[Outbox, Scripted, ManualClock]:
    sink, clock = Scripted(), ManualClock()
    outbox = Outbox(MemoryOutboxStore(clock=clock), sink, poll=0.002, lease=1e6, **given)
    return outbox, sink, clock


@pytest.mark.parametrize("absolute", [True, False])
async def test_an_event_for_later_is_sent_when_its_time_has_come_and_not_before(absolute: bool) -> None:
    """K-D11."""
    outbox, sink, clock = await scheduled()
    if absolute:
        plus_2 = timezone(timedelta(hours=2))
        await outbox.add(new(id="later"), at=(clock.now() + timedelta(seconds=5)).astimezone(plus_2))
    else:
        await outbox.add(new(id="later"), delay=5)
    await outbox.add(new(id="now"), at=clock.now() - timedelta(days=1))
    assert await outbox.lag() == (1, 0.0, 1)
    async with outbox:
        await until(lambda: sink.got)
        await clock.sleep(4.9)
        await outbox.add(new(id="also now"))
        await until(lambda: len(sink.got) == 2)
        assert sink.ids == ["now", "also now"]
        await clock.sleep(0.2)
        await until(lambda: len(sink.got) == 3)
    assert sink.ids == ["now", "also now", "later"]


async def test_an_event_for_later_holds_up_nobody_and_waits_for_nobody() -> None:
    """K-D11: it takes no part in the order of its key."""
    outbox, sink, clock = await scheduled(key=lambda event: "k", retry=RetryPolicy(initial=100, jitter=False))
    sink.answers = {"b": iter([Nack(retryable=True)])}
    await outbox.add(new(id="later"), delay=5)
    await outbox.add(new(id="a"), delay=0)
    await outbox.add(new(id="b"))
    await outbox.add(new(id="c"))
    async with outbox:
        await until(lambda: outbox.counts["failed"])
        assert sink.ids == ["a", "b"]
        await clock.sleep(6)
        await until(lambda: len(sink.got) == 3)
        assert sink.ids == ["a", "b", "later"]
        await clock.sleep(100)
        await empty(outbox)
    assert sink.ids == ["a", "b", "later", "b", "c"]


async def test_what_waits_can_be_cancelled_and_what_is_being_sent_or_gone_cannot() -> None:
    """K-D11."""
    outbox, sink, clock = await scheduled()
    sink.gate = asyncio.Event()
    await outbox.add(new(id="later"), delay=5)
    await outbox.add(new(id="now"))
    async with outbox:
        await until(lambda: sink.got)
        assert not await outbox.cancel("/s", "now")
        assert not await outbox.cancel("/other", "later")
        assert await outbox.cancel("/s", "later")
        assert not await outbox.cancel("/s", "later")
        sink.gate.set()
        await empty(outbox)
        assert not await outbox.cancel("/s", "now")
        await clock.sleep(10)
    assert sink.ids == ["now"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"at": datetime(2030, 1, 1)}, "at: must have a time zone, such as datetime.now.UTC."),  # noqa: DTZ001
        ({"at": "2030-01-01T00:00:00Z"}, "at: must be a datetime, not str"),
        ({"at": datetime(2030, 1, 1, tzinfo=UTC), "delay": 1}, "at, delay: give one of them"),
        ({"delay": -1}, "delay: must be finite and not negative, not -1"),
        ({"delay": float("inf")}, "delay: must be finite"),
        ({"delay": "5"}, "delay: must be a number"),
    ],
)
async def test_a_time_that_makes_no_sense_is_refused(given: dict[str, Any], told: str) -> None:
    outbox = Outbox(MemoryOutboxStore())
    with pytest.raises((TypeError, ValueError), match=told):
        await outbox.add(new(), **given)
    with pytest.raises((TypeError, ValueError), match=told):
        outbox.add_sync(new(), None, **given)
    assert await outbox.lag() == (0, 0.0, 0)
    with pytest.raises(TypeError, match="id: must be a str, not int"):
        await outbox.cancel("/s", 1)  # type: ignore[arg-type]
