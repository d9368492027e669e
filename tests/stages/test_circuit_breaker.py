"""The stage that leaves alone for a while what keeps failing."""

import asyncio
from collections.abc import Coroutine, Generator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cloudevents_kit import DataError, Event, Handler, Nack, Outcome, Reject, Retry, RetryPolicy, settle, stages, wrap
from cloudevents_kit._errors import StageError
from tests.support.clock import START
from tests.support.events import new
from tests.support.virtual import LoopClock, virtual


class Target:
    """A handler that ends as it is told."""

    def __init__(self, error: BaseException | None = None, takes: float = 0.0) -> None:
        self.error = error
        self.takes = takes
        self.called = 0

    async def __call__(self, event: Event) -> None:
        self.called += 1
        if self.takes:
            await asyncio.sleep(self.takes)
        if self.error is not None:
            raise self.error


async def trip(handler: Any, times: int, event: Event | None = None) -> None:
    for _ in range(times):
        with pytest.raises((OSError, StageError)):
            await handler(event or new())


@virtual
async def test_after_so_many_failures_in_a_row_nothing_is_called_any_more(clock: LoopClock) -> None:
    """K-P4: 3 failures open it, and the 4th event is rejected without a call."""
    target = Target(OSError())
    guard = stages.circuit_breaker(failures=3, reset=10, clock=clock)
    handler = wrap(target, guard)
    await trip(handler, 3)
    assert guard.state() == "open"
    await asyncio.sleep(4)
    result = await settle(handler, new())
    reason = "not available at the moment (circuit_breaker)"
    assert result == Nack(status=503, reason=reason, retryable=True, retry_after=6)
    assert target.called == 3
    assert guard.counts == {"opened": 1, "rejected": 1}
    assert guard.status == {"opened": 1, "rejected": 1, "state": "open"}


@virtual
async def test_a_success_in_between_starts_the_count_anew(clock: LoopClock) -> None:
    target = Target(OSError())
    guard = stages.circuit_breaker(failures=3, clock=clock)
    handler = wrap(target, guard)
    for _ in range(5):
        target.error = OSError()
        await trip(handler, 2)
        target.error = None
        await handler(new())
    assert guard.state() == "closed"


@pytest.mark.parametrize("works", [True, False])
@virtual
async def test_of_many_that_come_after_the_reset_one_is_let_through(clock: LoopClock, works: bool) -> None:
    """K-P4: of 50 at once exactly 1; its success closes the circuit, its failure opens it for all of the reset."""
    target = Target(OSError())
    guard = stages.circuit_breaker(failures=3, reset=10, clock=clock)
    handler = wrap(target, guard)
    await trip(handler, 3)
    await asyncio.sleep(10)
    assert guard.state() == "half_open"
    target.takes = 2
    target.error = None if works else OSError()
    results = await asyncio.gather(*[settle(handler, new(id=str(number))) for number in range(50)])
    assert target.called == 3 + 1
    refused = [result for result in results if isinstance(result, Nack) and result.retry_after is not None]
    assert (len(refused), refused[0].status, refused[0].retry_after) == (49, 503, 1.0)
    if works:
        assert guard.state() == "closed"
        await asyncio.gather(*[handler(new()) for _ in range(50)])
        assert guard.counts == {"opened": 1, "rejected": 49, "closed": 1}
    else:
        await asyncio.sleep(9.9)
        assert guard.state() == "open"
        with pytest.raises(Retry) as caught:
            await handler(new())
        assert caught.value.after == pytest.approx(0.1)
        await asyncio.sleep(0.1)
        assert guard.state() == "half_open"
        assert guard.counts == {"opened": 2, "rejected": 50}


@virtual
async def test_a_try_after_the_time_it_tells_is_let_in(clock: LoopClock) -> None:
    target = Target(OSError())
    handler = wrap(target, stages.circuit_breaker(failures=1, reset=0.7, clock=clock))
    await asyncio.sleep(0.1)
    await trip(handler, 1)
    await asyncio.sleep(1 / 3)
    with pytest.raises(Retry) as caught:
        await handler(new())
    await asyncio.sleep(caught.value.after or 0)
    target.error = None
    assert await handler(new()) is None


@pytest.mark.parametrize("half_open", [False, True])
@virtual
async def test_cancellations_do_not_count_and_give_their_place_back(clock: LoopClock, half_open: bool) -> None:
    """K-P4."""
    target = Target(OSError())
    guard = stages.circuit_breaker(failures=3, reset=10, clock=clock)
    handler = wrap(target, guard)
    if half_open:
        await trip(handler, 3)
        await asyncio.sleep(10)
    before = guard.state()
    target.takes = 60
    for _ in range(5):
        task = asyncio.ensure_future(handler(new()))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert guard.state() == before
    target.takes, target.error = 0, None
    assert await handler(new()) is None
    assert guard.state() == "closed"


@pytest.mark.parametrize("half_open", [False, True])
@pytest.mark.parametrize("error", [Reject(), Reject("gone", 410)], ids=["422", "410"])
@virtual
async def test_rejections_do_not_count_neither_for_nor_against(
    clock: LoopClock, half_open: bool, error: Exception
) -> None:
    """K-P4: 5 of them, and it is as it was."""
    target = Target(OSError())
    guard = stages.circuit_breaker(failures=3, reset=10, clock=clock)
    handler = wrap(target, guard)
    await trip(handler, 3 if half_open else 2)
    if half_open:
        await asyncio.sleep(10)
    before = guard.state()
    target.error = error
    for _ in range(5):
        with pytest.raises(Reject):
            await handler(new())
        assert guard.state() == before
    target.error = OSError()
    await trip(handler, 1)
    assert guard.state() == "open"


@virtual
async def test_data_that_does_not_fit_does_not_count(clock: LoopClock) -> None:
    """K-P4: validation errors of the handler, outside of any stage."""
    guard = stages.circuit_breaker(failures=3, clock=clock)

    async def read(event: Event) -> None:
        event.as_type(int)

    for _ in range(5):
        with pytest.raises(DataError):
            await wrap(read, guard)(new(data="x"))
    assert guard.state() == "closed"


@virtual
async def test_a_refusal_that_may_pass_is_a_failure_and_so_is_a_time_out(clock: LoopClock) -> None:
    guard = stages.circuit_breaker(failures=2, clock=clock)
    with pytest.raises(Retry):
        await wrap(Target(Retry()), guard)(new())
    with pytest.raises(StageError):
        await wrap(Target(takes=10), guard, stages.timeout(1))(new())
    assert guard.state() == "open"


@virtual
async def test_the_user_may_say_what_a_failure_is(clock: LoopClock) -> None:
    guard = stages.circuit_breaker(failures=1, is_failure=lambda error: isinstance(error, Reject), clock=clock)
    await trip(wrap(Target(OSError()), guard), 5)
    with pytest.raises(Reject):
        await wrap(Target(Reject()), guard)(new())
    assert guard.state() == "open"


@virtual
async def test_if_what_the_user_says_fails_both_errors_are_reported_and_it_counts(clock: LoopClock) -> None:
    guard = stages.circuit_breaker(failures=1, is_failure=lambda error: bool(1 / 0), clock=clock)
    with pytest.raises(StageError) as caught:
        await wrap(Target(Reject()), guard)(new())
    group: Any = caught.value.__cause__
    assert [type(one) for one in group.exceptions] == [Reject, ZeroDivisionError]
    assert guard.state() == "open"


# Keys.


@virtual
async def test_every_target_has_a_circuit_of_its_own(clock: LoopClock) -> None:
    """K-P4."""
    target = Target(OSError())
    guard = stages.circuit_breaker(failures=3, reset=10, key=lambda event: event.subject, clock=clock)
    handler = wrap(target, guard)
    await trip(handler, 3, new(subject="a"))
    await trip(handler, 2, new(subject="b"))
    assert (guard.state("a"), guard.state("b"), guard.state("never seen")) == ("open", "closed", "closed")
    assert guard.states == {"a": "open"}
    assert guard.status == {"opened": 1, "keys_open": 1}
    target.error = None
    assert await handler(new(subject="b")) is None
    with pytest.raises(Retry):
        await handler(new(subject="a"))
    await asyncio.sleep(10)
    assert guard.states == {"a": "half_open"}


@virtual
async def test_only_so_many_keys_are_remembered_and_the_closed_are_forgotten_first(clock: LoopClock) -> None:
    target = Target()
    guard = stages.circuit_breaker(failures=2, key=lambda event: event.subject, max_keys=3, clock=clock)
    handler = wrap(target, guard)

    async def fail(subject: str, times: int) -> None:
        target.error = OSError()
        await trip(handler, times, new(subject=subject))
        target.error = None

    await fail("open", 2)
    await fail("once", 1)
    for number in range(100):
        await handler(new(subject=str(number)))
        assert len(guard._closed) + len(guard._open) <= 3
    assert guard.state("open") == "open"
    await fail("open too", 2)
    await fail("open three", 2)
    assert guard.states.keys() == {"open", "open too", "open three"}
    await handler(new(subject="x"))  # there is no closed one to forget
    assert guard.states.keys() == {"open too", "open three"}


@virtual
async def test_a_circuit_that_failed_lately_is_forgotten_last(clock: LoopClock) -> None:
    target = Target()
    guard = stages.circuit_breaker(failures=2, key=lambda event: event.subject, max_keys=2, clock=clock)
    handler = wrap(target, guard)
    for subject in "ab":
        await handler(new(subject=subject))
    target.error = OSError()
    await trip(handler, 1, new(subject="a"))
    await trip(handler, 1, new(subject="c"))  # in the place of b
    await trip(handler, 1, new(subject="a"))
    assert guard.states == {"a": "open"}


@virtual
async def test_of_the_open_ones_that_which_failed_lately_is_forgotten_last(clock: LoopClock) -> None:
    target = Target(OSError())
    guard = stages.circuit_breaker(failures=1, reset=10, key=lambda event: event.subject, max_keys=2, clock=clock)
    handler = wrap(target, guard)
    await trip(handler, 1, new(subject="a"))
    await trip(handler, 1, new(subject="b"))
    await asyncio.sleep(10)
    await trip(handler, 1, new(subject="a"))
    await trip(handler, 1, new(subject="c"))
    assert guard.states == {"a": "open", "c": "open"}


@virtual
async def test_what_ends_after_its_circuit_was_forgotten_changes_nothing(clock: LoopClock) -> None:
    target = Target(OSError(), takes=5)
    guard = stages.circuit_breaker(failures=1, reset=10, key=lambda event: event.subject, max_keys=1, clock=clock)
    handler = wrap(target, guard)
    tasks = [asyncio.ensure_future(handler(new(subject="a"))) for _ in range(50)]
    await asyncio.sleep(1)
    target.takes = 0
    error, target.error = target.error, None
    await handler(new(subject="b"))
    target.error = error
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(end) for end in ends} == {OSError}
    assert guard.states == {}
    assert list(guard._closed) == ["b"]


async def test_a_key_that_cannot_be_had_is_a_failure_of_the_stage() -> None:
    target = Target()
    with pytest.raises(StageError) as caught:
        await wrap(target, stages.circuit_breaker(key=lambda event: 1 / 0, name="guard"))(new())
    assert (caught.value.path, target.called) == (("guard",), 0)


@pytest.mark.parametrize("value", [[], {}, [1]])
async def test_a_peer_that_sends_no_single_value_as_key_is_refused_for_good(value: object) -> None:
    guard = stages.circuit_breaker(key=stages.field("data.key"))
    result = await settle(wrap(Target(), guard), new(data={"key": value}))
    assert result == Nack(status=422, reason="the key of this event is no single value (circuit_breaker)")
    assert guard.counts == {"refused": 1}


# What counts as a failure.


def full() -> stages.Stage:
    """A stage that lets nothing in."""
    guard = stages.bulkhead(1)
    guard._inside = 1
    return guard


def tripped(error: Exception) -> stages.CircuitBreaker:
    guard = stages.circuit_breaker(failures=1)
    guard._fail(None, guard._enter(None), 0)
    return guard


OWN_REFUSALS: dict[str, Any] = {
    "bulkhead": full,
    "breaker": lambda: tripped(OSError()),
    "not open": stages.queue,
    "background": lambda: stages.background(Target()),
    "retried": lambda: stages.chain(stages.retry(RetryPolicy(attempts=2, initial=0)), full()),
    "both branches": lambda: stages.first_of(full(), stages.queue()),
}


@pytest.mark.parametrize("make", OWN_REFUSALS.values(), ids=OWN_REFUSALS)
async def test_what_another_stage_does_not_let_in_says_nothing_of_the_target(make: Any) -> None:
    guard, target = stages.circuit_breaker(failures=1), Target()
    handler = wrap(target, guard, make())
    for _ in range(3):
        with pytest.raises((Retry, StageError)):
            await handler(new())
        assert target.called == 0
    assert (guard.state(), dict(guard.counts)) == ("closed", {})


async def status(handler: Handler) -> int:
    result: Any = await settle(handler, new())
    return int(result.status)


async def test_limits_and_conflicts_further_in_say_nothing_of_the_target() -> None:
    guard = stages.circuit_breaker(failures=1)
    handler = wrap(Target(), guard, stages.rate_limit(1, mode="refuse"))
    assert [await status(handler) for _ in range(4)] == [204, 429, 429, 429]
    slow = Target(takes=60)
    handler = wrap(slow, guard, stages.deduplicate())
    first = asyncio.create_task(settle(handler, new()))
    await asyncio.sleep(0)
    assert [await status(handler) for _ in range(3)] == [409] * 3
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert guard.state() == "closed"


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (OSError(), True),
        (TimeoutError(), True),
        (Retry(), True),
        (Retry(status=500), True),
        (Retry(status=429), False),
        (Retry(status=409), False),
        (Reject(), False),
        (ExceptionGroup("", [Reject(), OSError()]), True),
        (ExceptionGroup("", [Reject(), Retry(status=429)]), False),
    ],
    ids=lambda value: f"{value!r} {getattr(value, 'status', '')}",
)
async def test_a_refusal_counts_only_if_it_says_that_the_target_is_in_trouble(error: Exception, counts: bool) -> None:
    guard = stages.circuit_breaker(failures=1)
    with pytest.raises(type(error)):
        await wrap(Target(error), guard)(new())
    assert guard.state() == ("open" if counts else "closed")


async def test_an_answer_that_is_awaitable_is_told_with_the_error_and_counts() -> None:
    async def later(error: Exception) -> bool:
        return False

    def deferred(error: Exception) -> Any:
        return later(error)

    guard = stages.circuit_breaker(failures=1, is_failure=deferred)
    with pytest.raises(StageError) as caught:
        await wrap(Target(Reject()), guard)(new())
    group: Any = caught.value.__cause__
    assert [type(one) for one in group.exceptions] == [Reject, TypeError]
    assert guard.state() == "open"


# Settings.


def test_it_describes_itself() -> None:
    assert stages.circuit_breaker().parameters == {
        "failures": 5, "reset": 30.0, "probes": 1, "per_key": False, "max_keys": 10_000,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [("failures", 0), ("reset", 0), ("probes", 0), ("max_keys", 0), ("key", 3), ("is_failure", 3), ("clock", 3)],
)
def test_settings_that_make_no_sense_are_refused(name: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=name):
        stages.circuit_breaker(**{name: value})


@pytest.mark.parametrize("name", ["key", "is_failure"])
def test_what_must_answer_at_once_is_not_async(name: str) -> None:
    async def later(_: object) -> bool:
        return True

    arguments: dict[str, Any] = {name: later}
    with pytest.raises(TypeError, match=f"{name}: must be a plain function, not an async one"):
        stages.circuit_breaker(**arguments)


# Any interleaving.


class Held:
    """Lets a coroutine wait for whoever drives it."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class HandClock:
    time = 0.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> datetime:
        return START

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a circuit breaker never waits")


class Model:
    """What a circuit should be, said in the simplest way."""

    def __init__(self) -> None:
        self.state = "closed"
        self.run = 0
        self.until = 0.0
        self.counting: set[int] = set()  # the attempts whose end counts

    def change(self, state: str) -> None:
        self.state = state
        self.run = 0
        self.counting = set()


FAILURES, RESET = 3, 8.0
KEYS = st.sampled_from("ab")


class Breakers(RuleBasedStateMachine):
    """Attempts on two targets begin, and end in every way and order, while time goes by."""

    probes = 1

    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        self.guard = stages.circuit_breaker(
            failures=FAILURES, reset=RESET, probes=self.probes, key=lambda event: event.subject, clock=self.clock
        )
        self.called = 0
        self.handler = wrap(self.target, self.guard)
        self.models = {"a": Model(), "b": Model()}
        self.running: dict[int, tuple[str, Coroutine[Any, Any, Outcome]]] = {}
        self.begun = self.refused = self.opened = self.closed = 0

    async def target(self, event: Event) -> None:
        self.called += 1
        await Held()

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 8.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.clock.time += seconds
        for model in self.models.values():
            if model.state == "open" and self.clock.time >= model.until:
                model.change("half_open")

    @rule(key=KEYS)
    def one_comes(self, key: str) -> None:
        model = self.models[key]
        work: Any = self.handler(new(subject=key))
        enters = model.state == "closed" or (model.state == "half_open" and len(model.counting) < self.probes)
        called = self.called
        if enters:
            work.send(None)
            assert self.called == called + 1
            self.begun += 1
            model.counting.add(self.begun)
            self.running[self.begun] = (key, work)
            return
        with pytest.raises(Retry) as caught:
            work.send(None)
        assert self.called == called
        assert caught.value.after == (model.until - self.clock.time if model.state == "open" else 1.0)
        self.refused += 1

    def end(self, data: st.DataObject, error: BaseException | None) -> tuple[Model, bool]:
        number = data.draw(st.sampled_from(sorted(self.running)))
        key, work = self.running.pop(number)
        with pytest.raises(BaseException) as caught:
            if error is None:
                work.send(None)
            else:
                work.throw(error)
        assert isinstance(caught.value, StopIteration) if error is None else caught.value is error
        model = self.models[key]
        counts = number in model.counting
        model.counting.discard(number)
        return model, counts

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def one_succeeds(self, data: st.DataObject) -> None:
        model, counts = self.end(data, None)
        if counts and model.state == "half_open":
            self.closed += 1
            model.change("closed")
        elif counts:
            model.run = 0

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def one_fails(self, data: st.DataObject) -> None:
        model, counts = self.end(data, OSError())
        model.run += counts
        if counts and (model.state == "half_open" or model.run == FAILURES):
            self.opened += 1
            model.change("open")
            model.until = self.clock.time + RESET

    @precondition(lambda self: self.running)
    @rule(data=st.data(), error=st.sampled_from([asyncio.CancelledError(), Reject()]))
    def one_tells_nothing(self, data: st.DataObject, error: BaseException) -> None:
        self.end(data, error)

    @invariant()
    def it_is_as_it_should_be(self) -> None:
        for key, model in self.models.items():
            assert self.guard.state(key) == model.state
        counts = {"opened": self.opened, "rejected": self.refused, "closed": self.closed}
        assert self.guard.counts == {name: count for name, count in counts.items() if count}

    def teardown(self) -> None:
        for _, work in self.running.values():
            work.close()


class BreakersOfTwo(Breakers):
    """The same with two probes at a time."""

    probes = 2


TestBreakers = Breakers.TestCase
TestBreakersOfTwo = BreakersOfTwo.TestCase
