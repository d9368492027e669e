import asyncio

import pytest

from cloudevents_kit import Event, current_event, settle, wrap
from cloudevents_kit.stages import (
    Totals,
    running,
)
from tests.support.aggregates import BrokenStore, at, clocked, take
from tests.support.virtual import LoopClock, virtual


@virtual
async def test_each_key_of_a_window_is_handed_out_once_when_it_closes(clock: LoopClock) -> None:
    given: list[Totals] = []
    stage = clocked(clock, by="subject", on_close=given.append)
    handler = wrap(take, stage)
    async with running(handler):
        await asyncio.sleep(100)
        for n in range(6):
            await handler(at(n, subject=f"{n % 2}"))
        assert given == []
        await handler(at(15))
        await asyncio.sleep(0.5)
        assert [(one["key"], one["count"], one["closed"]) for one in given] == [("0", 3, True), ("1", 3, True)]
        await asyncio.sleep(500)
    assert len(given) == 3  # the clock has closed the second window


@virtual
async def test_what_on_close_refuses_is_handed_out_again(clock: LoopClock, caplog: pytest.LogCaptureFixture) -> None:
    given: list[str] = []

    async def publish(totals: Totals) -> None:
        await asyncio.sleep(0.1)
        given.append(totals["key"])
        if given.count("bad") < 4 and totals["key"] == "bad":
            raise ConnectionError

    stage = clocked(clock, by="subject", on_close=publish, idle=5)
    handler = wrap(take, stage)
    async with running(handler):
        await handler(at(1, subject="bad"))
        await handler(at(2, subject="good"))
        await asyncio.sleep(10)
        assert given == []
        await asyncio.sleep(6)
        assert given == ["bad", "good"]
        assert stage.status["waiting"] == 1
        await asyncio.sleep(30)
        assert given == ["bad", "good", "bad", "bad", "bad"]
        await asyncio.sleep(1000)
    assert given.count("bad") == 4
    assert (stage.counts, stage.status["waiting"]) == ({"unclosed": 3}, 0)
    assert len(caplog.records) == 1


@virtual
async def test_on_close_is_not_about_the_event_that_closed_the_window(clock: LoopClock) -> None:
    seen: list[Event | None] = []
    stage = clocked(clock, on_close=lambda totals: seen.append(current_event()))
    handler = wrap(take, stage)
    async with running(handler):
        await asyncio.sleep(100)
        assert await settle(handler, at(1))
        assert await settle(handler, at(50))
        await asyncio.sleep(0)
    assert seen == [None]


@virtual
async def test_with_on_close_events_are_taken_only_while_it_is_open(clock: LoopClock) -> None:
    stage = clocked(clock, on_close=lambda totals: None, name="sums")
    handler = wrap(take, stage)
    for _ in range(2):
        result = await settle(handler, at(1))
        assert (result.status, result.retryable) == (503, True)  # type: ignore[union-attr]
        async with running(handler):
            assert await settle(handler, at(1))
    assert await settle(wrap(take, clocked(clock)), at(1))


@virtual
async def test_open_windows_outlive_a_stop_and_it_says_so(clock: LoopClock, caplog: pytest.LogCaptureFixture) -> None:
    given: list[Totals] = []
    stage = clocked(clock, on_close=given.append)
    handler = wrap(take, stage)
    async with running(handler):
        await handler(at(1))
    assert given == []
    assert "stopped with windows in memory, not handed out: {'open': 1}" in caplog.text
    async with running(handler):
        await handler(at(2))
        await asyncio.sleep(100)
    assert [one["count"] for one in given] == [2]


@pytest.mark.parametrize("on_close", [True, False])
@virtual
async def test_a_flush_closes_all_at_the_stop(
    on_close: bool, clock: LoopClock, caplog: pytest.LogCaptureFixture
) -> None:
    given: list[Totals] = []
    stage = clocked(clock, on_close=given.append if on_close else None, at_stop="flush")
    handler = wrap(take, stage)
    async with running(handler):
        await handler(at(1))
        await handler(at(15))
    assert len(given) == 2 * on_close
    assert [one["closed"] for one in await stage.windows()] == [True, True]
    async with running(handler):
        await handler(at(16))
        await handler(at(20))
    assert stage.counts == {"late": 1}
    assert len(given) == 3 * on_close
    async with running(handler):
        pass
    assert caplog.records == []


@virtual
async def test_an_on_close_that_hangs_is_cut_off_at_the_stop(
    clock: LoopClock, caplog: pytest.LogCaptureFixture
) -> None:
    given: list[Totals] = []

    async def publish(totals: Totals) -> None:
        given.append(totals)
        if len(given) == 1:
            await asyncio.sleep(10**6)

    stage = clocked(clock, on_close=publish, at_stop="flush", grace=3)
    handler = wrap(take, stage)
    async with running(handler):
        await handler(at(1))
        before = clock.monotonic()
    assert clock.monotonic() - before == pytest.approx(3)
    assert "not handed out: {'waiting': 1}" in caplog.text
    async with running(handler):
        await asyncio.sleep(1)
    assert len(given) == 2


class Stopped(BaseException):
    """Some library's."""


@pytest.mark.parametrize("how", [asyncio.CancelledError, Stopped, "hangs"])
@virtual
async def test_whatever_on_close_does_the_other_keys_are_handed_out_and_the_same_again(
    clock: LoopClock, how: type[BaseException] | str, caplog: pytest.LogCaptureFixture
) -> None:
    given: list[str] = []

    async def publish(totals: Totals) -> None:
        given.append(totals["key"])
        if given == ["bad"] and isinstance(how, type):
            raise how
        if given == ["bad"]:
            await asyncio.sleep(10**6)

    stage = clocked(clock, by="subject", on_close=publish, idle=1, close_timeout=3)
    handler = wrap(take, stage)
    async with running(handler):
        await handler(at(1, subject="bad"))
        await handler(at(2, subject="good"))
        await asyncio.sleep(30)
        assert given == ["bad", "good", "bad"]
        await handler(at(31, subject="good"))
        await asyncio.sleep(30)
    assert given == ["bad", "good", "bad", "good"]
    assert stage.counts == {"unclosed": 1}
    assert len(caplog.records) == 1


@pytest.mark.parametrize("error", [asyncio.CancelledError, Stopped])
@virtual
async def test_a_store_that_ends_its_calls_as_if_cancelled_stalls_nothing(
    clock: LoopClock, error: type[BaseException]
) -> None:
    given: list[Totals] = []
    store = BrokenStore(error)
    store.down = False
    stage = clocked(clock, store=store, on_close=given.append, idle=1, at_stop="flush")
    handler = wrap(take, stage)
    async with running(handler):
        await handler(at(1))
        store.down = True
        await asyncio.sleep(30)
        assert given == []
        store.down = False
        await asyncio.sleep(60)
        assert len(given) == 1
        store.down = True
    assert stage.counts["unclosed"] > 1


@virtual
async def test_a_store_that_is_down_does_not_keep_the_stage_from_stopping(clock: LoopClock) -> None:
    store = BrokenStore()
    stage = clocked(clock, store=store, on_close=lambda totals: None, at_stop="flush")
    async with running(stage):
        await asyncio.sleep(10)
    assert stage.counts["unclosed"] > 1


@virtual
async def test_a_broken_clock_is_reported(clock: LoopClock, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(LoopClock):
        async def sleep(self, seconds: float) -> None:
            raise OSError

    stage = clocked(Broken(), on_close=lambda totals: None)
    async with running(stage):
        await asyncio.sleep(1)
    assert stage.counts["unclosed"] == 1
    assert len(caplog.records) == 1
