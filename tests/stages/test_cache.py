import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from cloudevents_kit import Event, current_event, settle, stages, wrap
from cloudevents_kit.stages import Cached
from tests.support.events import new
from tests.support.virtual import LoopClock, virtual

CLOCK = LoopClock()


class Source:
    """Where values are loaded from: after ``seconds``, the next of ``ends``, or else the key in capitals."""

    def __init__(self, *ends: object, seconds: float = 1.0) -> None:
        self.ends = [*ends]
        self.seconds = seconds
        self.asked: list[Any] = []
        self.cancelled = 0

    async def load(self, key: str) -> Any:
        self.asked.append(key)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        end = self.ends.pop(0) if self.ends else key.upper()
        if isinstance(end, BaseException):
            raise end
        return end


class Shared:
    """A shared tier: keeps what it is given for its time, takes none itself; breaks when told to."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[float, bytes]] = {}
        self.broken = ""

    async def get(self, key: str) -> bytes | None:
        await self._fail("get")
        expiry, value = self.kept.get(key, (0.0, b""))
        return value if expiry > CLOCK.monotonic() else None

    async def set(self, key: str, value: bytes, ttl: float) -> None:
        await self._fail("set")
        self.kept[key] = (CLOCK.monotonic() + ttl, value)

    async def _fail(self, method: str) -> None:
        if method in self.broken:
            await asyncio.sleep(1e6 if "hangs" in self.broken else 0)
            raise OSError("the shared tier is away")


def cached(source: Source, **given: Any) -> Cached[str, Any]:
    return Cached(source.load, **{"clock": CLOCK, **given})


# One load for all.


@virtual
async def test_of_100_at_once_for_one_cold_key_one_loads() -> None:
    """K-D4: 100 concurrent events for one cold key, the loader runs once."""
    source = Source()
    customers = cached(source)

    async def add(event: Event) -> Event:
        return event.evolve(customer=await customers("ann"))

    async def end(event: Event) -> None:
        seen.append(event["customer"])

    seen: list[object] = []
    chain = wrap(end, stages.enrich(add))
    results = await asyncio.gather(*(settle(chain, new(id=str(number))) for number in range(100)))
    assert all(results)
    assert seen == ["ANN"] * 100
    assert source.asked == ["ann"]
    assert customers.counts == Counter(misses=100, joined=99, loads=1)
    assert await customers("ann") == "ANN"
    assert customers.counts["hits"] == 1


@virtual
async def test_if_the_loader_fails_events_go_on_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    """K-D4: events go on with enriched=false and a counter."""
    source = Source(OSError("away"))
    customers = cached(source)

    async def add(event: Event) -> Event | None:
        customer = await customers("ann")
        return event.evolve(customer=customer)

    async def end(event: Event) -> None:
        seen.append((event["enriched"], event.get("customer")))

    seen: list[object] = []
    stage = stages.enrich(add, mark="enriched")
    chain = wrap(end, stage)
    assert all(await asyncio.gather(*(settle(chain, new(id=str(number))) for number in range(50))))
    assert seen == [(False, None)] * 50
    assert (stage.counts["failed"], customers.counts["errors"], customers.counts["loads"]) == (50, 1, 1)
    assert (await settle(chain, new())).is_ack
    assert seen[50:] == [(True, "ANN")]
    assert (stage.counts["enriched"], customers.counts["loads"]) == (1, 2)
    assert "stage add: enrichment failed" in caplog.messages[0]


@virtual
async def test_a_cancelled_caller_leaves_the_others_theirs() -> None:
    """K-D4."""
    source = Source()
    customers = cached(source)
    callers = [asyncio.create_task(customers("ann")) for _ in range(50)]
    await asyncio.sleep(0.5)
    for caller in callers[:49]:  # the one that started the load among them
        caller.cancel()
    ended = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(one) for one in ended[:49]] == [asyncio.CancelledError] * 49
    assert ended[49] == "ANN"
    assert (source.asked, source.cancelled) == (["ann"], 0)


@virtual
async def test_a_load_that_nobody_waits_for_is_cancelled_and_the_next_caller_starts_anew() -> None:
    """K-D4."""
    source = Source()
    customers = cached(source)
    callers = [asyncio.create_task(customers("ann")) for _ in range(50)]
    await asyncio.sleep(0.5)
    for caller in callers:
        caller.cancel()
    again = asyncio.create_task(customers("ann"))
    assert await again == "ANN"
    assert all(caller.cancelled() for caller in callers)
    assert (source.asked, source.cancelled) == (["ann", "ann"], 1)
    assert customers._loading == {}
    assert customers._tasks == set()
    assert "errors" not in customers.counts


@virtual
async def test_a_load_that_fails_while_it_is_cancelled_bothers_nobody() -> None:
    async def load(key: str) -> str:
        try:
            await asyncio.sleep(1)
        finally:
            raise OSError("while closing")

    customers = Cached(load, clock=CLOCK)
    caller = asyncio.create_task(customers("ann"))
    await asyncio.sleep(0.5)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await asyncio.sleep(0)
    assert "errors" not in customers.counts


@virtual
async def test_a_caller_that_is_cancelled_as_the_load_ends_is_passed_over() -> None:
    gate = asyncio.Event()

    async def load(key: str) -> str:
        await gate.wait()
        return key.upper()

    async def cancel_the_first() -> None:
        await gate.wait()  # after the load: it has ended, but told nobody yet
        callers[0].cancel()

    customers = Cached(load, clock=CLOCK)
    callers = [asyncio.create_task(customers("ann")) for _ in range(3)]
    await asyncio.sleep(0.1)
    canceller = asyncio.create_task(cancel_the_first())
    await asyncio.sleep(0.1)
    gate.set()
    ended = await asyncio.gather(*callers, canceller, return_exceptions=True)
    assert [type(one) for one in ended] == [asyncio.CancelledError, str, str, type(None)]


@virtual
async def test_a_loader_that_cancels_itself_does_not_cancel_its_callers() -> None:
    customers = cached(Source(asyncio.CancelledError()), name="customers")
    with pytest.raises(RuntimeError, match="customers: the load was cancelled"):
        await customers("ann")
    assert await customers("ann") == "ANN"


@virtual
async def test_a_load_has_a_time_limit() -> None:
    source = Source(seconds=11)
    customers = cached(source, load_timeout=10)
    with pytest.raises(TimeoutError):
        await customers("ann")
    assert CLOCK.monotonic() == 10
    assert (source.cancelled, customers.counts["errors"]) == (1, 1)


async def test_a_load_of_a_loop_that_is_gone_holds_nobody_up() -> None:
    """A cache of a module outlives the loop of a test, or of `asyncio.run`; so may a load that was cut off in it."""
    customers = cached(Source(seconds=0), clock=None)
    gone = asyncio.new_event_loop()
    left = customers._loading["ann"] = customers._start("ann", "ann", gone)
    assert await customers("ann") == "ANN"
    assert customers._loading == {}
    left.task.cancel()
    await asyncio.to_thread(_finish, gone, left.task)


def _finish(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[Any]") -> None:
    task.add_done_callback(lambda _: loop.stop())
    loop.run_forever()
    loop.close()


@virtual
async def test_the_loader_runs_for_the_event_that_asked_first() -> None:
    seen: list[Event | None] = []

    async def load(key: str) -> str:
        await asyncio.sleep(0)
        seen.append(current_event())
        return key

    customers = Cached(load, clock=CLOCK)

    async def end(event: Event) -> None:
        await customers("ann")

    await settle(end, event := new())
    assert seen == [event]


# How long, how many.


@virtual
async def test_a_value_is_kept_for_its_ttl() -> None:
    """K-D4: ttl local 5 min."""
    source = Source(seconds=0)
    customers = cached(source)
    for seconds, loads in ((0, 1), (299, 1), (1, 2), (299, 2)):
        await asyncio.sleep(seconds)
        assert await customers("ann") == "ANN"
        assert len(source.asked) == loads


@virtual
async def test_that_there_is_no_value_is_kept_for_negative_ttl_only() -> None:
    """K-D4."""
    source = Source(None, None, seconds=0)
    customers = cached(source)
    for seconds, loads, value in ((0, 1, None), (29, 1, None), (1, 2, None), (30, 3, "ANN"), (299, 3, "ANN")):
        await asyncio.sleep(seconds)
        assert await customers("ann") == value
        assert len(source.asked) == loads


@virtual
async def test_an_error_is_not_kept_and_goes_to_all_who_wait() -> None:
    error = OSError("away")
    source = Source(error)
    customers = cached(source)
    ended = await asyncio.gather(*(customers("ann") for _ in range(10)), return_exceptions=True)
    assert ended == [error] * 10
    assert await customers("ann") == "ANN"


@pytest.mark.parametrize("value", [0, "", False, []])
@virtual
async def test_what_is_merely_false_is_a_value(value: object) -> None:
    source = Source(value, seconds=0)
    customers = cached(source)
    await customers("ann")
    await asyncio.sleep(100)
    assert await customers("ann") == value
    assert customers.get("ann", "none") == value


@virtual
async def test_the_size_is_bounded_and_the_least_used_goes_first() -> None:
    """K-D4: LRU."""
    source = Source(seconds=0)
    customers = cached(source, max_entries=3)
    for key in "abc":
        await customers(key)
    await customers("a")
    assert customers.get("b") == "B"
    await customers("d")
    assert customers.size == 3
    assert [customers.get(key) for key in "abcd"] == ["A", "B", None, "D"]
    assert customers.counts["evicted"] == 1


@virtual
async def test_get_looks_without_loading() -> None:
    source = Source(None, seconds=0)
    customers = cached(source)
    assert customers.get("ann", 7) == 7
    assert await customers("ann") is None
    assert customers.get("ann", 7) is None
    await asyncio.sleep(30)
    assert customers.get("ann", 7) == 7
    assert (source.asked, customers.counts["misses"], customers.counts["hits"]) == (["ann"], 1, 1)


@virtual
async def test_forget_drops_a_value_and_one_on_its_way() -> None:
    source = Source("old", "old", "new")
    customers = cached(source)
    assert await customers("ann") == "old"
    customers.forget("ann")
    customers.forget("bob")
    late = asyncio.create_task(customers("ann"))
    await asyncio.sleep(0.5)
    customers.forget("ann")
    assert await customers("ann") == "new"
    assert await late == "old"
    assert await customers("ann") == "new"
    gone = asyncio.create_task(customers("cid"))
    await asyncio.sleep(0.5)
    customers.forget("cid")
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert source.cancelled == 1


async def test_keys_need_not_be_text() -> None:
    async def square(number: int) -> int:
        return number * number

    squares = Cached(square)
    assert await squares(3) == 9
    assert squares.get(3) == 9
    assert squares.name == "square"


# The second tier.


@virtual
async def test_a_value_loaded_by_one_process_serves_the_others() -> None:
    """K-D4: ttl local 5 min, shared 15."""
    shared, source = Shared(), Source(seconds=0)
    one, other = cached(source, shared=shared), cached(source, shared=shared)
    for seconds, loads in ((0, 1), (299, 1), (301, 1), (299, 1), (1, 2)):  # at 0, 299, 600, 899 and 900 seconds
        await asyncio.sleep(seconds)
        assert await one("ann") == "ANN"
        other.forget("ann")
        assert await other("ann") == "ANN"
        assert len(source.asked) == loads
    assert one.counts == Counter(hits=2, misses=3, shared_hits=1, loads=2)
    assert other.counts == Counter(misses=5, shared_hits=5)
    assert [*shared.kept] == ['load:"ann"']


@virtual
async def test_that_there_is_no_value_is_shared_for_negative_ttl() -> None:
    """K-D4."""
    shared, source = Shared(), Source(None, seconds=0)
    for seconds, value, loads in ((0, None, 1), (29, None, 1), (1, "ANN", 2)):
        await asyncio.sleep(seconds)
        assert await cached(source, shared=shared)("ann") == value
        assert len(source.asked) == loads


@dataclass
class Customer:
    name: str


@pytest.mark.parametrize(("kind", "value"), [(Customer, Customer("Ann")), (Any, {"name": "Ann"})])
@virtual
async def test_a_value_is_the_same_from_every_tier(kind: Any, value: object) -> None:
    """A value that is no plain JSON comes back from the shared tier as something else, so it does at once."""
    shared = Shared()
    for _ in range(2):
        customers = cached(Source(Customer("Ann")), shared=shared, kind=kind, name="customers")
        assert await customers("ann") == value
        assert await customers("ann") == value
    assert shared.kept['customers:"ann"'][1] == b'{"name":"Ann"}'


@virtual
async def test_keys_of_different_kinds_are_different_in_the_shared_tier() -> None:
    shared = Shared()

    async def load(key: Any) -> str:
        return repr(key)

    things = Cached(load, shared=shared, clock=CLOCK, name="things")
    assert [await things(key) for key in (1, "1", (1,), ("1",))] == ["1", "'1'", "(1,)", "('1',)"]
    assert len(shared.kept) == 4


@pytest.mark.parametrize("broken", ["get set raises", "get set hangs", "get raises", "set hangs"])
def test_without_its_shared_tier_it_loads(broken: str, caplog: pytest.LogCaptureFixture) -> None:
    """K-D4: a tier that fails is empty; that is counted, and logged once in a while."""

    @virtual
    async def test() -> None:
        shared, source = Shared(), Source(seconds=0)
        shared.broken = broken
        customers = cached(source, shared=shared)
        assert [await customers(key) for key in "abc"] == [*"ABC"]
        assert customers.counts["shared_errors"] == 3 * len(broken.split()[:-1])
        assert customers.counts["loads"] == 3
        lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert [line.getMessage() for line in lines] == ["load: the shared cache failed"]

    test()


@virtual
async def test_what_others_have_written_and_cannot_be_read_is_loaded() -> None:
    shared = Shared()
    shared.kept['load:"ann"'] = (1e9, b'{"nom":"Ann"}')
    customers = cached(Source(Customer("Ann")), shared=shared, kind=Customer)
    assert await customers("ann") == Customer("Ann")
    assert customers.counts["shared_errors"] == 1


async def test_keys_of_different_types_are_different_keys() -> None:
    asked: list[Any] = []

    async def load(key: Any) -> str:
        asked.append(key)
        return repr(key)

    found: Cached[Any, str] = Cached(load)
    keys: list[Any] = [1, True, 1.0, "1", (1, "a"), (True, "a"), (1, (1.0,)), (1, (1,)), None]
    for _ in range(2):
        assert [await found(key) for key in keys] == [repr(key) for key in keys]
    assert list(map(repr, asked)) == list(map(repr, keys))
    assert [found.get(key) for key in keys] == [repr(key) for key in keys]
    found.forget(True)
    assert (found.get(True), found.get(1)) == (None, "1")


# Settings.


def test_it_describes_itself() -> None:
    assert dict(Cached(Source().load, shared=Shared()).parameters) == {
        "ttl": 300.0,
        "negative_ttl": 30.0,
        "max_entries": 10_000,
        "load_timeout": 10.0,
        "shared": "Shared",
        "shared_ttl": 900.0,
    }
    assert Cached(Source().load).parameters["shared"] is None


@pytest.mark.parametrize(
    "given",
    [
        {"load": 7}, {"ttl": 0}, {"negative_ttl": "1"}, {"shared_ttl": -1}, {"load_timeout": 0}, {"shared_timeout": 0},
        {"max_entries": 0}, {"shared": object()}, {"name": 7},
    ],
    ids=repr,
)  # fmt: skip
def test_an_argument_that_makes_no_sense_is_refused_by_name(given: dict[str, Any]) -> None:
    make: Callable[..., object] = Cached
    with pytest.raises((TypeError, ValueError), match=f"^{next(iter(given))}"):
        make(**{"load": len, **given})
