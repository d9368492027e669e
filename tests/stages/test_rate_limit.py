"""The stage that limits how many events pass in a second."""

import asyncio
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudevents_kit import Event, Handler, Nack, Receiver, Retry, RetryPolicy, Sender, settle, stages, wrap
from cloudevents_kit._errors import StageError
from tests.support.events import new
from tests.support.virtual import LoopClock, run_virtual, virtual


class Gate:
    """A handler that notes who came when."""

    def __init__(self) -> None:
        self.came: list[tuple[str, float]] = []

    async def __call__(self, event: Event) -> None:
        self.came.append((event.id, asyncio.get_running_loop().time()))

    @property
    def ids(self) -> list[str]:
        return [name for name, _ in self.came]

    @property
    def times(self) -> list[float]:
        return [round(time, 6) for _, time in self.came]


def start(handler: Handler, event: Event) -> asyncio.Task[Any]:
    async def run() -> Any:
        return await handler(event)

    return asyncio.create_task(run())


# Waiting.


@virtual
async def test_they_pass_in_the_order_of_their_coming_with_even_gaps(clock: LoopClock) -> None:
    """K-P5: 5 tasks at 10 per second."""
    gate = Gate()
    handler = wrap(gate, stages.rate_limit(10, clock=clock))
    await asyncio.gather(*[handler(new(id=str(number))) for number in range(5)])
    assert gate.ids == list("01234")
    assert gate.times == [0, 0.1, 0.2, 0.3, 0.4]


@virtual
async def test_a_burst_passes_at_once_and_then_they_have_to_wait(clock: LoopClock) -> None:
    gate = Gate()
    handler = wrap(gate, stages.rate_limit(2, burst=3, clock=clock))
    await asyncio.gather(*[handler(new()) for _ in range(6)])
    assert gate.times == [0, 0, 0, 0.5, 1, 1.5]
    await asyncio.sleep(1.0)  # is enough for two
    await asyncio.gather(*[handler(new()) for _ in range(3)])
    assert gate.times[6:] == [2.5, 2.5, 3.0]


@virtual
async def test_more_than_may_wait_are_refused(clock: LoopClock) -> None:
    """K-P5: and told when there will be room."""
    gate = Gate()
    guard = stages.rate_limit(10, max_waiting=2, clock=clock)
    results = await asyncio.gather(*[settle(wrap(gate, guard), new(id=str(number))) for number in range(5)])
    assert gate.ids == list("012")
    assert [result.is_ack for result in results] == [True, True, True, False, False]
    refused: Any = results[3]
    assert isinstance(refused, Nack)
    assert (refused.status, refused.reason, refused.retryable) == (429, "too many events (rate_limit)", True)
    assert refused.retry_after == pytest.approx(0.3)
    assert guard.counts == {"waited": 2, "refused": 2}


class LateClock(LoopClock):
    """Goes ahead while nothing in the loop can run."""

    late = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.late


@virtual
async def test_when_the_loop_was_late_they_are_told_the_time_that_those_before_them_need() -> None:
    clock = LateClock()
    guard = stages.rate_limit(10, max_waiting=2, clock=clock)
    handler = wrap(Gate(), guard)
    tasks = [start(handler, new()) for _ in range(3)]
    await asyncio.sleep(0)
    clock.late = 5
    result = await settle(handler, new())
    assert isinstance(result, Nack)
    assert (result.status, result.retry_after) == (429, pytest.approx(0.2))
    await asyncio.gather(*tasks)


@virtual
async def test_one_who_comes_later_does_not_overtake(clock: LoopClock) -> None:
    gate = Gate()
    handler = wrap(gate, stages.rate_limit(1, clock=clock))
    tasks = []
    for number in range(8):
        tasks.append(start(handler, new(id=str(number))))
        await asyncio.sleep(0.5)
    await asyncio.gather(*tasks)
    assert gate.ids == list("01234567")
    assert gate.times == [0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("cancelled", [[0], [1], [3], [48], [0, 1, 2], list(range(0, 49, 2)), list(range(48))], ids=str)
@virtual
async def test_those_behind_one_who_is_cancelled_move_up(clock: LoopClock, cancelled: list[int]) -> None:
    gate = Gate()
    guard = stages.rate_limit(10, clock=clock)
    await wrap(gate, guard)(new(id="first"))
    tasks = [start(wrap(gate, guard), new(id=str(number))) for number in range(49)]
    await asyncio.sleep(0.05)
    for number in cancelled:
        tasks[number].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    left = [str(number) for number in range(49) if number not in cancelled]
    assert gate.ids == ["first", *left]
    assert gate.times == pytest.approx([one / 10 for one in range(len(left) + 1)], abs=1e-5)
    assert guard.status["waiting"] == 0


@virtual
async def test_when_all_are_cancelled_nothing_is_left(clock: LoopClock) -> None:
    gate = Gate()
    guard: Any = stages.rate_limit(10, clock=clock)
    tasks = [start(wrap(gate, guard), new()) for _ in range(50)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (gate.times, guard._queues) == ([0], {})
    await wrap(gate, guard)(new())
    assert gate.times == [0, 0.1]


@virtual
async def test_a_timer_that_rings_late_does_not_slow_the_rest_down() -> None:
    """But what comes late by more than a little is not made up for."""

    class LateClock(LoopClock):
        late = 0.004

        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(seconds + self.late)

    gate, clock = Gate(), LateClock()
    handler = wrap(gate, stages.rate_limit(10, clock=clock))
    await asyncio.gather(*[handler(new()) for _ in range(11)])
    assert gate.times[-1] == pytest.approx(1.0, abs=0.005)
    clock.late = 5.0
    await handler(new())
    clock.late = 0.0
    await asyncio.gather(*[handler(new()) for _ in range(3)])
    gaps = [b - a for a, b in zip(gate.times[-4:], gate.times[-3:], strict=False)]
    assert min(gaps) >= 0.09 - 1e-6


async def test_on_the_clock_of_the_machine() -> None:
    gate = Gate()
    handler = wrap(gate, stages.rate_limit(50))
    await asyncio.gather(*[handler(new()) for _ in range(4)])
    assert gate.came[-1][1] - gate.came[0][1] > 0.05


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.integers(1, 5)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("pass"), st.sampled_from([0.125, 0.25, 0.5, 1.0, 3.0])),
    ),
    max_size=40,
)


@given(STEPS, st.integers(1, 4))
def test_whatever_happens_each_passes_as_soon_as_it_may(steps: list[tuple[str, float]], burst: int) -> None:
    """Any interleaving of arrivals, cancellations and time, at 4 per second."""

    async def play() -> None:
        gate, clock, interval = Gate(), LoopClock(), 0.25
        guard: Any = stages.rate_limit(4, burst=burst, max_waiting=7, clock=clock)
        tasks: list[asyncio.Task[Any]] = []
        arrived: list[float] = []
        for what, number in steps:
            if what == "come":
                for _ in range(int(number)):
                    arrived.append(clock.monotonic())
                    tasks.append(start(wrap(gate, guard), new(id=str(len(tasks)))))
                await asyncio.sleep(0)
            elif what == "pass":
                await asyncio.sleep(number)
            elif number < len(tasks):
                tasks[int(number)].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert gate.ids == sorted(gate.ids, key=int)
        even = before = -1000.0
        for name, time in gate.came:
            earliest = max(arrived[int(name)], before, even - (burst - 1) * interval)
            assert time == pytest.approx(earliest, abs=1e-5)
            even, before = max(even, time) + interval, time
        refused = [task for task in tasks if not task.cancelled() and isinstance(task.exception(), Retry)]
        assert len(refused) == guard.counts["refused"]
        assert len(gate.came) + len(refused) + sum(task.cancelled() for task in tasks) >= len(tasks)
        assert guard._queues == {}

    run_virtual(play)


# Refusing.


@virtual
async def test_each_client_has_its_burst_and_then_a_429_that_tells_the_truth(clock: LoopClock) -> None:
    """K-S6: 2 per second with a burst of 2; the third is told when, and it is true."""
    gate = Gate()
    guard = stages.rate_limit(2, burst=2, mode="refuse", key=lambda event: event.source, clock=clock)
    handler = wrap(gate, guard)
    assert [(await settle(handler, new())).is_ack for _ in range(2)] == [True, True]
    result: Any = await settle(handler, new())
    assert (result.status, result.retryable, result.retry_after) == (429, True, 0.5)
    assert await settle(handler, new(source="/another"))
    await asyncio.sleep(0.49)
    assert not await settle(handler, new())
    await asyncio.sleep(0.01)
    assert await settle(handler, new())
    assert guard.counts == {"refused": 2}


@given(st.floats(0.001, 1000), st.integers(1, 5), st.lists(st.floats(0, 10), max_size=30), st.floats(0, 1e7))
def test_a_try_after_the_time_that_was_told_passes(rate: float, burst: int, waits: list[float], started: float) -> None:
    """K-P5: whatever the floats are."""

    async def play() -> None:
        clock, gate = LoopClock(), Gate()
        await asyncio.sleep(started)
        handler = wrap(gate, stages.rate_limit(rate, burst=burst, mode="refuse", clock=clock))
        for wait in waits:
            try:
                await handler(new())
            except Retry as refused:
                await asyncio.sleep(refused.after or 0)
                await handler(new())
            await asyncio.sleep(wait)

    run_virtual(play)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([0, 0, 0.125, 0.25, 0.5, 2])), max_size=60),
    st.integers(1, 4),
)
def test_it_lets_pass_what_a_bucket_of_tokens_would(steps: list[tuple[str, float]], burst: int) -> None:
    """Two keys, 4 per second, and exact arithmetic on the other side."""

    async def play() -> None:
        clock, gate = LoopClock(), Gate()
        handler = wrap(
            gate, stages.rate_limit(4, burst=burst, mode="refuse", key=lambda event: event.subject, clock=clock)
        )
        tokens = {"a": Fraction(burst), "b": Fraction(burst)}
        for key, wait in steps:
            await asyncio.sleep(wait)
            tokens = {name: min(Fraction(burst), left + Fraction(wait) * 4) for name, left in tokens.items()}
            passed = (await settle(handler, new(subject=key))).is_ack
            assert passed == (tokens[key] >= 1)
            tokens[key] -= passed

    run_virtual(play)


async def test_the_sender_is_told_over_http() -> None:
    """K-S6: in whole seconds, never too few."""
    gate = Gate()
    async with (
        Receiver(gate, stages.rate_limit(0.8, mode="refuse"), port=0) as receiver,
        Sender(receiver.url, retry=RetryPolicy.none()) as sender,
    ):
        assert await sender.send(new())
        result: Any = await sender.send(new(id="2"))
    assert (result.status, result.retry_after) == (429, 2)


# Keys.


@virtual
async def test_only_so_many_keys_are_remembered(clock: LoopClock) -> None:
    """K-S6: the accounts of clients that were idle longest go first."""
    gate = Gate()
    guard: Any = stages.rate_limit(1, mode="refuse", key=lambda event: event.subject, max_keys=10, clock=clock)
    handler = wrap(gate, guard)
    for number in range(1000):
        await handler(new(subject=str(number)))
        assert guard.status["keys"] <= 10
    for number in range(990, 1000):
        with pytest.raises(Retry):
            await handler(new(subject=str(number)))
    await handler(new(subject="0"))  # forgotten
    with pytest.raises(Retry):
        await handler(new(subject="999"))
    await handler(new(subject="990"))  # the oldest was


@virtual
async def test_a_key_that_is_used_is_remembered(clock: LoopClock) -> None:
    guard = stages.rate_limit(1, mode="refuse", key=lambda event: event.subject, max_keys=2, clock=clock)
    handler = wrap(Gate(), guard)
    for subject in "ab":
        await handler(new(subject=subject))
    await asyncio.sleep(1)
    for subject in "ac":
        await handler(new(subject=subject))
    with pytest.raises(Retry):
        await handler(new(subject="a"))


@virtual
async def test_a_key_with_events_that_wait_is_never_forgotten(clock: LoopClock) -> None:
    gate = Gate()
    guard: Any = stages.rate_limit(1, key=lambda event: event.subject, max_keys=2, clock=clock)
    handler = wrap(gate, guard)
    tasks = [start(handler, new(id=f"{subject}{number}", subject=subject)) for subject in "ab" for number in range(3)]
    await asyncio.sleep(0)
    for number in range(10):
        await handler(new(id="c", subject=f"c{number}"))
    with pytest.raises(Retry):
        await handler(new(subject="c9"))  # nobody else may wait
    assert guard.status == {"waited": 4, "refused": 1, "waiting": 4, "keys": 4}
    await asyncio.gather(*tasks)
    found = {name: time for name, time in gate.came if name != "c"}
    assert found == pytest.approx({"a0": 0, "a1": 1, "a2": 2, "b0": 0, "b1": 1, "b2": 2})
    assert guard.status["keys"] == 2


async def later(event: Event) -> str:
    return "key"


def deferred(event: Event) -> Any:
    return later(event)


def promised(event: Event) -> Any:
    return asyncio.get_running_loop().create_future()


@pytest.mark.parametrize(
    ("key", "error"),
    [(lambda event: 1 / 0, ZeroDivisionError), (deferred, TypeError), (promised, TypeError)],
    ids=["fails", "coroutine", "future"],
)
async def test_a_key_that_cannot_be_had_is_a_failure_of_the_stage(key: Any, error: type[Exception]) -> None:
    gate = Gate()
    with pytest.raises(StageError) as caught:
        await wrap(gate, stages.rate_limit(1, key=key))(new())
    assert isinstance(caught.value.__cause__, error)
    assert gate.came == []


@pytest.mark.parametrize("value", [[], {}, [1]])
async def test_a_peer_that_sends_no_single_value_as_key_is_refused_for_good(value: object) -> None:
    gate = Gate()
    result = await settle(wrap(gate, stages.rate_limit(1, key=stages.field("data.key"))), new(data={"key": value}))
    assert result == Nack(status=422, reason="the key of this event is no single value (rate_limit)")
    assert gate.came == []


# Settings.


def test_it_describes_itself() -> None:
    assert stages.rate_limit(5).parameters == {
        "rate": 5, "burst": 1, "mode": "wait", "per_key": False, "max_keys": 10_000, "max_waiting": 1000,
    }  # fmt: skip
    assert stages.rate_limit(5, mode="refuse").parameters["max_waiting"] == 0


@pytest.mark.parametrize(
    "arguments",
    [{"rate": 0}, {"rate": -1}, {"burst": 0}, {"mode": "drop"}, {"max_keys": 0}, {"max_waiting": -1}],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(arguments: dict[str, Any]) -> None:
    """K-P5."""
    with pytest.raises(ValueError, match=next(iter(arguments))):
        stages.rate_limit(**{"rate": 1, **arguments})


def test_a_key_is_not_async() -> None:
    with pytest.raises(TypeError, match="key: must be a plain function, not an async one"):
        stages.rate_limit(1, key=later)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["key", "clock"])
def test_settings_of_the_wrong_kind_are_refused(name: str) -> None:
    arguments: dict[str, Any] = {name: 3}
    with pytest.raises(TypeError, match=name):
        stages.rate_limit(1, **arguments)
