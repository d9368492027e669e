"""Each event once. What holds for the store in memory holds for any other, so most tests run with both."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from cloudevents_kit import ACCEPTED, Ack, Event, Nack, Outcome, Reject, Retry, settle, stages, wrap
from cloudevents_kit.stages import Stage, StageError
from cloudevents_kit.stores.memory import MemoryDedupeStore
from cloudevents_kit.testing._events import EVENTS, exact
from tests.support.clock import ManualClock
from tests.support.dedupe import Handler, OverNetwork
from tests.support.events import new
from tests.support.sending import turns
from tests.support.virtual import LoopClock, virtual

CLOCK = LoopClock()
Make = Callable[..., Stage]


def in_memory(**given: Any) -> Stage:
    return stages.deduplicate(clock=CLOCK, **given)


def over_network(**given: Any) -> Stage:
    return stages.deduplicate(OverNetwork(clock=CLOCK), clock=CLOCK, **given)


with_both = pytest.mark.parametrize("make", [in_memory, over_network])


def duplicates(stage: Stage) -> int:
    return stage.counts["duplicate"]


REPLY = Event(type="com.example.answer", source="/answers", id="9", data={"grün": [1, None]}, note="x")


# Claim, run, commit or release.


@with_both
def test_a_failed_event_is_processed_again(make: Make) -> None:
    """K-D1: nothing is marked before it is done (trap 5)."""

    @virtual
    async def test() -> None:
        handler, stage = Handler(ValueError("first"), Reject("second"), Retry(1), TimeoutError()), make()
        chain = wrap(handler.handle, stage)
        statuses = [(await settle(chain, new())).status for _ in range(6)]
        assert statuses == [500, 422, 503, 503, 204, 204]
        assert handler.calls == 5
        assert stage.counts == {"duplicate": 1}

    test()


@with_both
@pytest.mark.parametrize("end", [None, ACCEPTED, REPLY], ids=["handled", "accepted", "reply"])
def test_a_duplicate_gets_the_outcome_again(make: Make, end: Outcome) -> None:
    """K-D1: in request mode with the stored reply."""

    @virtual
    async def test() -> None:
        handler, stage = Handler(end), make()
        chain = wrap(handler.handle, stage)
        first, second, third = [await settle(chain, new()) for _ in range(3)]
        assert first == second == third
        assert isinstance(third, Ack)
        assert third.status == {None: 204, ACCEPTED: 202, REPLY: 200}[end]
        assert (third.reply and third.reply.raw) == (REPLY.raw if end is REPLY else None)
        assert (handler.calls, duplicates(stage)) == (1, 2)

    test()


@pytest.mark.parametrize("form", EVENTS)
async def test_a_duplicate_gets_a_reply_that_is_the_same_to_the_last_byte(form: str) -> None:
    answered = EVENTS[form].evolve(id="answer")
    chain = wrap(Handler(answered).handle, stages.deduplicate())
    for _ in range(2):
        reply = await chain(new())
        assert isinstance(reply, Event)
        assert exact(reply) == exact(answered)


@with_both
def test_of_50_copies_at_once_one_is_handled_and_the_others_are_to_come_again(make: Make) -> None:
    """K-D1: 50 concurrent copies, the handler runs once (trap 6)."""

    @virtual
    async def test() -> None:
        handler, stage = Handler(REPLY), make(lease=20)
        handler.gate.clear()
        chain = wrap(handler.handle, stage)
        copies = [asyncio.create_task(settle(chain, new())) for _ in range(50)]
        await asyncio.sleep(5)
        handler.gate.set()
        results = await asyncio.gather(*copies)
        refused = [result for result in results if isinstance(result, Nack)]
        assert len(refused) == 49
        assert {(one.status, one.retryable) for one in refused} == {(409, True)}
        assert all(one.retry_after is not None and 0 < one.retry_after <= 20 for one in refused)
        assert [result.reply for result in results if isinstance(result, Ack)] == [REPLY]
        assert await settle(chain, new()) == Ack(status=200, reply=REPLY)
        assert (handler.calls, stage.counts) == (1, {"conflict": 49, "duplicate": 1})

    test()


@with_both
def test_copies_that_wait_get_the_reply_of_the_one_that_ran(make: Make) -> None:
    """K-D1: copies arriving during it wait for it, as configured."""

    @virtual
    async def test() -> None:
        handler, stage = Handler(REPLY), make(when_running="wait")
        handler.gate.clear()
        chain = wrap(handler.handle, stage)
        copies = [asyncio.create_task(settle(chain, new())) for _ in range(50)]
        await asyncio.sleep(20)
        assert not any(copy.done() for copy in copies)
        handler.gate.set()
        assert await asyncio.gather(*copies) == [Ack(status=200, reply=REPLY)] * 50
        assert asyncio.get_running_loop().time() == pytest.approx(20, abs=0.5)
        assert (handler.calls, stage.counts) == (1, {"waited": 49, "duplicate": 49})

    test()


@with_both
def test_copies_wait_no_longer_than_max_wait(make: Make) -> None:
    """K-D1."""

    @virtual
    async def test() -> None:
        handler, stage = Handler(), make(when_running="wait", max_wait=7)
        handler.gate.clear()
        chain = wrap(handler.handle, stage)
        first = asyncio.create_task(settle(chain, new()))
        await asyncio.sleep(1)
        assert isinstance(result := await settle(chain, new()), Nack)
        assert result.status == 409
        assert asyncio.get_running_loop().time() == pytest.approx(8, abs=0.01)
        handler.gate.set()
        assert await first == Ack(status=204)

    test()


@with_both
def test_when_the_one_that_runs_fails_one_of_those_that_wait_takes_its_place(make: Make) -> None:
    """K-D1: none is acknowledged before it is done, and no two run at once."""

    @virtual
    async def test() -> None:
        handler, stage = Handler(ValueError("1"), Reject("2"), None), make(when_running="wait")
        handler.gate.clear()
        chain = wrap(handler.handle, stage)
        copies = [asyncio.create_task(settle(chain, new())) for _ in range(10)]
        await turns()
        handler.gate.set()
        results = await asyncio.gather(*copies)
        assert sorted(result.status or 0 for result in results) == [*[204] * 8, 422, 500]
        assert (handler.calls, handler.most, duplicates(stage)) == (3, 1, 7)

    test()


@with_both
def test_what_is_cancelled_is_released_and_the_cancellation_passes(make: Make) -> None:
    """K-D1: 50 copies are cancelled one after the other while they run; the last one is handled."""

    @virtual
    async def test() -> None:
        handler, stage = Handler(), make(when_running="wait", max_wait=100)
        handler.gate.clear()
        chain = wrap(handler.handle, stage)
        copies = [asyncio.create_task(settle(chain, new())) for _ in range(50)]
        for number, copy in enumerate(copies[:-1]):
            if number % 3:
                await asyncio.sleep(0.1)  # some are cancelled while they run, some while they wait or claim
            copy.cancel()
        handler.gate.set()
        ended = await asyncio.gather(*copies, return_exceptions=True)
        assert [type(one) for one in ended] == [asyncio.CancelledError] * 49 + [Ack]
        assert handler.most == 1
        assert 1 < handler.calls <= 50
        assert "refused" not in stage.counts
        assert await settle(chain, new()) == Ack(status=204)

    test()


@with_both
def test_the_same_id_of_another_source_is_another_event(make: Make) -> None:
    """K-D1: identity is (source, id), told apart without doubt (trap 22)."""

    @virtual
    async def test() -> None:
        handler, stage = Handler(), make()
        chain = wrap(handler.handle, stage)
        for source, id_ in (("/a", "1"), ("/b", "1"), ("/a1", "1"), ("/a", "11"), ("/a:", "1"), ("/a", ":1")):
            assert await settle(chain, new(source=source, id=id_)) == Ack(status=204)
            assert await settle(chain, new(source=source, id=id_, type="other")) == Ack(status=204)
        assert (handler.calls, duplicates(stage)) == (6, 6)
        long = "/" + "x" * 5000
        for id_ in ("1", "2"):
            assert await settle(chain, new(source=long, id=id_)) == Ack(status=204)
        assert handler.calls == 8

    test()


@with_both
@pytest.mark.parametrize("wrong", [7, "same"])
def test_what_is_no_outcome_is_not_kept_as_one(make: Make, wrong: object) -> None:
    @virtual
    async def test() -> None:
        calls = 0

        async def handle(event: Event) -> Any:
            nonlocal calls
            calls += 1
            return event if wrong == "same" else wrong

        chain = wrap(handle, make())
        assert [(await settle(chain, new())).status for _ in range(2)] == [500, 500]
        assert calls == 2

    test()


# Time.


@pytest.mark.parametrize("store", [MemoryDedupeStore, OverNetwork])
def test_an_event_that_a_crash_left_is_handled_again_after_its_lease(store: Any) -> None:
    """K-D1: crash between claim and commit, lease 30 s."""

    @virtual
    async def test() -> None:
        kept = store(clock=CLOCK)
        assert await kept.claim("2:/s1", "of a process that dies", 30.0) is None
        handler = Handler()
        chain = wrap(handler.handle, stages.deduplicate(kept, clock=CLOCK))
        await asyncio.sleep(29)
        assert isinstance(result := await settle(chain, new()), Nack)
        assert (result.status, result.retry_after) == (409, pytest.approx(1))
        assert handler.calls == 0
        await asyncio.sleep(1)
        assert await settle(chain, new()) == Ack(status=204)
        assert handler.calls == 1

    test()


@with_both
def test_a_handler_may_take_longer_than_the_lease(make: Make) -> None:
    """K-D1: while it runs, no copy does."""

    @virtual
    async def test() -> None:
        handler, stage = Handler(), make(lease=3)
        handler.gate.clear()
        chain = wrap(handler.handle, stage)
        first = asyncio.create_task(settle(chain, new()))
        for _ in range(100):
            await asyncio.sleep(1)
            assert isinstance(result := await settle(chain, new()), Nack)
            assert result.retry_after is not None
            assert 0 < result.retry_after <= 3
        handler.gate.set()
        assert await first == Ack(status=204)
        assert (handler.calls, stage.counts) == (1, {"conflict": 100})

    test()


HOUR = 3600.0


@with_both
def test_a_finished_event_is_remembered_for_the_ttl_of_its_type(make: Make) -> None:
    """K-D1: ttl per type (24 h, 12 h, 7 d)."""

    @virtual
    async def test() -> None:
        ttl = {"com.example.*": 12 * HOUR, "com.example.order.created": 7 * 24 * HOUR}
        handler, stage = Handler(), make(ttl=ttl)
        chain = wrap(handler.handle, stage)
        kinds = {"other": 24, "com.example.x": 12, "com.example.order.created": 7 * 24}
        for kind in kinds:
            await settle(chain, new(type=kind, id=kind))
        now = 0.0
        for kind, hours in sorted(kinds.items(), key=lambda pair: pair[1]):
            for moment, calls in ((hours * HOUR - 1, 0), (hours * HOUR, 1)):
                await asyncio.sleep(moment - now)
                now, before = moment, handler.calls
                assert await settle(chain, new(type=kind, id=kind)) == Ack(status=204)
                assert handler.calls - before == calls

    test()


async def test_one_ttl_for_all_by_a_manual_clock(clock: ManualClock) -> None:
    """K-D1: it expires on time."""
    handler = Handler()
    chain = wrap(handler.handle, stages.deduplicate(ttl=10, clock=clock))
    for seconds, calls in ((0, 1), (9, 1), (1, 2), (9, 2)):
        await clock.advance(seconds)
        await settle(chain, new())
        assert handler.calls == calls


# Keys of one's own.


@with_both
def test_a_function_tells_what_is_the_same(make: Make) -> None:
    """K-D1: None is for events without copies."""

    @virtual
    async def test() -> None:
        handler, stage = Handler(), make(key=lambda event: event.subject)
        chain = wrap(handler.handle, stage)
        for subject in ("a", "a\u00ad", "a\u00ad", "x" * 300, "x" * 301, "a", None, None):
            assert await settle(chain, new(id=repr(subject), subject=subject)) == Ack(status=204)
        assert (handler.calls, stage.counts) == (6, {"duplicate": 2, "unkeyed": 2})

    test()


@pytest.mark.parametrize("wrong", [7, b"key", ("/s", "1"), ""])
async def test_a_key_that_is_none_is_a_failure_of_the_stage(wrong: Any) -> None:
    handler = Handler()
    chain = wrap(handler.handle, stages.deduplicate(key=lambda event: wrong))
    with pytest.raises(StageError, match="stage deduplicate: failed") as caught:
        await chain(new())
    assert isinstance(caught.value.__cause__, TypeError | ValueError)
    assert str(caught.value.__cause__).startswith("key: must ")
    assert handler.calls == 0


@pytest.mark.parametrize(
    ("raised", "status"), [(KeyError("x"), 500), (Reject("no order"), 422), (Retry(1), 503)], ids=repr
)
async def test_a_key_function_that_raises_stops_the_event(raised: Exception, status: int) -> None:
    def fail(event: Event) -> str:
        raise raised

    handler = Handler()
    result = await settle(wrap(handler.handle, stages.deduplicate(key=fail)), new())
    assert (result.status, handler.calls) == (status, 0)


async def test_a_key_that_needs_data_that_the_event_lacks_is_the_events_fault() -> None:
    chain = wrap(Handler().handle, stages.deduplicate(key=lambda event: event.as_type(str)))
    assert (await settle(chain, new(data=7))).status == 422


# Odds and ends.


def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    @virtual
    async def test() -> None:
        handler, stage = Handler(), in_memory(when_running="wait")
        handler.gate.clear()
        chain = wrap(handler.handle, stage)
        first, *others = [asyncio.create_task(settle(chain, new())) for _ in range(3)]
        await turns()
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        assert stage._waiting.by_key == {}  # type: ignore[attr-defined]
        handler.gate.set()
        assert await first == Ack(status=204)

    test()


async def test_a_stored_outcome_that_cannot_be_read_is_a_failure() -> None:
    store = MemoryDedupeStore()
    store.take("2:/s1", "a", 1)
    store.keep("2:/s1", "a", b"\x80", 100)
    with pytest.raises(StageError, match="stage deduplicate: failed"):
        await wrap(Handler().handle, stages.deduplicate(store))(new())


async def test_a_second_stage_on_the_same_store_goes_on_where_the_first_stopped() -> None:
    """K-D1: a restart of the chain forgets nothing that the store knows."""
    store, handler = MemoryDedupeStore(), Handler()
    for _ in range(2):
        async with stages.running(chain := wrap(handler.handle, stages.deduplicate(store))):
            assert await settle(chain, new()) == Ack(status=204)
    assert handler.calls == 1


async def test_the_keys_in_a_store_are_short_and_printable() -> None:
    store = MemoryDedupeStore()
    handler = wrap(Handler().handle, stages.deduplicate(store))
    for name in ("a", "a\u200b\u00a0\u2028", "a\u200b\u00a0", "x" * 1000):
        await handler(new(id=name))
    assert len(store._finished) == 4
    assert all(key.isprintable() and len(key) <= 256 for key in store._finished)


def test_a_stage_describes_itself() -> None:
    assert in_memory(ttl={"*": 5}, name="once").name == "once"
    assert dict(in_memory(ttl={"*": 5}, when_running="wait").parameters) == {
        "store": "MemoryDedupeStore",
        "ttl": {"*": 5},
        "lease": 30.0,
        "when_running": "wait",
        "on_store_error": "refuse",
    }


@pytest.mark.parametrize(
    "given",
    [
        {"store": object()}, {"store": MemoryDedupeStore}, {"key": 7}, {"ttl": 0}, {"ttl": "1"}, {"ttl": {"*": 0}},
        {"lease": 0}, {"max_wait": 0}, {"when_running": "queue"}, {"on_store_error": "ignore"}, {"store_timeout": -1},
        {"name": 7},
    ],
    ids=repr,
)  # fmt: skip
def test_an_argument_that_makes_no_sense_is_refused_by_name(given: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{next(iter(given))}"):
        stages.deduplicate(**given)


def test_a_key_is_not_async() -> None:
    async def later(event: Event) -> str:
        return "key"

    with pytest.raises(TypeError, match="key: must be a plain function, not an async one"):
        stages.deduplicate(key=later)  # type: ignore[arg-type]


def test_a_pattern_that_can_never_match_is_refused() -> None:
    with pytest.raises(ValueError, match="pattern: "):
        stages.deduplicate(ttl={"com.*.x": 5})
