"""`batch`: what is handled together, and what each sender learns of it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cloudevents_kit import (
    ACCEPTED,
    Ack,
    Event,
    HandlerSink,
    Nack,
    Reject,
    Retry,
    Undelivered,
    current_event,
    settle,
    stages,
    wrap,
)
from cloudevents_kit._inbound import Inbound, Limits
from tests.support.events import new
from tests.support.sending import start, statuses, turns
from tests.support.virtual import LoopClock, virtual


class Rows:
    """Keeps the batches that it is given; `answers` says what to return or raise."""

    def __init__(self, answers: Any = None) -> None:
        self.batches: list[list[str]] = []
        self.answers = answers
        self.gate: asyncio.Event | None = None

    async def __call__(self, events: Sequence[Event]) -> Any:
        self.batches.append([event.id for event in events])
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.answers, BaseException):
            raise self.answers
        return self.answers(events) if callable(self.answers) else self.answers


def event(number: int, **given: Any) -> Event:
    return new(id=str(number), **given)


async def ignore(event: Event) -> None: ...


# ---------------------------------------------------------------------------------------------------- when it goes


@virtual
async def test_a_full_batch_goes_at_once(clock: LoopClock) -> None:
    """K-D3."""
    rows = Rows()
    handler = wrap(ignore, stages.batch(rows, max_events=10, max_delay=1))
    async with stages.running(handler):
        results = await asyncio.gather(*start(handler, *range(10)))
    assert clock.monotonic() == 0
    assert rows.batches == [[str(number) for number in range(10)]]
    assert statuses(results) == [204] * 10


@virtual
async def test_a_batch_that_does_not_fill_goes_after_its_delay_from_the_first_event(clock: LoopClock) -> None:
    """K-D3."""
    rows = Rows()
    handler = wrap(ignore, stages.batch(rows, max_events=10, max_delay=1))
    async with stages.running(handler):
        first = start(handler, 0)
        await asyncio.sleep(0.9)
        results = await asyncio.gather(*first, *start(handler, 1, 2))
        assert clock.monotonic() == pytest.approx(1)
    assert rows.batches == [["0", "1", "2"]]
    assert statuses(results) == [204] * 3


@virtual
async def test_data_makes_a_batch_full_too(clock: LoopClock) -> None:
    """K-D3: a larger event is a batch of its own."""
    rows = Rows()
    stage = stages.batch(rows, max_bytes=100, concurrency=9)
    handler = wrap(ignore, stage)
    async with stages.running(handler):
        tasks = [
            asyncio.ensure_future(settle(handler, event(number, data=bytes(size))))
            for number, size in enumerate([60, 30, 30, 70, 200, 5])
        ]
        await turns()
        tasks[-1].cancel()
        tasks.append(asyncio.ensure_future(settle(handler, event(6, data=bytes(99)))))
        await asyncio.gather(*tasks, return_exceptions=True)
        assert clock.monotonic() == 1
    assert rows.batches == [["0", "1"], ["2", "3"], ["4"], ["6"]]


@virtual
async def test_a_batch_that_must_wait_for_a_free_task_takes_more_events(clock: LoopClock) -> None:
    rows = Rows()
    rows.gate = asyncio.Event()
    stage = stages.batch(rows, max_events=3, max_delay=1)
    handler = wrap(ignore, stage)
    async with stages.running(handler):
        tasks = start(handler, 0, 1, 2)
        await turns()
        tasks += start(handler, 3)
        await asyncio.sleep(5)
        tasks += start(handler, 4, 5, 6)  # one more than there is room for
        await asyncio.sleep(0.5)
        assert rows.batches == [["0", "1", "2"]]
        assert (stage.pending, stage.status["pending"]) == (7, 7)
        rows.gate.set()
        await asyncio.gather(*tasks)
        assert clock.monotonic() == 6
    assert rows.batches == [["0", "1", "2"], ["3", "4", "5"], ["6"]]


@virtual
async def test_a_late_batch_goes_as_soon_as_a_task_is_free(clock: LoopClock) -> None:
    rows = Rows()
    rows.gate = asyncio.Event()
    handler = wrap(ignore, stages.batch(rows, max_events=2, max_delay=1))
    async with stages.running(handler):
        tasks = start(handler, 0, 1, 2)
        await asyncio.sleep(7)
        rows.gate.set()
        await asyncio.gather(*tasks)
        assert clock.monotonic() == 7
    assert rows.batches == [["0", "1"], ["2"]]


@virtual
async def test_batches_are_worked_on_at_once_as_far_as_allowed() -> None:
    running = most = 0

    async def work(events: Sequence[Event]) -> None:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        await asyncio.sleep(1)
        running -= 1

    handler = wrap(ignore, stages.batch(work, max_events=2, concurrency=3))
    async with stages.running(handler):
        assert statuses(await asyncio.gather(*start(handler, *range(20)))) == [204] * 20
    assert most == 3


@virtual
async def test_a_drain_lets_batches_go_without_delay(clock: LoopClock) -> None:
    rows = Rows()
    stage = stages.batch(rows, max_delay=60)
    stage.drain()  # not open, nothing to do
    handler = wrap(ignore, stage)
    async with stages.running(handler):
        tasks = start(handler, 0, 1)
        await turns()
        stage.drain()
        await asyncio.gather(*tasks)
        await asyncio.gather(*start(handler, 2, 3))
        stage.drain()
    assert clock.monotonic() == 0
    assert rows.batches == [["0", "1"], ["2", "3"]]
    async with stages.running(handler):
        await asyncio.gather(*start(handler, 4))
        assert clock.monotonic() == 60


# ---------------------------------------------------------------------------------------------- outcomes per event


@virtual
async def test_results_go_back_to_their_own_events_and_handled_ones_go_on() -> None:
    """K-D3."""
    went_on: list[str] = []

    async def after(event: Event) -> None:
        assert current_event() is event
        went_on.append(event.id)

    reply = new(id="reply")
    answers: list[Any] = [
        None,
        Ack(),
        reply,
        Ack(status=200, reply=reply),
        ACCEPTED,
        Ack(status=202),
        Nack(status=422, reason="no"),
        Undelivered(reason="refused"),
        Reject("never", 410),
        Retry(3),
        ValueError("x"),
        asyncio.CancelledError(),
        "nonsense",
    ]
    handler = wrap(after, stages.batch(Rows(answers), max_events=len(answers)))
    async with stages.running(handler):
        results = await asyncio.gather(*start(handler, *range(len(answers))))
    assert statuses(results) == [204, 204, 200, 200, 202, 202, 422, 502, 410, 503, 500, 500, 500]
    assert went_on == ["0", "1"]
    assert isinstance(results[2], Ack)
    assert results[2].reply == reply
    assert isinstance(results[9], Nack)
    assert results[9].retry_after == 3


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        (ValueError("secret"), 500),
        (Retry(9), 503),
        (Reject("no"), 422),
        (TimeoutError(), 503),
        ([None], 500),
        ([None] * 4, 500),
        ("abc", 500),
        (5, 500),
        (lambda events: iter([None] * 3), 500),
    ],
)
def test_a_batch_handler_that_fails_fails_all_of_its_callers(answers: Any, status: int) -> None:
    """K-D3: none was acknowledged before."""
    went_on: list[str] = []

    async def after(event: Event) -> None:
        went_on.append(event.id)

    @virtual
    async def test() -> None:
        stage = stages.batch(Rows(answers), max_events=3)
        handler = wrap(after, stage)
        async with stages.running(handler):
            assert statuses(await asyncio.gather(*start(handler, *range(3)))) == [status] * 3
        assert stage.counts == {"batches": 1, "events": 3, "failed": 1}

    test()
    assert went_on == []


@virtual
async def test_each_caller_gets_an_error_of_its_own_that_names_the_stage_and_its_event() -> None:
    cause = ValueError("x")
    handler = wrap(ignore, stages.batch(Rows(cause), max_events=2))
    async with stages.running(handler):
        calls = [asyncio.ensure_future(handler(event(number))) for number in range(2)]
        errors: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    assert [one.key for one in errors] == [("/s", "0"), ("/s", "1")]
    assert [one.path for one in errors] == [("Rows",), ("Rows",)]
    assert all(one.__cause__ is cause for one in errors)
    refusals: list[Any] = []
    handler = wrap(ignore, stages.batch(Rows(Reject("no")), max_events=2))
    async with stages.running(handler):
        calls = [asyncio.ensure_future(handler(event(number))) for number in range(2)]
        refusals = await asyncio.gather(*calls, return_exceptions=True)
    assert refusals[0] is not refusals[1]


@virtual
async def test_a_plain_function_is_a_batch_handler_too() -> None:
    seen: list[int] = []
    handler = wrap(ignore, stages.batch(lambda events: seen.append(len(events)), max_events=2))
    async with stages.running(handler):
        assert statuses(await asyncio.gather(*start(handler, 1, 2))) == [204] * 2
    assert seen == [2]


@virtual
async def test_what_fails_after_the_batch_fails_its_own_event() -> None:
    async def after(event: Event) -> None:
        if event.id == "1":
            raise Reject

    handler = wrap(after, stages.batch(Rows(), max_events=3))
    async with stages.running(handler):
        assert statuses(await asyncio.gather(*start(handler, 0, 1, 2))) == [204, 422, 204]


@virtual
async def test_nothing_is_acknowledged_before_its_batch_is_done() -> None:
    """Trap 7."""
    rows = Rows()
    rows.gate = asyncio.Event()
    handler = wrap(ignore, stages.batch(rows, max_events=2))
    async with stages.running(handler):
        tasks = start(handler, 0, 1)
        await asyncio.sleep(20)
        assert not any(task.done() for task in tasks)
        rows.gate.set()
        assert statuses(await asyncio.gather(*tasks)) == [204] * 2


@virtual
async def test_work_that_takes_too_long_is_cancelled_and_its_events_are_to_be_sent_again(clock: LoopClock) -> None:
    rows = Rows()
    rows.gate = asyncio.Event()
    handler = wrap(ignore, stages.batch(rows, max_events=2, timeout=5))
    async with stages.running(handler):
        with pytest.raises(stages.StageError) as caught:
            await asyncio.gather(*(handler(event(number)) for number in range(2)))
        assert caught.value.kind == "timeout"
        assert clock.monotonic() == 5
        rows.gate.set()
        assert statuses(await asyncio.gather(*start(handler, 2, 3))) == [204] * 2


@virtual
async def test_work_has_no_current_event_and_the_context_of_the_opening() -> None:
    found: list[Any] = []

    async def work(events: Sequence[Event]) -> None:
        found.append(current_event())

    handler = wrap(ignore, stages.batch(work, max_events=1))
    async with stages.running(handler):
        assert await settle(handler, event(1))
    assert found == [None]


@virtual
async def test_work_that_ends_as_if_cancelled_fails_its_events() -> None:
    stage = stages.batch(Rows(asyncio.CancelledError()), max_events=2)
    handler = wrap(ignore, stage)
    async with stages.running(handler):
        assert statuses(await asyncio.gather(*start(handler, 0, 1))) == [500] * 2
        assert statuses(await asyncio.gather(*start(handler, 2, 3))) == [500] * 2


# ------------------------------------------------------------------------------------------------- room and leaving


@virtual
async def test_over_the_limit_events_wait_for_room_or_are_refused() -> None:
    """K-D3: max_pending."""
    for on_full, last in (("wait", 204), ("refuse", 503)):
        rows = Rows()
        rows.gate = asyncio.Event()
        stage = stages.batch(rows, max_events=2, max_pending=2, on_full=on_full)  # type: ignore[arg-type]
        handler = wrap(ignore, stage)
        async with stages.running(handler):
            tasks = start(handler, 0, 1, 2, 3)
            await turns()
            assert stage.pending == 2
            assert [task.done() for task in tasks] == [False, False, last == 503, last == 503]
            rows.gate.set()
            assert statuses(await asyncio.gather(*tasks)) == [204, 204, last, last]
        assert stage.counts["refused"] == (2 if last == 503 else 0)


@virtual
async def test_a_caller_that_leaves_takes_its_event_along_if_it_has_not_begun(clock: LoopClock) -> None:
    rows = Rows()
    rows.gate = asyncio.Event()
    stage = stages.batch(rows, max_events=3, max_delay=1)
    handler = wrap(ignore, stage)
    async with stages.running(handler):
        running = start(handler, 0, 1, 2)
        await turns()
        ready = start(handler, 3, 4, 5)
        given_up = start(handler, 6, 7, 8)
        still_open = start(handler, 9, 10)
        await turns()
        for task in (running[1], ready[0], *given_up, still_open[0]):
            task.cancel()
        await turns()
        rows.gate.set()
        results: list[Any] = await asyncio.gather(*running, *ready, *given_up, *still_open, return_exceptions=True)
    assert rows.batches == [["0", "1", "2"], ["4", "5"], ["10"]]
    left = [isinstance(one, asyncio.CancelledError) for one in results]
    assert left == [number in {1, 3, 6, 7, 8, 9} for number in range(11)]
    assert stage.pending == 0
    assert clock.monotonic() == 1


@virtual
async def test_when_all_leave_nothing_is_worked_on(clock: LoopClock) -> None:
    rows = Rows()
    stage = stages.batch(rows, max_events=2)
    handler = wrap(ignore, stage)
    async with stages.running(handler):
        tasks = start(handler, 0)
        await turns()
        tasks[0].cancel()
        await turns()
        filled = start(handler, 1, 2)
        await asyncio.sleep(0)  # full, but the work has not begun
        for task in filled:
            task.cancel()
        await asyncio.gather(*filled, return_exceptions=True)
    assert rows.batches == []
    assert clock.monotonic() == 0


@virtual
async def test_fifty_senders_some_of_which_leave_disturb_no_other() -> None:
    rows = Rows(lambda events: [event.reply(type="t", source="/r", data=event.id) for event in events])
    stage = stages.batch(rows, max_events=7, max_delay=0.5, concurrency=2, max_pending=20)
    handler = wrap(ignore, stage)
    async with stages.running(handler):
        tasks = start(handler, *range(50))
        for number in range(0, 50, 3):
            asyncio.get_running_loop().call_later(number / 100, tasks[number].cancel)
        results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    for number, result in enumerate(results):
        if not isinstance(result, asyncio.CancelledError):
            assert result.reply.data == str(number)
        else:
            assert number % 3 == 0
    handled = [number for one in rows.batches for number in one]
    assert len(handled) == len(set(handled))
    assert stage.pending == 0


# -------------------------------------------------------------------------------------------------- open and closed


@virtual
async def test_before_it_is_opened_and_after_it_is_closed_it_refuses() -> None:
    rows = Rows()
    handler = wrap(ignore, stages.batch(rows))
    assert statuses([await settle(handler, event(1))]) == [503]
    async with stages.running(handler):
        pass
    assert statuses([await settle(handler, event(1))]) == [503]
    assert rows.batches == []


@virtual
async def test_a_close_flushes_the_rest(clock: LoopClock) -> None:
    """K-D3."""
    rows = Rows()
    handler = wrap(ignore, stages.batch(rows, max_events=2, max_delay=60))
    async with stages.running(handler):
        tasks = start(handler, 0, 1, 2, 3, 4)
        await turns()
    assert statuses(await asyncio.gather(*tasks)) == [204] * 5
    assert rows.batches == [["0", "1"], ["2", "3"], ["4"]]
    assert clock.monotonic() == 0


@virtual
async def test_what_a_close_cannot_finish_is_cancelled_and_answered_503_and_nobody_waits_for_ever(
    clock: LoopClock,
) -> None:
    """Trap 12."""
    rows = Rows()
    rows.gate = asyncio.Event()
    stage = stages.batch(rows, max_events=2, max_pending=5, max_delay=60, grace=3)
    handler = wrap(ignore, stage)
    async with stages.running(handler):
        tasks = start(handler, *range(8))
        await turns()
    assert statuses(await asyncio.gather(*tasks)) == [503] * 8
    assert rows.batches == [["0", "1"]]
    assert clock.monotonic() == 3
    assert stage.pending == 0
    rows.gate.set()
    async with stages.running(handler):
        assert statuses(await asyncio.gather(*start(handler, 0, 1))) == [204] * 2


@virtual
async def test_a_close_that_comes_before_the_work_has_begun_answers_all() -> None:
    rows = Rows()
    handler = wrap(ignore, stages.batch(rows, max_events=2, grace=0))
    async with stages.running(handler):
        tasks = start(handler, 0, 1, 2, 3, 4)
        await asyncio.sleep(0)
    found = statuses(await asyncio.gather(*tasks))
    assert found[-1] == 503
    assert found == [204 if str(number) in {id for one in rows.batches for id in one} else 503 for number in range(5)]


@virtual
async def test_a_close_leaves_nobody_waiting_whose_neighbour_leaves_at_the_same_time() -> None:
    rows = Rows()
    rows.gate = asyncio.Event()
    stage = stages.batch(rows, max_events=2, grace=1)
    handler = wrap(ignore, stage)

    async def one(number: int) -> None:
        await handler(event(number))

    async def group() -> None:  # when one has failed, the other is cancelled
        async with asyncio.TaskGroup() as together:
            for number in (1, 2):
                together.create_task(one(number))

    async with stages.running(handler):
        first = start(handler, 0)
        both = asyncio.ensure_future(group())
        await turns()
        last = start(handler, 3)
        await turns()
    assert statuses(await asyncio.gather(*first, *last)) == [503] * 2
    with pytest.raises(ExceptionGroup):
        await both
    assert stage.pending == 0


@virtual
async def test_a_close_that_is_cancelled_while_it_waits_for_the_work_to_end_leaves_nobody_waiting() -> None:
    async def work(events: Sequence[Event]) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(10)

    stage = stages.batch(work, max_events=1, grace=1, timeout=None)
    await stage.__aenter__()
    tasks = start(wrap(ignore, stage), 0, 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stage.__aexit__(), 2)
    assert statuses(await asyncio.gather(*tasks)) == [503] * 2
    assert stage.pending == 0


@virtual
async def test_a_chain_that_is_cancelled_while_it_leaves_has_left() -> None:
    rows = Rows()
    rows.gate = asyncio.Event()
    stage = stages.batch(rows, max_events=1)
    handler = wrap(ignore, stage)
    loop = asyncio.get_running_loop()

    async def come_and_go() -> None:
        await stage.__aenter__()
        loop.call_soon(second.cancel)
        await stage.__aexit__()

    await stage.__aenter__()
    tasks = start(handler, 0)
    await turns()
    first = asyncio.ensure_future(stage.__aexit__())
    await turns()
    second = asyncio.ensure_future(come_and_go())
    third = asyncio.ensure_future(stage.__aenter__())
    await turns()
    rows.gate.set()
    await asyncio.wait((first, second, third))
    assert statuses(await asyncio.gather(*tasks, *start(handler, 1))) == [204] * 2
    await stage.__aexit__()
    assert statuses(await asyncio.gather(*start(handler, 2))) == [503]


@virtual
async def test_a_close_that_is_cancelled_leaves_nobody_waiting() -> None:
    rows = Rows()
    rows.gate = asyncio.Event()
    stage = stages.batch(rows, max_events=1)
    await stage.__aenter__()
    tasks = start(wrap(ignore, stage), 0, 1)
    await turns()
    closing = asyncio.ensure_future(stage.__aexit__())
    await turns()
    closing.cancel()
    assert statuses(await asyncio.gather(*tasks)) == [503] * 2
    with pytest.raises(asyncio.CancelledError):
        await closing


@virtual
async def test_two_chains_may_open_it_and_the_last_one_closes_it() -> None:
    stage = stages.batch(Rows(), max_events=1)
    one, other = wrap(ignore, stage), wrap(ignore, stage)
    async with stages.running(one):
        async with stages.running(other):
            assert await settle(other, event(1))
        assert await settle(one, event(2))
    assert not await settle(one, event(3))


@virtual
async def test_a_receiver_fills_batches_from_one_request() -> None:
    """A batch of HTTP fills a batch of the stage only if its events are handled at once."""
    rows = Rows()
    found = Inbound(ignore, (stages.batch(rows, max_events=50),), Limits(batch_concurrency=100))
    body = b'{"specversion":"1.0","id":"%d","source":"/s","type":"t"}'
    async with stages.running(found._handler):
        answer = await found.answer(
            [(b"content-type", b"application/cloudevents-batch+json")],
            b"[" + b",".join(body % number for number in range(100)) + b"]",
        )
    assert answer.status == 204
    assert [len(one) for one in rows.batches] == [50, 50]


@virtual
async def test_a_sink_with_a_batch_gathers_what_is_sent() -> None:
    rows = Rows()
    sink = HandlerSink(ignore, stages.batch(rows, max_events=3))
    async with stages.running(sink):
        assert all(await asyncio.gather(*(sink.send(event(number)) for number in range(3))))
    assert rows.batches == [["0", "1", "2"]]


def test_it_tells_its_settings_and_is_named_after_its_work() -> None:
    def write_rows(events: Sequence[Event]) -> None: ...

    stage = stages.batch(write_rows, max_bytes=5)
    assert (stage.kind, stage.name) == ("batch", "write_rows")
    assert stage.parameters == {
        "max_events": 100,
        "max_bytes": 5,
        "max_delay": 1.0,
        "max_pending": 10_000,
        "on_full": "wait",
        "concurrency": 1,
        "timeout": 30.0,
        "grace": 10.0,
    }
    assert stages.batch(write_rows, timeout=None, name="rows").name == "rows"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_events", 0),
        ("max_bytes", 0),
        ("max_delay", -1),
        ("max_pending", 99),
        ("on_full", "drop"),
        ("concurrency", 0),
        ("timeout", 0),
        ("grace", -1),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: must be "):
        stages.batch(lambda events: None, **{name: value})


def test_work_must_be_callable() -> None:
    with pytest.raises(TypeError, match=r"^work: must be callable"):
        stages.batch(5)  # type: ignore[arg-type]
