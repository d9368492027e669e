"""The stage that decides what becomes of an event that failed."""

import asyncio
import logging
from typing import Any

import pytest

from cloudevents_kit import (
    Ack,
    Event,
    Nack,
    Reject,
    Result,
    Retry,
    Undelivered,
    current_event,
    settle,
    stages,
    wrap,
)
from cloudevents_kit._errors import StageError
from tests.support.events import new
from tests.support.virtual import LoopClock, virtual


def failing(error: Exception) -> Any:
    async def handler(event: Event) -> None:
        raise error

    return handler


class Letters:
    """A hook that keeps what it gets, after a while."""

    def __init__(self, takes: float = 0.0, error: BaseException | None = None) -> None:
        self.takes = takes
        self.error = error
        self.began = 0
        self.kept: list[tuple[Event, Exception]] = []

    async def __call__(self, event: Event, error: Exception) -> None:
        self.began += 1
        await asyncio.sleep(self.takes)
        if self.error is not None:
            raise self.error
        self.kept.append((event, error))


async def test_what_succeeds_is_left_alone() -> None:
    letters, reply = Letters(), new(id="reply")

    async def handler(event: Event) -> Event:
        return reply

    guard = stages.on_error(letters)
    assert await wrap(handler, guard)(new()) is reply
    assert (letters.began, dict(guard.counts)) == (0, {})


async def test_propagate_lets_everything_pass() -> None:
    error = OSError()
    guard = stages.on_error("propagate")
    with pytest.raises(OSError) as caught:
        await wrap(failing(error), guard)(new())
    assert caught.value is error
    assert guard.counts == {"propagated": 1}


async def test_ack_acknowledges_with_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    guard = stages.on_error("ack", name="whatever")
    error = OSError("broken")
    assert await settle(wrap(failing(error), guard), new()) == Ack(status=204)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "stage whatever: acknowledged although it failed: id='1' source='/s' type='t'"
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert guard.counts == {"acknowledged": 1}


@virtual
async def test_an_event_is_acknowledged_once_the_hook_returns(clock: LoopClock) -> None:
    letters, error = Letters(takes=3), OSError()
    guard = stages.on_error(letters)
    event = new()
    assert await settle(wrap(failing(error), guard), event)
    assert (letters.kept, clock.monotonic()) == ([(event, error)], 3)
    assert guard.counts == {"handed_over": 1}


async def test_a_plain_function_will_do_as_a_hook() -> None:
    kept: list[tuple[Event | None, Event, Exception]] = []

    def hook(event: Event, error: Exception) -> None:
        kept.append((current_event(), event, error))

    error, event = OSError(), new()
    assert await settle(wrap(failing(error), stages.on_error(hook)), event)
    assert kept == [(event, event, error)]


@virtual
async def test_a_hook_has_a_fresh_deadline_after_a_timeout(clock: LoopClock) -> None:
    """K-P10."""
    letters = Letters(takes=5)

    async def slow(event: Event) -> None:
        await asyncio.sleep(60)

    assert await settle(wrap(slow, stages.on_error(letters), stages.timeout(0.05)), new())
    ((_, error),) = letters.kept
    assert isinstance(error, StageError)
    assert error.kind == "timeout"
    assert clock.monotonic() == pytest.approx(5.05, abs=0.001)


@virtual
async def test_a_hook_that_fails_makes_a_nack_and_both_errors_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    """K-P10."""
    error, broken = ValueError("first"), OSError("the store is down")
    guard = stages.on_error(Letters(error=broken))
    result = await settle(wrap(failing(error), guard), new())
    assert result == Nack(status=500, reason="the handler failed", retryable=True)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    told: Any = record.exc_info[1]
    assert isinstance(told, StageError)
    assert told.path == ("on_error",)
    group: Any = told.__cause__
    assert group.exceptions == (error, broken)
    assert guard.counts == {"hook_failed": 1}


class RefusingStore:
    def __init__(self, result: Result) -> None:
        self.result = result

    async def send(self, event: Event, /) -> Result:
        return self.result


@pytest.mark.parametrize("error", [OSError(), Reject("mine"), Retry(after=5)], ids=repr)
@pytest.mark.parametrize("broken", [Reject("the store does not want it"), Retry(), TimeoutError(), OSError()], ids=repr)
@virtual
async def test_a_hook_that_fails_never_makes_it_final(error: Exception, broken: Exception) -> None:
    """K-P10: else nobody would have the event any more."""
    result = await settle(wrap(failing(error), stages.on_error(Letters(error=broken))), new())
    assert isinstance(result, Nack)
    assert result.retryable


@pytest.mark.parametrize(
    ("result", "acknowledged"),
    [
        (Ack(), True),
        (Nack(status=400), False),
        (Nack(status=503, retryable=True), False),
        (Undelivered(reason="dns"), False),
    ],
    ids=["ack", "400", "503", "undelivered"],
)
@virtual
async def test_the_result_of_a_sink_is_not_taken_for_success(result: Result, acknowledged: bool) -> None:
    """K-P10: a sink does not raise."""
    store = RefusingStore(result)

    async def hook(event: Event, error: Exception) -> Result:
        return await store.send(event)

    found = await settle(wrap(failing(Reject()), stages.on_error(hook)), new())
    assert found.is_ack is acknowledged
    assert acknowledged or (isinstance(found, Nack) and found.retryable)


@virtual
async def test_a_hook_has_no_more_time_than_it_was_given(clock: LoopClock) -> None:
    letters = Letters(takes=60)
    with pytest.raises(StageError) as caught:
        await wrap(failing(OSError()), stages.on_error(letters, timeout=2))(new())
    group: Any = caught.value.__cause__
    assert [type(one) for one in group.exceptions] == [OSError, TimeoutError]
    assert clock.monotonic() == 2


async def test_a_hook_that_ends_as_if_it_had_been_cancelled_has_failed() -> None:
    letters = Letters(error=asyncio.CancelledError())
    with pytest.raises(StageError) as caught:
        await wrap(failing(OSError()), stages.on_error(letters))(new())
    group: Any = caught.value.__cause__
    assert str(group.exceptions[1]) == "ended as if it had been cancelled"


@virtual
async def test_a_cancelled_event_is_not_for_the_hook() -> None:
    letters = Letters()
    handlers = [stages.on_error(letters), stages.on_error("ack"), stages.on_error(letters, only=lambda error: True)]

    async def slow(event: Event) -> None:
        await asyncio.sleep(60)

    tasks = [asyncio.ensure_future(wrap(slow, handlers[n % 3])(new())) for n in range(50)]
    await asyncio.sleep(1)
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(end) for end in ends} == {asyncio.CancelledError}
    assert letters.began == 0
    assert all(not guard.counts for guard in handlers)


@virtual
async def test_a_hook_that_has_begun_is_not_cut_short_by_a_cancellation(clock: LoopClock) -> None:
    """K-P10: nor by the deadline of the event; but the event is not acknowledged."""
    letters = Letters(takes=5)
    guard = stages.on_error(letters)
    with pytest.raises(StageError) as caught:
        await wrap(failing(OSError()), stages.timeout(1), guard)(new())
    assert caught.value.kind == "timeout"
    assert (len(letters.kept), clock.monotonic()) == (1, 5)
    tasks = [asyncio.ensure_future(wrap(failing(OSError()), guard)(new())) for _ in range(50)]
    await asyncio.sleep(1)
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(end) for end in ends} == {asyncio.CancelledError}
    assert (len(letters.kept), clock.monotonic()) == (51, 10)
    assert guard.counts["handed_over"] == 51


@virtual
async def test_a_second_cancellation_reaches_the_hook(clock: LoopClock) -> None:
    letters = Letters(takes=5)
    guard = stages.on_error(letters)
    task = asyncio.ensure_future(wrap(failing(OSError()), guard)(new()))
    for _ in range(2):
        await asyncio.sleep(1)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (letters.kept, clock.monotonic()) == ([], 2)
    assert guard.counts == {"hook_failed": 1}


@virtual
async def test_a_hook_that_fails_after_a_cancellation_is_reported_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """K-P10."""
    error, broken = OSError(), KeyError()
    task = asyncio.ensure_future(wrap(failing(error), stages.on_error(Letters(takes=5, error=broken)))(new()))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (record,) = caplog.records
    assert record.exc_info is not None
    told: Any = record.exc_info[1]
    assert told.exceptions == (error, broken)


CHOICES: list[tuple[Any, list[bool]]] = [
    (None, [True, True, True, True]),
    (ConnectionError, [True, False, False, False]),
    (OSError, [True, False, True, True]),  # a TimeoutError is one
    ((FileNotFoundError, Reject), [False, True, True, False]),
    (StageError, [False, False, True, True]),
    (lambda error: isinstance(error, StageError) and error.kind == "timeout", [False, False, False, True]),
]


@pytest.mark.parametrize(("only", "chosen"), CHOICES)
@virtual
async def test_only_some_errors_may_be_chosen(only: Any, chosen: list[bool]) -> None:
    def broken_tap(event: Event) -> None:
        raise FileNotFoundError

    async def slow(event: Event) -> None:
        await asyncio.sleep(60)

    letters = Letters()
    guard = stages.on_error(letters, only=only)
    chains = [
        wrap(failing(ConnectionError()), guard),
        wrap(failing(Reject()), guard),
        wrap(failing(AssertionError()), guard, stages.tap(broken_tap)),
        wrap(slow, guard, stages.timeout(1)),
    ]
    found = []
    for chain in chains:
        try:
            found.append(await chain(new()) is None)
        except Exception:
            found.append(False)
    assert found == chosen
    assert len(letters.kept) == chosen.count(True)


async def test_a_predicate_that_fails_is_reported_with_the_error() -> None:
    def only(error: Exception) -> bool:
        raise ZeroDivisionError

    error = Reject()
    handler = wrap(failing(error), stages.on_error("ack", only=only))
    with pytest.raises(StageError) as caught:
        await handler(new())
    group: Any = caught.value.__cause__
    assert group.exceptions[0] is error
    assert isinstance(group.exceptions[1], ZeroDivisionError)
    result = await settle(handler, new())
    assert isinstance(result, Nack)
    assert result.retryable


async def test_a_predicate_that_answers_later_never_acknowledges() -> None:
    async def later(error: Exception) -> bool:
        return True

    def deferred(error: Exception) -> Any:
        return later(error)

    any_on_error: Any = stages.on_error
    with pytest.raises(TypeError, match="only: must be a plain function, not an async one"):
        any_on_error("ack", only=later)
    guard = any_on_error("ack", only=deferred)
    with pytest.raises(StageError) as caught:
        await wrap(failing(OSError()), guard)(new())
    group: Any = caught.value.__cause__
    assert [type(one) for one in group.exceptions] == [OSError, TypeError]
    assert dict(guard.counts) == {}


def test_it_describes_itself() -> None:
    assert stages.on_error("ack").parameters == {"action": "ack", "timeout": 10.0}
    assert stages.on_error(Letters(), timeout=3).parameters == {"action": "hook", "timeout": 3}


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"action": "drop"}, ValueError, "action: must be 'propagate', 'ack' or a hook, not 'drop'"),
        ({"action": 3}, TypeError, "action: must be callable"),
        ({"action": "ack", "timeout": 0}, ValueError, "timeout"),
        ({"action": "ack", "only": 3}, TypeError, "only: must be callable"),
        ({"action": "ack", "only": asyncio.CancelledError}, TypeError, "only: must be an object"),
        ({"action": "ack", "only": (OSError, 3)}, TypeError, "only: must be callable"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        stages.on_error(**arguments)
