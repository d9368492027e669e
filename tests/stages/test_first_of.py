"""`first_of`: the next branch when one has failed, and never a success when all have."""

import asyncio
import logging
from typing import Any

import pytest

from cloudevents_kit import ACCEPTED, Ack, Event, Nack, Reject, Retry, Undelivered, settle, wrap
from cloudevents_kit.stages import PASS, StageError, first_of, transform
from tests.support.branches import DOWN, Seen, Slow, broken, other_tasks
from tests.support.events import new
from tests.support.virtual import virtual


async def test_the_first_that_does_not_fail_has_the_event() -> None:
    seen = Seen()
    stage = first_of(seen.handler("a", ACCEPTED), seen.handler("b"))
    assert await wrap(seen.handler("next"), stage)(new()) is ACCEPTED
    assert (seen, stage.counts) == (["a"], {})


async def test_the_next_one_takes_over_which_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    seen = Seen()
    stage = first_of(
        seen.failing("a", OSError("down")), seen.sink("b", DOWN), seen.sink("c", Undelivered()), seen.stage("d")
    )
    assert await settle(wrap(seen.handler("next"), stage), new())
    assert (seen, stage.counts) == (["a", "b", "c", "d", "next"], {"fell_back": 1})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "stage first_of: d took over: id='1' source='/s' type='t'"
    assert "OSError: down" in caplog.text


async def test_a_stage_fails_also_when_what_follows_does() -> None:
    seen = Seen()
    stage = first_of(seen.stage("a"), seen.handler("b"))
    await wrap(seen.failing("next", OSError()), stage)(new())
    assert seen == ["a", "next", "b"]


async def test_when_all_fail_the_error_holds_every_cause() -> None:
    """K-P7: never a success."""
    seen = Seen()
    errors = OSError("a"), Retry(after=3), LookupError("c")
    stage = first_of(*(seen.failing(name, error) for name, error in zip("abc", errors, strict=True)))
    with pytest.raises(StageError, match=r"stage first_of: failed after .* and 3 attempts") as caught:
        await wrap(seen.handler("next"), stage)(new())
    group = caught.value.__cause__
    assert isinstance(group, ExceptionGroup)
    assert group.exceptions == errors
    assert (seen, stage.counts) == (["a", "b", "c"], {"failed": 1})


async def test_when_all_fail_it_is_reported_once_and_the_event_is_to_be_sent_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """K-P9."""
    result = await settle(wrap(Seen().handler("next"), first_of(broken, broken)), new())
    assert result == Nack(status=500, reason="the handler failed", retryable=True)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert caplog.text.count("LookupError: secret") == 2


async def test_a_final_verdict_holds_and_nobody_else_is_asked() -> None:
    seen = Seen()
    stage = first_of(seen.failing("a", Reject("closed")), seen.handler("b"))
    assert await settle(wrap(seen.handler("next"), stage), new()) == Nack(status=422, reason="closed")
    assert (seen, stage.counts) == (["a"], {})


async def test_a_final_verdict_after_a_failure_is_not_final() -> None:
    seen = Seen()
    stage = first_of(seen.failing("a", OSError()), seen.sink("b", Nack(status=400, reason="no")), seen.handler("c"))
    result = await settle(wrap(seen.handler("next"), stage), new())
    assert result == Nack(status=500, reason="the handler failed", retryable=True)
    assert seen == ["a", "b"]


@pytest.mark.parametrize(
    ("only", "error", "taken_over"),
    [
        (Reject, Reject(), True),
        (Exception, Reject(), True),
        ((OSError, TimeoutError), TimeoutError(), True),
        (OSError, LookupError(), False),
        (OSError, Retry(), False),
    ],
)
async def test_one_may_say_what_a_failure_is(only: Any, error: Exception, taken_over: bool) -> None:
    seen = Seen()
    handler = wrap(seen.handler("next"), first_of(seen.failing("a", error), PASS, only=only))
    if taken_over:
        await handler(new())
    else:
        with pytest.raises(type(error)):
            await handler(new())
    assert seen == (["a", "next"] if taken_over else ["a"])


async def test_what_is_behind_the_error_of_a_stage_counts_as_well() -> None:
    seen = Seen()
    await wrap(seen.handler("next"), first_of(transform(broken), seen.handler("b"), only=LookupError))(new())
    assert seen == ["b"]


async def test_a_branch_that_ends_as_if_cancelled_has_failed() -> None:
    async def stray(event: Event) -> None:
        raise asyncio.CancelledError

    seen = Seen()
    stage = first_of(stray, seen.handler("b"))
    await wrap(seen.handler("next"), stage)(new())
    assert (seen, stage.counts) == (["b"], {"fell_back": 1})
    with pytest.raises(StageError) as caught:
        await wrap(seen.handler("next"), first_of(stray))(new())
    group: Any = caught.value.__cause__
    assert str(group.exceptions[0]) == "the branch was cancelled"


@virtual
async def test_when_cancelled_the_next_branch_is_not_begun() -> None:
    """K-P7: 50 events at once."""
    slow, seen = Slow(60), Seen()
    stage = first_of(slow, seen.handler("b"))
    handler = wrap(seen.handler("next"), stage)
    tasks = [asyncio.create_task(settle(handler, new(id=str(number)))) for number in range(50)]
    await asyncio.sleep(1)
    for task in tasks[::2]:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError, Ack] * 25
    assert (sorted(slow.ends), seen, stage.counts) == (["cancelled"] * 25 + ["done"] * 25, [], {})
    assert not other_tasks()


def test_it_describes_itself() -> None:
    seen = Seen()
    a, b = seen.handler("a"), seen.sink("b")
    stage = first_of(a, b, a, PASS, only=(OSError, Reject), name="x")
    assert (stage.kind, stage.name) == ("first_of", "x")
    assert stage.branches == {"a": a, "Scripted": b, "a 2": a}
    assert dict(stage.parameters) == {"only": ["OSError", "Reject"]}
    assert first_of(a).parameters == {}


any_first_of: Any = first_of  # takes anything, as far as types go


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (any_first_of, "branches: there must be at least one"),
        (lambda: any_first_of(PASS, 1), "branch 2: must be a handler, a sink or a stage"),
        (
            lambda: any_first_of(PASS, only=OSError()),
            "only: must be an exception class or a tuple of them, not OSError",
        ),
        (lambda: any_first_of(PASS, only=(OSError, BaseException)), "only: must be an exception class"),
        (
            lambda: any_first_of(PASS, only="OSError"),
            "only: must be an exception class or a tuple of them, not 'OSError'",
        ),
    ],
)
def test_a_wrong_argument_is_named(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()
