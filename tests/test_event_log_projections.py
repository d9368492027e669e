"""Projections: their handlers, inline ones, rebuilding; in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cloudevents_kit import DataError, Event, RetryPolicy, Router, on, stages
from cloudevents_kit.event_log import (
    EventLog,
    Projection,
    current_connection,
    current_record,
)
from cloudevents_kit.stores.memory_event_log import MemoryEventLogStore
from tests.support.event_log import SOON, Order, View, append, nothing
from tests.support.virtual import LoopClock, virtual

# Handlers.


@virtual
async def test_functions_get_the_types_they_want_with_typed_data_and_others_are_passed_over(clock: LoopClock) -> None:
    orders, got = Projection("orders"), []

    @orders.on("com.example.order.created")
    async def created(event: Event, order: Order) -> None:
        got.append((event.id, order.total, current_record().position))

    async with EventLog(MemoryEventLogStore(clock=clock), orders) as log:
        await append(log, "0", type="unknown")
        await append(log, "1", type="com.example.order.created", data={"total": 5})
        await log.reached("orders")
    assert got == [("1", 5.0, 2)]


@virtual
async def test_methods_of_an_object_are_handlers_too(clock: LoopClock) -> None:
    class Totals:
        sum = 0.0

        @on("created")
        async def created(self, event: Event, order: Order) -> None:
            self.sum += order.total

    totals = Totals()
    async with EventLog(MemoryEventLogStore(clock=clock), Projection("totals", totals)) as log:
        await append(log, "1", "2", type="created", data={"total": 5})
        await append(log, "3", type="gone")
        await log.reached("totals")
    assert totals.sum == 10.0


@virtual
async def test_a_function_a_router_or_a_chain_takes_every_event(clock: LoopClock) -> None:
    router, got = Router(unhandled="ack"), []
    chain = stages.chain(stages.keep_if(lambda event: event.id != "2"))

    @router.on("t")
    async def routed(event: Event) -> None:
        got.append(f"router {event.id}")

    async def function(event: Event, data: int | None) -> None:
        got.append(f"function {event.id}")

    async def through(event: Event) -> Any:
        async def end(event: Event) -> None:
            got.append(f"chain {event.id}")

        return await chain(event, end)

    projections = Projection("r", router), Projection("f", function), Projection("c", through)
    async with EventLog(MemoryEventLogStore(clock=clock), *projections) as log:
        await append(log, "1", "2")
        for name in "rfc":
            await log.reached(name)
    assert sorted(got) == ["chain 1", "function 1", "function 2", "router 1", "router 2"]
    with pytest.raises(RuntimeError, match="projection f: has a handler for every event"):
        projections[1].on("t")


@virtual
async def test_old_events_come_as_newer_ones(clock: LoopClock) -> None:
    got: list[Any] = []
    view = Projection("view")

    @view.on("b")
    async def new_one(event: Event, order: Order) -> None:
        got.append(order)

    upcast = stages.upcast(("a", "b", lambda event: {"total": event.data}))
    async with EventLog(MemoryEventLogStore(clock=clock), view, upcast=upcast) as log:
        await append(log, "1", type="a", data=7)
        await log.reached("view")
    assert got == [Order(7.0)]


# Inline.


@virtual
async def test_an_inline_projection_has_every_event_before_append_returns(clock: LoopClock) -> None:
    view, store = View(), MemoryEventLogStore(clock=clock)
    await append(EventLog(store), "0")
    log = EventLog(store, Projection("view", view, delivery="inline"))
    await append(log, "1", "2")
    assert view.got == ["0", "1", "2"]
    await append(EventLog(store), "3")
    async with log:
        assert view.got == ["0", "1", "2", "3"]
        [status] = await log.status()
        assert (status.here, status.position, status.waiting) == (True, 4, 0)


@virtual
async def test_what_an_inline_projection_raises_is_raised_by_append_and_nothing_is_there(clock: LoopClock) -> None:
    view = View(_2=2)
    log = EventLog(MemoryEventLogStore(clock=clock), Projection("view", view, delivery="inline"))
    await append(log, "1")
    for _ in range(2):
        with pytest.raises(OSError, match="not now") as raised:
            await append(log, "2")
        assert raised.value is view.error
        assert raised.value.__notes__ == ["(in the inline projection view, at stream s, version 2, position 2)"]
    assert await log.find() == 1
    await append(log, "2")
    assert (view.got, await log.find()) == (["1", "2"], 2)


@virtual
async def test_an_inline_projection_that_cannot_catch_up_lets_nothing_begin(clock: LoopClock) -> None:
    view, store = View(_1=1), MemoryEventLogStore(clock=clock)
    await append(EventLog(store), "1")
    log = EventLog(store, Projection("view", view, delivery="inline"))
    with pytest.raises(OSError, match="not now"):
        await log.__aenter__()
    async with log:
        assert view.got == ["1"]


@virtual
async def test_an_old_event_that_a_new_inline_projection_cannot_take_is_named(
    clock: LoopClock, caplog: pytest.LogCaptureFixture
) -> None:
    store, view = MemoryEventLogStore(clock=clock), Projection("view", delivery="inline")
    await append(EventLog(store), "1", "2", data="legacy", stream="old")

    @view.on("t")
    async def typed(event: Event, order: Order) -> None: ...

    log = EventLog(store, view)
    for blocked in (lambda: append(log, "3", data={"total": 5}, stream="new"), log.__aenter__):
        caplog.clear()
        with pytest.raises(DataError) as raised:
            await blocked()
        where = "stream old, version 1, position 1"
        assert raised.value.__notes__ == [f"(in the inline projection view, at {where})"]
        assert f"inline projection view failed at {where}: id='1' source='/s' type='t'" in caplog.text


@virtual
async def test_an_append_that_would_wait_for_its_own_handler_is_refused(clock: LoopClock) -> None:
    store = MemoryEventLogStore(clock=clock)
    other = EventLog(MemoryEventLogStore(clock=clock))
    told: list[str] = []
    later: list[asyncio.Task[None]] = []

    async def handler(event: Event) -> None:
        await append(other, "elsewhere")
        later.append(asyncio.create_task(append_later()))
        try:
            await append(log, "more")
        except RuntimeError as error:
            told.append(str(error))

    async def append_later() -> None:
        await asyncio.sleep(1)
        await append(log, "after")

    log = EventLog(store, Projection("view", handler, delivery="inline"))
    await append(log, "1")
    log._inline.clear()
    await later[0]
    assert told == [
        "append: would wait for the transaction of this handler (append in a projection without a transaction)"
    ]
    assert (await log.find(), await other.find()) == (2, 1)


@virtual
async def test_a_background_handler_may_append(clock: LoopClock) -> None:
    """A process manager: what happens in one stream leads to something in another."""
    reacts = Projection("reacts")

    @reacts.on("placed")
    async def placed(event: Event) -> None:
        await log.append("invoices", event.reply(type="invoiced", source="/i", id=f"i{event.id}"))

    log = EventLog(MemoryEventLogStore(clock=clock), reacts)
    async with log:
        await append(log, "1", "2", type="placed")
        await log.reached("reacts", 4)
    assert [one.event["causationid"] async for one in log.read("invoices")] == ["1", "2"]


@virtual
async def test_memory_has_no_connection(clock: LoopClock) -> None:
    async def handler(event: Event) -> None:
        current_connection()

    log = EventLog(MemoryEventLogStore(clock=clock), Projection("view", handler, delivery="inline"))
    with pytest.raises(RuntimeError, match="current_connection: there is none here"):
        await append(log, "1")


# Rebuilding.


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("is_async", [True, False])
def test_a_rebuild_empties_the_view_and_hands_over_everything_again(inline: bool, is_async: bool) -> None:
    @virtual
    async def test(clock: LoopClock) -> None:
        view = View()

        def empty(connection: None) -> None:
            view.got.clear()

        async def empty_async(connection: None) -> None:
            empty(connection)

        projection = Projection(
            "view", view, delivery="inline" if inline else "background", reset=empty_async if is_async else empty
        )
        async with EventLog(MemoryEventLogStore(clock=clock), projection) as log:
            await append(log, *"123")
            await log.reached("view")
            view.got.append("nonsense")
            await log.rebuild("view")
            await log.reached("view")
            assert view.got == [*"123"]
            assert clock.monotonic() < 0.5
            await append(log, "4")
            await log.reached("view")
        assert view.got == [*"1234"]

    test()


@virtual
async def test_a_rebuild_by_another_process_is_noticed_also_before_an_event_that_fails(clock: LoopClock) -> None:
    view, store = View(_2=3), MemoryEventLogStore(clock=clock)
    policy = RetryPolicy(attempts=9, initial=50, max_delay=50, jitter=False)
    log = EventLog(store, Projection("view", view, retry=policy, lease=30))
    async with log:
        await append(log, *"12")
        await asyncio.sleep(5)
        await EventLog(store, Projection("view", view, reset=nothing)).rebuild("view")
        await log.reached("view")
    assert view.got == ["1", "1", "2"]
    assert clock.monotonic() < 130  # it did not wait for the end of the first pause


@pytest.mark.parametrize("delivery", ["inline", "background"])
@pytest.mark.parametrize("is_open", [True, False])
def test_a_rebuild_without_a_reset_is_refused(delivery: Any, is_open: bool) -> None:
    @virtual
    async def test(clock: LoopClock) -> None:
        view = View()
        log = EventLog(MemoryEventLogStore(clock=clock), Projection("view", view, delivery=delivery))
        async with log:
            await append(log, "1")
            await log.reached("view")
            if is_open:
                with pytest.raises(RuntimeError, match="rebuild: projection view has no reset"):
                    await log.rebuild("view")
        if not is_open:
            with pytest.raises(RuntimeError, match="rebuild: projection view has no reset"):
                await log.rebuild("view")
        [status] = await log.status()
        assert (view.got, status.position) == (["1"], 1)

    test()


# Settings.


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"name": ""}, "name: must be 1 to 200 printable characters"),
        ({"name": "a\n"}, "name: must be 1 to 200 printable characters"),
        ({"name": 5}, "name: must be a str"),
        ({"delivery": "later"}, "delivery: must be 'inline' or 'background'"),
        ({"transaction": 1}, "transaction: must be True or False"),
        ({"when": 5}, "when: must be callable"),
        ({"batch": 0}, "batch: must be 1 or more"),
        ({"retry": 3}, "retry: must be a RetryPolicy"),
        ({"dead_letter": 5}, "dead_letter: must be callable"),
        ({"reset": 5}, "reset: must be callable"),
        ({"lease": 0}, "lease: must be above 0"),
        ({"poll": 0}, "poll: must be above 0"),
        ({"delivery": "inline", "transaction": True}, "transaction: inline has that of the append"),
        ({"delivery": "inline", "retry": SOON}, "delivery: inline has no when, retry and dead_letter"),
        ({"handlers": View}, "handlers: must be an object, not the class View itself"),
        ({"handlers": object()}, "object has no method marked with @on"),
        ({"handlers": lambda: None}, "a handler takes the event, or the event and its data"),
    ],
)
def test_a_projection_that_makes_no_sense_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        Projection(**{"name": "p", **given})
