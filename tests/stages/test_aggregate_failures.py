import asyncio
import inspect
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from cloudevents_kit import Event, Handler, Reject, settle, wrap
from cloudevents_kit.stages import (
    StageError,
    WindowStore,
    aggregate,
    count,
    describe,
    distinct,
    fold,
    running,
    sum_of,
)
from cloudevents_kit.stores.memory import MemoryWindowStore
from tests.support.aggregates import BrokenStore, at, clocked, take
from tests.support.events import new, read
from tests.support.virtual import LoopClock, virtual


@virtual
async def test_events_without_the_key_share_one(clock: LoopClock) -> None:
    stage = clocked(clock, by="partitionkey")
    handler = wrap(take, stage)
    await handler(at(1))
    await handler(at(2, partitionkey="a"))
    for key in ("", None, "a"):
        found = await stage.query(key)
        assert found is not None
        assert found["count"] == 1


@virtual
async def test_a_key_may_be_made_by_a_function(clock: LoopClock) -> None:
    """K-D6: and is found by what the function returned, or its text."""
    stage = clocked(clock, by=lambda event: (event.type, event.data["n"]))
    await wrap(take, stage)(at(1, data={"n": 5}))
    assert await stage.query(("t", 5)) == await stage.query('["t",5]')
    found = await stage.query(("t", 5))
    assert found is not None
    assert found["count"] == 1


def fail(*_: object) -> Any:
    raise ArithmeticError("secret")


TEXT = at(1, data="text")
BROKEN = at(1, data=b"{", datacontenttype="application/json")
FAILING: list[tuple[dict[str, Any], Event, int]] = [
    ({"by": fail}, TEXT, 500),
    ({"by": lambda event: object()}, TEXT, 500),
    ({"of": {"v": sum_of(fail)}}, TEXT, 500),
    ({"of": {"v": fold(0, fail)}}, TEXT, 500),
    ({"of": {"v": sum_of("data")}}, TEXT, 422),
    ({"of": {"v": sum_of("data.x")}}, BROKEN, 422),
    ({}, read(time="0000-01-01T00:00:00Z"), 422),
]


@pytest.mark.parametrize(("given", "event", "status"), FAILING, ids=str)
@virtual
async def test_what_cannot_be_counted_goes_on_and_is_logged(
    given: dict[str, Any], event: Event, status: int, caplog: pytest.LogCaptureFixture, clock: LoopClock
) -> None:
    """K-P9."""
    passed: list[Event] = []

    async def handle(event: Event) -> None:
        passed.append(event)

    stage = clocked(clock, **given)
    assert await settle(wrap(handle, stage), event)
    assert passed == [event]
    assert stage.counts == {"failed": 1}
    assert await stage.windows() == []
    assert stage.status["in_work"] == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize(("given", "event", "status"), FAILING, ids=str)
@virtual
async def test_what_cannot_be_counted_may_fail(
    given: dict[str, Any], event: Event, status: int, clock: LoopClock
) -> None:
    handler = wrap(take, clocked(clock, name="sums", on_error="fail", **given))
    with pytest.raises(StageError) as caught:
        await handler(event)
    assert caught.value.path == ("sums",)
    result = await settle(handler, event)
    assert result.status == status


@virtual
async def test_a_verdict_of_a_function_is_the_answer(clock: LoopClock) -> None:
    def by(event: Event) -> str:
        raise Reject("no key")

    with pytest.raises(Reject):
        await wrap(take, clocked(clock, by=by))(at(1))


@virtual
async def test_a_store_that_fails_is_reported_and_the_window_closes_later(clock: LoopClock) -> None:
    store = BrokenStore()
    stage = clocked(clock, store=store, on_error="fail")
    handler = wrap(take, stage)
    await asyncio.sleep(100)
    with pytest.raises(StageError):
        await handler(at(1))
    store.down = False
    await handler(at(1))
    store.down = True
    with pytest.raises(StageError):
        await handler(at(15))
    assert stage.counts["failed"] == 2
    async with running(handler):
        pass
    assert stage.counts["unclosed"] > 0
    store.down = False
    await handler(at(15))
    assert [one["closed"] for one in await stage.windows()] == [True, False]


@virtual
async def test_what_is_long_is_remembered_by_its_digest(clock: LoopClock) -> None:
    store = MemoryWindowStore()
    stage = clocked(clock, by="subject", store=store)
    handler = wrap(take, stage)
    long = "x" * 10**5
    for given in ({"id": long}, {"id": long}, {"id": long + "y"}, {"id": "1", "source": long}, {"id": "1"}):
        await handler(at(1, subject=long, **given))
    (window,) = store._open.values()
    kept = [*window.seen, *(name for names in window.seen.values() for name in names), *window.states]
    assert max(map(len, kept)) < 100
    found = await stage.query(long)
    assert found is not None
    assert (found["count"], stage.counts) == (4, {"repeated": 1})
    assert found == await stage.query(found["key"])


class Slow:
    """A store that has to be waited for."""

    def __init__(self) -> None:
        self.inner = MemoryWindowStore()
        self.status: dict[str, int] = {}

    async def add(self, *given: Any, **more: Any) -> Any:
        await asyncio.sleep(1)
        return await self.inner.add(*given, **more)

    async def close(self, *given: Any) -> Any:
        await asyncio.sleep(1)
        return await self.inner.close(*given)

    async def read(self, *given: Any) -> Any:
        await asyncio.sleep(1)
        return await self.inner.read(*given)

    async def windows(self) -> Any:
        await asyncio.sleep(1)
        return await self.inner.windows()


@virtual
async def test_a_store_may_be_elsewhere(clock: LoopClock) -> None:
    store: WindowStore = Slow()
    stage = clocked(clock, {"sum": sum_of("data")}, store=store)
    handler = wrap(take, stage)
    await asyncio.gather(*[handler(at(n % 10, f"{n % 40}", data=n % 40)) for n in range(50)])
    found = await stage.query()
    assert found is not None
    assert found["values"] == {"sum": sum(range(40))}
    assert (found["count"], stage.counts) == (40, {"repeated": 10})


@virtual
async def test_limits_are_counted_reported_and_shown(clock: LoopClock, caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryWindowStore(max_keys=2, max_events=3)
    stage = clocked(clock, {"n": count()}, by="subject", store=store)
    handler = wrap(take, stage)
    for n in range(6):
        assert await settle(handler, at(1, f"{n}", subject=f"{n % 3}"))
    assert stage.counts == {"overflow": 2, "unremembered": 1}
    (window,) = await stage.windows()
    assert (window["keys"], window["count"], window["overflow"]) == (2, 4, 2)
    found = await stage.query("1")
    assert found is not None
    assert found["approximate"] == ["count", "n"]
    assert [record.getMessage() for record in caplog.records] == ["stage aggregate: a limit is reached: overflow"]


@virtual
async def test_the_status_and_the_parameters_are_plain(clock: LoopClock) -> None:
    stage = clocked(clock, {"who": distinct("data.who"), "n": count()}, by="subject")
    handler = wrap(take, stage)
    await handler(at(1))
    await handler(new(time=None))
    assert stage.status == {
        "untimed": 1, "in_work": 0, "open": 1, "waiting": 0, "closed": 0, "keys": 1, "remembered": 1,
    }  # fmt: skip
    parameters = describe(handler)["children"]["1"]["parameters"]
    assert parameters["of"] == {"who": "distinct(data.who)", "n": "count()"}
    assert (parameters["by"], parameters["size"], parameters["lateness"]) == ("subject", 10, 5)
    assert clocked(clock, by=by_type).parameters["by"] == "by_type"


def by_type(event: Event) -> str:
    return event.type


# Arguments.


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"size": 0}, ValueError, "size: must be above 0"),
        ({"size": 1e-7}, ValueError, "size: must be at least a microsecond"),
        ({"size": "60"}, TypeError, "size: must be a number"),
        ({"lateness": -1}, ValueError, "lateness: must be finite and not negative"),
        ({"ahead": float("inf")}, ValueError, "ahead: must be finite"),
        ({"idle": 0}, ValueError, "idle: must be above 0"),
        ({"grace": -1}, ValueError, "grace: must be"),
        ({"close_timeout": 0}, ValueError, "close_timeout: must be above 0"),
        ({"without_time": "now"}, ValueError, "without_time: must be 'skip' or 'arrival'"),
        ({"on_error": "drop"}, ValueError, "on_error: must be 'skip' or 'fail'"),
        ({"at_stop": "drop"}, ValueError, "at_stop: must be 'keep' or 'flush'"),
        ({"on_close": 5}, TypeError, "on_close: must be callable"),
        ({"store": {}}, TypeError, "store: must be a WindowStore, not dict"),
        ({"store": MemoryWindowStore}, TypeError, "store: must be an object, not the class"),
        ({"by": 5}, TypeError, "by: must be callable"),
        ({"by": "Sub-ject"}, ValueError, "attribute names"),
        ({"of": [count()]}, TypeError, "of: must be a mapping"),
        ({"name": 5}, TypeError, "name: must be"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        aggregate(**given)


@pytest.mark.parametrize("name", ["max_windows", "max_keys"])
def test_a_store_needs_limits(name: str) -> None:
    make: Callable[..., object] = MemoryWindowStore
    with pytest.raises(ValueError, match=f"{name}: must be 1 or more"):
        make(**{name: 0})


async def test_a_moment_to_ask_for_needs_an_offset() -> None:
    stage = aggregate()
    for wrong in (datetime(2026, 1, 1), "2026-01-01T00:00:00"):  # noqa: DTZ001
        with pytest.raises(ValueError, match="at: must have an offset"):
            await stage.query(at=wrong)
    with pytest.raises(TypeError, match="at: must be a datetime or RFC 3339 text, not int"):
        await stage.query(at=5)  # type: ignore[arg-type]


def test_it_is_a_stage_of_its_kind() -> None:
    handler: Handler = wrap(take, aggregate(name="sums"))
    assert inspect.iscoroutinefunction(handler)
    assert repr(aggregate(name="sums")) == "<aggregate 'sums'>"
    assert logging.getLogger("cloudevents_kit").name
