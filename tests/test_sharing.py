"""Two users of one store in one process are told of, unless they do the same."""

import gc
from typing import Any
from unittest.mock import AsyncMock

import pytest

from cloudevents_kit import Ack, Event, HandlerSink, Result, forward, stages, wrap
from cloudevents_kit._lifecycle import walk
from cloudevents_kit._sharing import _uses
from cloudevents_kit.pubsub import FanOut, Subscription
from cloudevents_kit.stages import count, sum_of
from cloudevents_kit.stores import open_store
from tests.support.events import new


async def mail(event: Event) -> None: ...


async def stock(event: Event) -> None: ...


class Shop:
    async def handle(self, event: Event) -> None: ...


async def test_two_subscribers_with_one_store_are_named(caplog: pytest.LogCaptureFixture) -> None:
    store = open_store("memory:")
    fan_out = FanOut(
        [Subscription(one.__name__, wrap(one, stages.deduplicate(store.deduplication))) for one in (mail, stock)]
    )
    [message] = caplog.messages
    assert message == (
        "stage deduplicate in front of mail and stage deduplicate in front of stock share one MemoryDedupeStore: each "
        "takes events of the other for its own, which then misses them; give each the store of a scope of its own, "
        "store.scoped(name)"
    )
    assert caplog.records[0].levelname == "WARNING"
    await fan_out.publish(new())


async def test_so_are_queues_and_aggregates_when_they_are_opened(caplog: pytest.LogCaptureFixture) -> None:
    store = open_store("memory:")
    queues = [wrap(handler, stages.queue(store=store.queue, name=handler.__name__)) for handler in (mail, stock)]
    numbers = [stages.aggregate(of, store=store.windows) for of in ({"n": count()}, {"sum": sum_of("data.n")})]
    assert caplog.messages == []
    async with stages.running(*queues, *(wrap(mail, one) for one in numbers)):
        told = [message.partition(":")[0] for message in caplog.messages]
    assert sorted(told) == [
        "stage aggregate and stage aggregate share one MemoryWindowStore",
        "stage stock in front of stock and stage mail in front of mail share one MemoryQueueStore",
    ]


async def test_those_that_do_the_same_may_share_a_store(caplog: pytest.LogCaptureFixture) -> None:
    """Receivers of two ports, a stage that is opened again, a sink behind `forward`, a bound method."""
    shop, sink = Shop(), HandlerSink(mail)
    for make in (lambda: mail, lambda: shop.handle, lambda: forward(sink), lambda: forward(FANS)):
        store: Any = open_store("memory:")
        chains = [
            wrap(
                make(),
                stages.queue(store=store.queue),
                stages.aggregate(store=store.windows),
                stages.deduplicate(store.deduplication),
            )
            for _ in range(2)
        ]
        for _ in range(2):
            async with stages.running(*chains), stages.running(chains[0]):
                pass
    assert caplog.messages == []


FANS = FanOut([])


class Bus:
    """A sink that names what it hands events to."""

    def __init__(self) -> None:
        self.branches: dict[str, object] = {}

    async def send(self, event: Event) -> Result:
        return Ack()


def test_chains_without_an_end_are_walked_all_the_same() -> None:
    """Two sinks that name each other, and a mock, which has whatever it is asked for."""
    one, other = Bus(), Bus()
    one.branches, other.branches = {"sink": other}, {"sink": one}
    for handler in (forward(one), AsyncMock(return_value=None)):
        chain = wrap(handler, stages.deduplicate(open_store("memory:").deduplication))
        assert len([*walk(chain)]) < 10


async def test_one_after_the_other_may_too_and_nothing_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    gc.collect()
    before = len(_uses)
    store = open_store("memory:")
    used = [wrap(handler, stages.deduplicate(store.deduplication)) for handler in (mail,)]
    async with stages.running(*used):
        pass
    again = wrap(stock, stages.deduplicate(store.deduplication))  # the first one is closed
    async with stages.running(again):
        assert len(_uses) == before + 1
    third = wrap(mail, stages.deduplicate(store.deduplication))
    del third  # never closed, and gone
    gc.collect()
    assert len(_uses) == before
    alone: Any = stages.deduplicate(store.deduplication)
    async with alone:  # in no chain
        pass
    assert caplog.messages == []
