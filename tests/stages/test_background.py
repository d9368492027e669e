"""`background`: owned tasks, bounded, drained when the chain is closed; nothing gets lost without a word."""

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest

from cloudevents_kit import Ack, Event, Nack, Receiver, Reject, Result, RetryPolicy, Sender, current_event, settle, wrap
from cloudevents_kit.stages import Stage, background, keep_if, running
from cloudevents_kit.stages._stage import fate
from tests.support.branches import BROKEN, DOWN, SECRET, Seen, Slow, other_tasks
from tests.support.events import new
from tests.support.parts import Gate
from tests.support.virtual import LoopClock, virtual

CUT_OFF = Nack(status=503, reason="cut off when the stage was closed", retryable=True)
CLOSED = Nack(status=503, reason="not open (background)", retryable=True, retry_after=1.0)


class Reports(list[tuple[str, Result]]):
    def __call__(self, event: Event, result: Result) -> None:
        self.append((event.id, result))


@virtual
async def test_the_event_goes_on_at_once_and_the_branch_has_it_too(clock: LoopClock) -> None:
    slow, reports = Slow(10), Reports()
    stage = background(slow, report=reports)
    handler = wrap(Seen().handler("next"), stage)
    async with running(handler):
        assert await settle(handler, new())
        assert clock.monotonic() == 0
        await asyncio.sleep(0)
        assert (slow.inside, stage.status) == (1, {"running": 1, "waiting": 0})
    assert clock.monotonic() == pytest.approx(10)
    assert (slow.ends, reports, stage.counts) == (["done"], [("1", Ack())], {"done": 1})


async def test_every_kind_of_branch_ends_there() -> None:
    for branch in ("handler", "sink", "stage"):
        seen = Seen()
        handler = wrap(seen.handler("next"), background(getattr(seen, branch)("branch")))
        async with running(handler):
            await settle(handler, new())
        assert seen == ["next", "branch"]


async def test_the_end_of_the_request_does_not_cancel_it() -> None:
    """K-C7: and it knows its event and the context of the request."""
    gate = Gate()
    found: list[Any] = []
    user: ContextVar[str] = ContextVar("user")

    async def branch(event: Event) -> None:
        await gate(event)
        found.extend((current_event(), user.get()))

    async def set_user(event: Event, call_next: Any) -> Any:
        user.set(f"user of {event.id}")
        return await call_next(event)

    async with (
        Receiver(Seen().handler("next"), set_user, background(branch), port=0) as receiver,
        Sender(receiver.url, retry=RetryPolicy.none()) as sender,
    ):
        event = new()
        assert await sender.send(event)
        await gate.wait()
        gate.leave.set()
    assert (gate.ended, found) == (["done"], [event, "user of 1"])


@virtual
async def test_a_request_that_is_cancelled_afterwards_does_not_cancel_it() -> None:
    """K-C7."""
    slow = Slow(10)
    handler = wrap(Slow(5), background(slow))
    async with running(handler):
        task = asyncio.create_task(settle(handler, new()))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert slow.ends == ["done"]


@pytest.mark.parametrize("max_waiting", [0, 10])
@virtual
async def test_when_it_is_full_events_wait_in_order(clock: LoopClock, max_waiting: int) -> None:
    """K-C7."""
    slow, seen = Slow(1), Seen()
    stage = background(slow, limit=2, max_waiting=max_waiting, grace=60)
    handler = wrap(seen.handler("next"), stage)
    async with running(handler):
        tasks = [asyncio.create_task(settle(handler, new(id=str(number)))) for number in range(50)]
        await asyncio.sleep(0.5)
        assert len(seen) == 2 + max_waiting
        assert all(await asyncio.gather(*tasks))
        assert clock.monotonic() == pytest.approx(24 - max_waiting // 2)
    assert slow.begun == [str(number) for number in range(50)]
    assert (slow.most, slow.ends) == (2, ["done"] * 50)


@virtual
async def test_when_it_is_full_an_event_is_refused_if_asked_to() -> None:
    """K-C7."""
    stage = background(Slow(1), limit=2, max_waiting=3, on_full="refuse")
    seen = Seen()
    handler = wrap(seen.handler("next"), stage)
    async with running(handler):
        results = [await settle(handler, new(id=str(number))) for number in range(6)]
    assert [bool(result) for result in results] == [True] * 5 + [False]
    assert results[5] == Nack(
        status=503, reason="too many events are waiting (background)", retryable=True, retry_after=1.0
    )
    assert (len(seen), stage.counts) == (5, {"refused": 1, "done": 5})


@virtual
async def test_a_request_that_is_cancelled_while_it_waits_for_room_leaves_no_trace() -> None:
    slow = Slow(1)
    handler = wrap(Seen().handler("next"), background(slow, limit=1, max_waiting=0))
    async with running(handler):
        tasks = [asyncio.create_task(settle(handler, new(id=str(number)))) for number in range(50)]
        await asyncio.sleep(0.5)
        for task in tasks[1::2]:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [Ack, asyncio.CancelledError] * 25
    assert slow.begun == [str(number) for number in range(0, 50, 2)]


@virtual
async def test_a_place_is_not_given_to_a_request_that_was_cancelled_just_then() -> None:
    begun: list[str] = []
    tasks: dict[str, asyncio.Task[Result]] = {}

    async def branch(event: Event) -> None:
        begun.append(event.id)
        await asyncio.sleep(1)
        if event.id == "1":  # before anybody learns that this one has ended
            asyncio.get_running_loop().call_soon(tasks["2"].cancel)

    handler = wrap(Seen().handler("next"), background(branch, limit=1, max_waiting=0))
    async with running(handler):
        for name in "123":
            tasks[name] = asyncio.create_task(settle(handler, new(id=name)))
        ends = await asyncio.gather(*tasks.values(), return_exceptions=True)
    assert [type(end) for end in ends] == [Ack, asyncio.CancelledError, Ack]
    assert begun == ["1", "3"]


@virtual
async def test_when_closed_it_waits_for_what_it_has_up_to_its_grace(clock: LoopClock) -> None:
    """K-C7: all that it took are done, or told of."""
    slow, reports = Slow(4), Reports()
    stage = background(slow, limit=1, grace=10, report=reports)
    handler = wrap(Seen().handler("next"), stage)
    async with running(handler):
        for number in range(5):
            await settle(handler, new(id=str(number)))
    assert clock.monotonic() == pytest.approx(10)
    assert slow.ended == [("0", "done"), ("1", "done"), ("2", "cancelled")]
    assert sorted(reports) == [("0", Ack()), ("1", Ack()), ("2", CUT_OFF), ("3", CUT_OFF), ("4", CUT_OFF)]
    assert stage.counts == {"done": 2, "cut_off": 3}
    assert not other_tasks()


@virtual
async def test_each_event_that_is_cut_off_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    stage = background(Slow(4), limit=1, grace=0)
    handler = wrap(Seen().handler("next"), stage)
    async with running(handler):
        for number in range(2):
            await settle(handler, new(id=str(number)))
    assert sorted(record.getMessage() for record in caplog.records) == [
        f"stage background: cut off: id='{number}' source='/s' type='t'" for number in range(2)
    ]


@virtual
async def test_a_close_that_is_cancelled_leaves_nothing_behind() -> None:
    slow, reports = Slow(60), Reports()
    stage: Any = background(slow, limit=1, report=reports)
    await stage.__aenter__()
    handler = wrap(Seen().handler("next"), stage)
    for number in range(3):
        await settle(handler, new(id=str(number)))
    closing = asyncio.create_task(stage.__aexit__())
    await asyncio.sleep(1)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert sorted(reports) == [(str(number), CUT_OFF) for number in range(3)]
    assert not other_tasks()


@virtual
async def test_a_report_that_hangs_does_not_hold_up_the_end(clock: LoopClock, caplog: pytest.LogCaptureFixture) -> None:
    async def hang(event: Event, result: Result) -> None:
        await asyncio.sleep(3600)

    stage = background(Slow(60), limit=1, grace=1, report=hang)
    handler = wrap(Seen().handler("next"), stage)
    async with running(handler):
        await settle(handler, new(id="1"))
        await settle(handler, new(id="2"))
    assert clock.monotonic() == pytest.approx(11)
    assert stage.counts == {"cut_off": 2, "report_failed": 2}
    assert "took too long" in caplog.text


@virtual
async def test_who_waits_for_room_while_it_is_closed_is_refused() -> None:
    stage = background(Slow(5), limit=1, max_waiting=0)
    handler = wrap(Seen().handler("next"), stage)
    async with running(handler):
        tasks = [asyncio.create_task(settle(handler, new(id=str(number)))) for number in range(3)]
        await asyncio.sleep(1)
        tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[0] == Ack()
    assert isinstance(results[1], asyncio.CancelledError)
    assert results[2] == Nack(status=503, reason="closed (background)", retryable=True, retry_after=1.0)
    assert stage.counts == {"refused": 1, "done": 1}


async def test_it_refuses_events_when_it_is_not_open_and_can_be_opened_again() -> None:
    seen = Seen()
    stage = background(seen.handler("branch"))
    handler = wrap(seen.handler("next"), stage)
    assert await settle(handler, new()) == CLOSED
    for _ in range(2):
        async with running(handler):
            assert await settle(handler, new())
        assert await settle(handler, new()) == CLOSED
    assert seen == ["next", "branch"] * 2
    assert stage.counts == {"refused": 3, "done": 2}


@virtual
async def test_who_opens_it_while_it_is_closed_waits_and_nothing_taken_afterwards_is_cut_off(clock: LoopClock) -> None:
    slow = Slow(3)
    stage = background(slow, limit=1, grace=4)
    first, second = wrap(Seen().handler("next"), stage), wrap(Seen().handler("next"), stage)
    one, two = running(first), running(second)
    await one.__aenter__()
    await settle(first, new(id="1"))
    closing = asyncio.create_task(one.__aexit__(None, None, None))
    await asyncio.sleep(1)
    assert await settle(second, new()) == CLOSED
    async with two:
        assert clock.monotonic() == pytest.approx(3)
        for name in "23":
            assert await settle(second, new(id=name))
        await closing
        await asyncio.sleep(3.5)
    assert slow.ended == [("1", "done"), ("2", "done"), ("3", "done")]
    assert stage.counts == {"refused": 1, "done": 3}


async def test_a_branch_that_ends_as_if_cancelled_has_failed() -> None:
    async def stray(event: Event) -> None:
        raise asyncio.CancelledError

    reports = Reports()
    stage = background(stray, report=reports)
    handler = wrap(Seen().handler("next"), stage)
    async with running(handler):
        assert await settle(handler, new())
    assert reports == [("1", Nack(status=500, reason="the branch was cancelled", retryable=True))]
    assert stage.counts == {"failed": 1}


async def test_it_may_be_part_of_two_chains() -> None:
    seen = Seen()
    stage = background(seen.handler("branch"))
    handler = wrap(seen.handler("next"), stage)
    async with running(handler):
        async with running(wrap(seen.handler("other"), stage)):
            pass
        assert await settle(handler, new())
    assert await settle(handler, new()) == CLOSED


async def test_a_failure_is_logged_with_its_traceback_counted_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    """K-P9: once, and the peer is told nothing of it."""
    seen, reports = Seen(), Reports()
    stage = background(seen.failing("a", OSError(SECRET)), report=reports)
    handler = wrap(seen.handler("next"), stage)
    async with running(handler):
        assert await settle(handler, new()) == Ack()
    assert reports == [("1", Nack(status=500, reason="the handler failed", retryable=True))]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert f"OSError: {SECRET}" in caplog.text
    assert stage.counts == {"failed": 1}


async def test_a_verdict_is_reported_as_well() -> None:
    for branch, result in (
        (Seen().failing("a", Reject("no")), Nack(status=422, reason="no")),
        (Seen().sink("a", DOWN), DOWN),
    ):
        reports = Reports()
        handler = wrap(Seen().handler("next"), background(branch, report=reports))
        async with running(handler):
            await settle(handler, new())
        assert reports == [("1", result)]


@pytest.mark.parametrize("report", BROKEN)
async def test_a_report_that_fails_is_logged_once(report: Any, caplog: pytest.LogCaptureFixture) -> None:
    """K-P9."""
    stage = background(Seen().handler("a"), report=report)
    handler = wrap(Seen().handler("next"), stage)
    async with running(handler):
        assert await settle(handler, new())
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert stage.counts == {"done": 1, "report_failed": 1}


async def test_what_becomes_of_the_event_in_the_background_is_not_what_becomes_of_it() -> None:
    noted: list[str] = []
    fate.set(noted)
    drop = keep_if(lambda event: False)
    handler = wrap(Seen().handler("next"), background(drop))
    async with running(handler):
        await settle(handler, new())
    assert (noted, drop.counts) == ([], {"dropped": 1})


@virtual
async def test_under_any_mixture_every_event_is_accounted_for() -> None:
    """K-C7: 50 tasks, some cancelled, some events cut off; what it took is done, failed or cut off."""
    reports = Reports()

    async def branch(event: Event) -> None:
        number = int(event.id)
        await asyncio.sleep(number % 7)
        if number % 5 == 0:
            raise OSError

    stage = background(branch, limit=3, max_waiting=4, grace=9, report=reports)
    taken: list[str] = []

    async def end(event: Event) -> None:
        taken.append(event.id)

    handler = wrap(end, stage)
    async with running(handler):
        tasks = [asyncio.create_task(settle(handler, new(id=str(number)))) for number in range(50)]
        await asyncio.sleep(3)
        for task in tasks[::3]:
            task.cancel()
        await asyncio.sleep(20)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} == {Ack, Nack, asyncio.CancelledError}
    assert sorted(name for name, _ in reports) == sorted(taken)
    assert stage.counts.pop("refused") == sum(isinstance(result, Nack) for result in results)
    assert sum(stage.counts.values()) == len(taken)
    assert not other_tasks()


def test_it_describes_itself() -> None:
    def audit(event: Event) -> None: ...

    stage = background(audit)
    assert isinstance(stage, Stage)
    assert (stage.kind, stage.name, stage.branches) == ("background", "background", {"branch": audit})
    assert dict(stage.parameters) == {"limit": 100, "max_waiting": 1000, "on_full": "wait", "grace": 10.0}


any_background: Any = background  # takes anything, as far as types go


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: any_background(1), "branch: must be a handler, a sink or a stage"),
        (lambda: any_background(print, limit=0), "limit: must be 1 or more"),
        (lambda: any_background(print, max_waiting=-1), "max_waiting: must be 0 or more"),
        (lambda: any_background(print, on_full="drop"), "on_full: must be 'wait' or 'refuse'"),
        (lambda: any_background(print, grace=-1), "grace: must be finite and not negative"),
        (lambda: any_background(print, report=1), "report: must be callable"),
    ],
)
def test_a_wrong_argument_is_named(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()
