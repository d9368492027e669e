"""What a failure in a chain looks like: the path of stages, what it means for the sender, and who reports it."""

import asyncio
import copy
import pickle
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from cloudevents_kit import (
    DataError,
    Event,
    Handler,
    HandlerSink,
    Nack,
    Outcome,
    Reject,
    Retry,
    RetryPolicy,
    _extra,
    forward,
    settle,
    wrap,
)
from cloudevents_kit._contract import verdict
from cloudevents_kit._errors import cause_of
from cloudevents_kit._lifecycle import Lifecycle, links, parts_of, walk
from cloudevents_kit._tasks import Tasks
from cloudevents_kit.stages import Stage, StageError, chain, retry, running, stage, tap
from tests.support.events import new
from tests.support.parts import HandlerPart, Part, StagePart
from tests.support.virtual import virtual

EVENT = new()


async def end(event: Event) -> None: ...


class Failing(Stage):
    """Fails by itself, after what lies further in has done its work."""

    kind = "failing"

    def __init__(self, error: Exception, name: str | None = None, **more: Any) -> None:
        super().__init__(name)
        self.error = error
        self.more = more

    async def run(self, event: Event, call_next: Handler) -> Outcome:
        await call_next(event)
        raise self.failure(self.error, event, 0.0, **self.more) from cause_of(self.error)


class Around(Stage):
    """Hands the event on."""

    async def run(self, event: Event, call_next: Handler) -> Outcome:
        return await call_next(event)


async def caught(handler: Handler) -> StageError:
    with pytest.raises(StageError) as raised:
        await handler(EVENT)
    return raised.value


# The path.


async def test_the_path_names_the_stages_from_the_outermost_to_the_one_that_failed() -> None:
    cause = KeyError("x")
    handler = wrap(
        end, Around("first"), tap(lambda event: None, name="second"), Failing(cause, "third"), Around("fourth")
    )
    for error in [await caught(handler) for _ in range(3)]:
        assert error.path == ("first", "second", "third")
        assert (error.key, error.kind, error.attempts) == (EVENT.key, "failed", 1)
        assert error.elapsed > 0
        assert error.__cause__ is cause
        assert str(error).startswith("stage first > second > third: failed after ")


async def test_a_chain_and_a_named_middleware_are_part_of_the_path() -> None:
    async def plain(event: Event, call_next: Handler) -> Outcome:
        return await call_next(event)

    def also_plain(event: Event, call_next: Handler) -> Any:
        return call_next(event)

    inner = chain(stage(plain), stage(also_plain, name="second"), Failing(KeyError()), name="inner")
    assert (await caught(wrap(end, plain, inner))).path == ("inner", "plain", "second", "failing")


async def test_a_stage_can_be_called_as_the_middleware_it_is() -> None:
    with pytest.raises(StageError) as raised:
        await Around("outer")(EVENT, wrap(end, Failing(KeyError())))
    assert raised.value.path == ("outer", "failing")


async def test_the_failure_of_a_stage_tells_how_it_failed_and_keeps_where() -> None:
    first = await caught(wrap(end, Failing(KeyError("x"), "inner")))
    error = await caught(wrap(end, Failing(first, "outer", kind="exhausted", attempts=3)))
    assert (error.path, error.kind, error.attempts) == (("outer", "inner"), "exhausted", 3)
    assert error.__cause__ is first.__cause__
    assert str(error).endswith(" and 3 attempts")
    assert cause_of(StageError((), EVENT.key, elapsed=0.0)).args  # one that was raised without a cause is its own


def test_a_stage_error_survives_copying_and_pickling() -> None:
    error = StageError(("a", "b"), EVENT.key, elapsed=1.5, kind="timeout", attempts=2)
    for found in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert vars(found) == vars(error)
        assert str(found) == str(error) == "stage a > b: timeout after 1.500 s and 2 attempts"
        assert found.within("o").path == ("o", "a", "b")


async def test_errors_of_the_handler_and_verdicts_are_no_stage_errors() -> None:
    for error in (KeyError(), Reject(), Retry()):

        async def fail(event: Event, error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)) as raised:
            await wrap(fail, Around(), tap(lambda event: None))(EVENT)
        assert raised.value is error


async def test_a_stage_without_work_says_so() -> None:
    with pytest.raises(NotImplementedError):
        await wrap(end, Stage())(EVENT)
    with pytest.raises(StageError) as raised:
        from cloudevents_kit.stages._functions import FunctionStage

        await wrap(end, FunctionStage(lambda event: None, None))(EVENT)
    assert isinstance(raised.value.__cause__, NotImplementedError)


# What it means.


def blame(error: BaseException) -> StageError:
    found = StageError(("a",), EVENT.key, elapsed=0.0)
    found.__cause__ = error
    return found


def misfit(event: Event) -> DataError:
    error = DataError("rule")
    error.key = event.key
    return error


@pytest.mark.parametrize(
    ("error", "status", "retryable", "after"),
    [
        (Reject("no", 410), 410, False, None),
        (Retry(after=3, reason="wait"), 503, True, 3),
        (TimeoutError(), 503, True, None),
        (misfit(EVENT), 422, False, None),
        (misfit(new(id="other")), 500, True, None),
        (KeyError(), 500, True, None),
        (blame(Reject("no", 410)), 410, False, None),
        (blame(blame(TimeoutError())), 503, True, None),
        (blame(asyncio.CancelledError()), 500, True, None),
        (StageError(("a",), EVENT.key, elapsed=0.0), 500, True, None),
        (ExceptionGroup("", [Reject(), KeyError(), Reject("no", 410)]), 500, True, None),
        (ExceptionGroup("", [Reject(), Reject("no", 410)]), 422, False, None),
        (blame(ExceptionGroup("", [Reject(), blame(Retry(after=1))])), 503, True, 1),
    ],
)
def test_an_error_means_what_its_cause_means(error: Exception, status: int, retryable: bool, after: float) -> None:
    found = verdict(error, EVENT)
    assert (found.status, found.retryable, found.retry_after) == (status, retryable, after)


async def test_a_failure_is_logged_once_with_its_path(caplog: pytest.LogCaptureFixture) -> None:
    assert await settle(wrap(end, Failing(KeyError("x"))), EVENT) == Nack(
        status=500, reason="the handler failed", retryable=True
    )
    (record,) = caplog.records
    assert "stage failing: failed after" in record.message


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (Retry(reason="the database is down"), "WARNING event refused by its handler: {}: stage retry: "),
        (Retry(status=429, reason="busy"), "WARNING event refused by its handler: {}: stage retry: "),
        (TimeoutError(), "WARNING handler ran out of time: {}: stage retry: "),
        (KeyError("x"), "ERROR handler failed: {}: stage retry: "),
        (ExceptionGroup("two", [Retry(), Retry()]), "ERROR handler failed: {}: stage retry: "),
    ],
)
async def test_a_line_of_the_log_says_what_was_behind_the_failure(
    error: Exception, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(event: Event) -> None:
        raise error

    await settle(wrap(fails, retry(RetryPolicy(attempts=2, initial=0))), EVENT)
    (record,) = caplog.records
    name = f"id={EVENT.id!r} source={EVENT.source!r} type={EVENT.type!r}"
    assert f"{record.levelname} {record.message}".startswith(line.format(name))


# What a stage is.


def test_a_stage_tells_its_name_kind_and_counts() -> None:
    found = Around("mine")
    assert repr(found) == "<stage 'mine'>"
    assert repr(Around()) == "<stage>"
    assert (found.branches, found.parameters, found.status) == ({}, {}, {})
    found.note("dropped")
    found.counts["tried"] += 2
    assert found.status == {"dropped": 1, "tried": 2}


def test_a_package_that_is_not_installed_is_named_with_its_extra() -> None:
    assert _extra.load("sys", "stages") is sys
    with pytest.raises(ImportError, match=r'no_such_package is not installed: pip install "cloudevents-kit\[stages\]"'):
        _extra.load("no_such_package", "stages")


# The links of a chain, and its life.


class Fork(Stage):
    """Has branches."""

    def __init__(self, **branches: object) -> None:
        super().__init__()
        self._branches = branches

    @property
    def branches(self) -> Mapping[str, object]:
        return self._branches

    async def run(self, event: Event, call_next: Handler) -> Outcome:
        return await call_next(event)


def test_a_chain_is_walked_from_what_is_reached_first_and_each_part_once() -> None:
    sink = HandlerSink(end)
    shared, last = Around("shared"), Around("last")
    fork = Fork(a=wrap(end, shared), b=forward(sink), c=shared)
    chained = wrap(end, fork, last)
    found = [part for part in walk(chained) if isinstance(part, Stage | HandlerSink)]
    assert found == [fork, shared, sink, last]
    assert links(end) == {}
    assert links(Fork(a=end)) == {"a": end}


def test_what_opens_its_branches_itself_is_not_looked_behind_for_that() -> None:
    fork, inside = Fork(a=HandlerPart("inside", [])), HandlerPart("outside", [])
    fork.opens_branches = True  # type: ignore[attr-defined]
    handler = wrap(inside, fork)
    assert parts_of(handler) == [inside]
    assert len([part for part in walk(handler) if isinstance(part, Part)]) == 2


def test_what_is_connected_in_a_circle_is_walked_once() -> None:
    branches: dict[str, object] = {}
    fork = Fork()
    fork._branches = branches
    branches["again"] = fork
    assert [*walk(fork)] == [fork]


def test_a_sink_is_opened_by_whoever_made_it() -> None:
    diary: list[str] = []

    class SinkPart(Part):
        async def send(self, event: Event, /) -> Any: ...

    async def main() -> None:
        part: Any = SinkPart("sink", diary)
        async with running(wrap(end, Fork(sink=part))):
            pass

    asyncio.run(main())
    assert diary == []


def test_a_handler_that_is_a_sink_too_is_opened_as_the_handler_that_it_is() -> None:
    class Both(HandlerPart):
        async def send(self, event: Event, /) -> Any: ...

    both = Both("both", [])
    assert parts_of(both) == [both]
    assert parts_of(wrap(end, Fork(sink=both))) == []


def test_what_is_reached_in_two_ways_is_opened_before_both() -> None:
    shared, last = HandlerPart("shared", []), HandlerPart("last", [])
    first, second = StagePart("first", []), StagePart("second", [])
    handler = wrap(last, Fork(side=shared), first, Fork(inner=wrap(shared, second)))
    assert parts_of(handler) == [last, shared, second, first]


@virtual
async def test_only_what_is_in_the_chain_is_told_that_no_more_will_come() -> None:
    diary: list[str] = []

    class Client(Part):
        def drain(self) -> None:
            raise AssertionError("not ours to call")

    class Slow(HandlerPart):
        async def drain(self) -> None:
            raise AssertionError("nobody would wait for it")

    lifecycle = Lifecycle((Draining("handler", diary), Slow("slow", [])), (Client("client", []),))
    await lifecycle.open()
    lifecycle.drain()
    await lifecycle.close()
    assert diary == ["open handler", "drain handler", "close handler"]


class Draining(HandlerPart):
    def drain(self) -> None:
        self.diary.append(f"drain {self.name}")


@virtual
async def test_running_opens_what_is_reached_last_first_and_closes_it_last() -> None:
    diary: list[str] = []
    handler = wrap(Draining("handler", diary), StagePart("A", diary), Fork(side=Draining("side", diary)))
    for _ in range(2):  # it can be opened again
        async with running(handler):
            await handler(EVENT)
            await asyncio.sleep(3600)
        assert diary == [
            "open handler", "open side", "open A",
            "A in", "handler runs", "A out",
            "drain handler", "drain side",
            "close A", "close side", "close handler",
        ]  # fmt: skip
        diary.clear()


@virtual
async def test_the_errors_of_all_parts_are_told_and_nothing_stays_open() -> None:
    diary: list[str] = []
    parts = [
        HandlerPart("handler", diary, closing=OSError("handler")),
        StagePart("B", diary, closing=KeyError("B")),
        StagePart("A", diary, opening=ValueError("A")),
    ]
    handler = wrap(parts[0], *parts[:0:-1])  # type: ignore[arg-type]
    with pytest.raises(ExceptionGroup) as raised:
        async with running(handler):
            pass
    assert [str(error) for error in raised.value.exceptions] == ["A", "'B'", "handler"]
    assert diary == ["open handler", "open B", "close B", "close handler"]


@virtual
async def test_a_cancellation_while_opening_and_closing_leaves_nothing_open() -> None:
    diary: list[str] = []
    cancelled = asyncio.CancelledError()
    for part in (StagePart("A", diary, opening=cancelled), StagePart("A", diary, closing=cancelled)):
        with pytest.raises(asyncio.CancelledError):
            async with running(wrap(HandlerPart("handler", diary), part)):
                pass
        assert diary[-1] == "close handler"
        diary.clear()


@virtual
async def test_the_reason_for_closing_is_told_with_the_errors_of_closing() -> None:
    lifecycle = Lifecycle([StagePart("A", [], closing=OSError("A"))])
    for why, told in ((KeyError("why"), ["'why'", "A"]), (asyncio.CancelledError(), ["A"])):
        await lifecycle.open()
        with pytest.raises(ExceptionGroup) as raised:
            await lifecycle.close(why)
        assert [str(error) for error in raised.value.exceptions] == told


# Tasks with an owner.


@virtual
async def test_tasks_are_waited_for_and_the_rest_is_cancelled() -> None:
    reported: list[Exception] = []
    tasks = Tasks(reported.append)
    ended: list[float] = []

    async def work(seconds: float) -> None:
        await asyncio.sleep(seconds)
        ended.append(seconds)

    for seconds in (1, 2, 30):
        assert not tasks.start(work(seconds)).done()
    assert len(tasks) == 3
    assert await tasks.close(grace=10) == 1
    assert (ended, len(tasks)) == ([1, 2], 0)
    assert asyncio.get_running_loop().time() == pytest.approx(10)
    assert await tasks.close(grace=10) == 0
    begun = tasks.start(work(1))
    await asyncio.sleep(0)
    not_begun = tasks.start(work(1))
    assert await tasks.close() == 2
    assert begun.cancelled()
    assert not_begun.cancelled()
    assert reported == []


@virtual
async def test_what_a_task_raises_is_reported() -> None:
    reported: list[Exception] = []
    tasks = Tasks(reported.append)
    error = KeyError("x")

    async def fail() -> None:
        raise error

    await tasks.start(fail())
    assert reported == [error]
    assert await tasks.close(1) == 0
