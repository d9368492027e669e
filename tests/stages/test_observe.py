"""Hooks: what they learn, that they harm nobody, and the metrics made of them."""

import asyncio
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudevents_kit import ACCEPTED, Event, Handler, HandlerSink, Outcome, Reject, Retry, settle, stages, wrap
from cloudevents_kit.stages import Metrics, Stage, observe, running, stage, tap
from tests.support.clock import ManualClock
from tests.support.events import new
from tests.support.programs import ROOT
from tests.support.virtual import virtual

EVENT = new()
NAME = "cloudevents_kit hook"


async def end(event: Event) -> None: ...


class Notes:
    """A recorder that keeps what it learns."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Event, str, float]] = []

    def recorder(self, stage: Stage | None) -> Callable[[Event, str, float], None]:
        name = stage.name if stage else "-"
        return lambda event, ending, seconds: self.calls.append((name, event, ending, seconds))

    @property
    def endings(self) -> list[tuple[str, str]]:
        return [(name, ending) for name, _, ending, _ in self.calls]


class Plain:
    """A hook as anybody may write it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.told = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.error: Exception | None = None

    def __call__(self, stage: Stage | None, event: Event, ending: str, seconds: float, /) -> None:
        self.told.set()
        assert self.go_on.wait(5)
        assert isinstance(event, Event)
        assert seconds >= 0
        self.calls.append((stage.name if stage else "-", ending))
        if self.error is not None:
            raise self.error


def threads() -> int:
    return sum(thread.name == NAME for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 3
    while threads() and time.monotonic() < deadline:  # one that was never closed lingers
        time.sleep(0.01)
    assert threads() == 0


class Noting(Stage):
    """Ends events with a fate."""

    def __init__(self, fate: str, name: str | None = None) -> None:
        super().__init__(name)
        self.fate = fate

    async def run(self, event: Event, call_next: Handler) -> Outcome:
        self.note(self.fate)
        return None


class Again(Stage):
    """Tries until it succeeds, as often as it is told."""

    async def run(self, event: Event, call_next: Handler) -> Outcome:
        for _ in range(2):
            try:
                return await call_next(event)
            except Retry:
                continue
        return await call_next(event)


# What a hook learns.


async def test_a_hook_learns_how_an_event_left_each_stage_and_its_outcome() -> None:
    notes = Notes()
    handler = observe(wrap(end, tap(lambda event: None, name="outer"), Again("inner")), notes)
    assert await handler(EVENT) is None
    assert notes.endings == [("inner", "done"), ("outer", "done"), ("-", "acked")]
    assert {event for _, event, _, _ in notes.calls} == {EVENT}
    inner, outer, whole = (seconds for *_, seconds in notes.calls)
    assert 0 < inner < outer < whole


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (Reject(), "refused"),
        (KeyError(), "failed"),
        (ExceptionGroup("", [KeyError()]), "failed"),
    ],
    ids=["verdict", "error", "group"],
)
async def test_a_refusal_is_told_apart_from_a_failure(error: Exception, ending: str) -> None:
    async def fail(event: Event) -> None:
        raise error

    notes = Notes()
    handler = observe(wrap(fail, tap(lambda event: None, name="f"), stage(_pass, name="p")), notes)
    with pytest.raises(type(error)) as raised:
        await handler(EVENT)
    assert raised.value is error
    assert notes.endings == [("p", ending), ("f", ending), ("-", "nacked")]


async def _pass(event: Event, call_next: Handler) -> Outcome:
    return await call_next(event)


async def test_a_failing_function_and_a_failing_stage_are_told_with_what_is_around_them() -> None:
    """A StageError whose cause is a verdict is a refusal."""

    class Limited(Stage):
        async def run(self, event: Event, call_next: Handler) -> Outcome:
            raise self.failure(Retry(), event, 0.0) from Retry()

    for inner, ending in ((Limited("x"), "refused"), (tap(lambda event: 1 / 0, name="x"), "failed")):
        notes = Notes()
        assert not await settle(observe(wrap(end, tap(lambda event: None, name="o"), inner), notes), EVENT)
        assert notes.endings == [("x", ending), ("o", ending), ("-", "nacked")]


@virtual
async def test_a_cancelled_event_is_told_as_cancelled() -> None:
    """K-O1: its signals are delivered; it is no failure."""
    entered = asyncio.Event()

    async def wait(event: Event) -> None:
        entered.set()
        await asyncio.sleep(3600)

    notes = Notes()
    handler = observe(wrap(wait, tap(lambda event: None), Again("again")), notes)
    task = asyncio.ensure_future(handler(EVENT))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert notes.endings == [("again", "cancelled"), ("tap", "cancelled"), ("-", "cancelled")]


@pytest.mark.parametrize("fate", ["dropped", "duplicate", "dead_lettered"])
async def test_what_a_stage_did_with_an_event_instead_is_its_outcome(fate: str) -> None:
    """K-O1."""
    notes = Notes()
    handler = observe(wrap(end, Again(), Noting(fate)), notes)
    await handler(EVENT)
    await wrap(end, Noting("dropped"))(EVENT)  # one that is not observed
    await handler(EVENT)
    assert [ending for name, ending in notes.endings if name == "-"] == [fate, fate]


async def test_a_try_that_failed_leaves_no_mark_on_the_outcome() -> None:
    """An event that was refused once, and then handled, was acknowledged."""
    tries = iter(["refused", "refused", "handled"])

    class Refusing(Stage):
        async def run(self, event: Event, call_next: Handler) -> Outcome:
            if next(tries) == "refused":
                self.note("refused")
                raise Retry
            return await call_next(event)

    notes = Notes()
    await observe(wrap(end, Again(), Refusing()), notes)(EVENT)
    assert notes.endings[-1] == ("-", "acked")


@pytest.mark.parametrize(
    ("outcome", "ending"),
    [(None, "acked"), (ACCEPTED, "acked"), (new(id="reply"), "acked"), (EVENT, "nacked"), ("OK", "nacked")],
    ids=["nothing", "accepted", "reply", "the event itself", "nonsense"],
)
async def test_the_outcome_is_what_the_sender_is_told(outcome: Any, ending: str) -> None:
    async def handler(event: Event) -> Any:
        return outcome

    notes = Notes()
    result = await settle(observe(handler, notes), EVENT)
    assert notes.endings == [("-", ending)]
    assert bool(result) is (ending == "acked")


async def test_an_observed_handler_may_be_part_of_another_one() -> None:
    """A fate is that of both."""
    inner, outer = Notes(), Notes()
    for first, expected in ((Again("a"), "acked"), (Noting("dropped", "n"), "dropped")):
        inner.calls.clear()
        outer.calls.clear()
        handler = observe(wrap(observe(wrap(end, first), inner), tap(lambda event: None)), outer)
        await handler(EVENT)
        assert inner.endings == [(first.name, "done"), ("-", expected)]
        assert outer.endings == [(first.name, "done"), ("tap", "done"), ("-", expected)]


async def test_what_becomes_of_another_event_is_not_the_fate_of_the_one_that_caused_it() -> None:
    audit = HandlerSink(end, Noting("dropped"))
    notes = Notes()
    handler = observe(wrap(end, tap(lambda _: audit.send(new(id="other")))), notes)
    assert await settle(handler, EVENT)
    assert notes.endings == [("tap", "done"), ("-", "acked")]


async def test_a_stage_tells_nobody_any_more_when_the_observed_chain_was_closed() -> None:
    """It may live on in others, and many may have observed it."""
    shared, first, then = tap(lambda event: None), Notes(), Notes()
    one, two = observe(wrap(end, shared), first), observe(wrap(end, shared), then)
    async with running(one), running(two):
        pass
    await settle(wrap(end, shared), EVENT)
    assert first.endings == then.endings == []
    assert shared.record is None
    async with running(one):
        await one(EVENT)
    assert first.endings == [("tap", "done"), ("-", "acked")]
    assert then.endings == []


def test_what_all_chains_share_is_not_observed() -> None:
    observe(wrap(end, stages.race(stages.PASS, end)), Notes())
    assert stages.PASS.record is None


async def test_a_stage_of_two_chains_tells_a_hook_once() -> None:
    notes, plain, shared = Notes(), Plain(), tap(lambda event: None)
    one = observe(wrap(end, shared), notes, plain)
    two = observe(wrap(end, shared), notes, plain)
    async with running(one, two):
        await one(EVENT)
        await two(EVENT)
    assert Counter(notes.endings) == {("tap", "done"): 2, ("-", "acked"): 2}
    assert Counter(plain.calls) == {("tap", "done"): 2, ("-", "acked"): 2}


async def test_a_plain_handler_is_observed_too() -> None:
    notes = Notes()
    assert await settle(observe(lambda event: None, notes), EVENT)
    assert notes.endings == [("-", "acked")]


# What a hook cannot do.


async def test_a_slow_hook_and_one_that_raises_harm_no_event(caplog: pytest.LogCaptureFixture) -> None:
    """K-O1: each is called for everything, and no event waits for it. K-P9: one line in the log."""
    slow, bad, good = Plain(), Plain(), Plain()
    slow.go_on.clear()
    bad.error = KeyError("x")
    handler = observe(wrap(end, tap(lambda event: None)), slow, bad, good)
    async with running(handler):
        longest = 0.0
        for _ in range(50):
            began = time.perf_counter()
            assert await settle(handler, EVENT)
            longest = max(longest, time.perf_counter() - began)
            await asyncio.sleep(0)
        assert longest < 0.05  # the slow one holds on for as long as this loop runs
        assert slow.calls == []
        slow.go_on.set()
    expected = [("tap", "done"), ("-", "acked")] * 50
    assert slow.calls == bad.calls == good.calls == expected
    assert handler.counts == {"failed": 100, "lost": 0}
    (record,) = caplog.records
    assert record.message == "a hook failed; from now on its failures are only counted"
    assert record.exc_info is not None


async def test_what_a_slow_hook_has_no_room_for_is_lost_and_counted() -> None:
    slow = Plain()
    slow.go_on.clear()
    handler = observe(end, slow, queue=3)
    async with running(handler):
        await handler(EVENT)
        await asyncio.to_thread(slow.told.wait, 5)
        for _ in range(5):
            await handler(EVENT)
        assert handler.counts == {"failed": 0, "lost": 2}
        slow.go_on.set()
    assert len(slow.calls) == 4


async def test_a_hook_that_hangs_does_not_hold_up_the_end() -> None:
    hung = Plain()
    hung.go_on.clear()
    handler = observe(end, hung, grace=0.05)
    async with running(handler):
        for _ in range(4):
            await handler(EVENT)
        await asyncio.to_thread(hung.told.wait, 5)
    assert handler.counts == {"failed": 0, "lost": 3}
    hung.go_on.set()  # and its thread ends


async def test_threads_begin_with_the_first_event_and_end_with_the_chain() -> None:
    plain = Plain()
    handler = observe(end, plain)
    for number in (1, 2):  # it can be opened again
        async with running(handler):
            assert threads() == 0
            await handler(EVENT)
            assert threads() == 1
        assert threads() == 0
        assert len(plain.calls) == number


async def test_what_comes_after_the_end_is_told_too() -> None:
    plain = Plain()
    handler = observe(end, plain)
    async with running(handler):
        pass
    await handler(EVENT)
    await asyncio.to_thread(plain.told.wait, 5)
    assert plain.told.is_set()


def test_calls_of_many_threads_at_once_all_arrive() -> None:
    """And the thread of the hook, which ends whenever there is nothing to do, begins again each time."""
    plain = Plain()
    handler = observe(end, plain)

    async def send_some() -> None:
        async with running(handler):
            for _ in range(100):
                await handler(EVENT)
                await asyncio.sleep(0)

    workers = [threading.Thread(target=asyncio.run, args=(send_some(),)) for _ in range(5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    async def last() -> None:
        async with running(handler):
            await handler(EVENT)

    asyncio.run(last())
    assert len(plain.calls) == 501


async def test_an_event_is_handled_also_if_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call waits until one can."""
    plain = Plain()
    handler = observe(end, plain)
    async with running(handler):
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", raising(RuntimeError("can't start new thread")))
            assert await settle(handler, EVENT)
        assert plain.calls == []
        assert await settle(handler, EVENT)
    assert len(plain.calls) == 2


def raising(error: Exception) -> Callable[[Any], None]:
    def fail(_: Any) -> None:
        raise error

    return fail


PROGRAM = """
import asyncio, time
from cloudevents_kit import Event, stages
async def end(event): ...
handler = stages.observe(end, lambda *_: time.sleep(60))
asyncio.run(handler(Event(type="t", source="/s")))
print("done")
"""


def test_a_hook_does_not_keep_the_process_from_ending() -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
    )
    assert (ended.stdout, ended.stderr) == ("done\n", "")


def test_what_is_no_hook_is_refused_at_once() -> None:
    async def asynchronous(*_: object) -> None: ...

    wrong: list[tuple[Any, str]] = [
        (None, "hooks: must be callable"),
        (Metrics, "hooks: must be an object"),
        (asynchronous, "hooks: must be plain functions, not async ones"),
    ]
    for hook, message in wrong:
        with pytest.raises(TypeError, match=message):
            observe(end, hook)
    with pytest.raises(ValueError, match="queue: must be 1 or more"):
        observe(end, queue=0)
    with pytest.raises(ValueError, match="grace: must be finite and not negative"):
        observe(end, grace=-1)
    with pytest.raises(TypeError, match="handler: must be callable"):
        observe(None)  # type: ignore[arg-type]


# Metrics.


@virtual
async def test_every_event_ends_in_exactly_one_counter() -> None:
    """K-O1: the sums of 10,000 random events match, whatever became of them."""
    random_number = random.Random(7)
    expected: Counter[str] = Counter()

    async def handle(event: Event) -> Outcome:
        if event.type in {"nacked", "cancelled"}:
            await asyncio.sleep(0)
            raise {"nacked": Reject("no"), "cancelled": asyncio.CancelledError()}[event.type]
        return event.reply(type="r", source="/r") if event.subject else None

    def fail(event: Event) -> None:
        if event.type == "nacked" and event.subject:
            raise KeyError(event.id)

    def fate(what: str) -> Stage:
        async def filtered(event: Event, call_next: Handler) -> Outcome:
            if event.type != what:
                return await call_next(event)
            noting.note(what)
            return None

        noting = stage(filtered, name=what)
        return noting

    outcomes = ["acked", "nacked", "cancelled", "dropped", "duplicate", "dead_lettered"]
    dropping = stages.keep_if(lambda event: event.type != "dropped")
    parts = [fate("duplicate"), dropping, fate("dead_lettered"), tap(fail)]
    metrics = Metrics(types=("acked", "nacked"))
    handler = observe(wrap(handle, *parts), metrics)

    async def send(number: int) -> None:
        outcome = random_number.choice(outcomes)
        expected[outcome] += 1
        subject = random_number.choice([None, "s"])
        try:
            await settle(handler, new(id=str(number), type=outcome, subject=subject))
        except asyncio.CancelledError:
            assert outcome == "cancelled"

    for first in range(0, 10_000, 100):
        await asyncio.gather(*(send(number) for number in range(first, first + 100)))
    found = metrics.snapshot()
    assert found["events"] == 10_000
    assert found["outcomes"] == expected
    assert found["types"]["acked"] == {"acked": expected["acked"]}
    assert found["types"]["nacked"] == {"nacked": expected["nacked"]}
    assert found["types"]["other"] == expected - Counter({name: expected[name] for name in ("acked", "nacked")})
    left = 10_000
    for part in parts:
        shown = found["stages"][part.name]
        assert shown["events"] == sum(shown["endings"].values()) == left
        left -= sum(part.counts.values())
        assert shown["counts"] == part.counts


async def test_labels_cannot_be_chosen_by_peers() -> None:
    """K-O1: types are counted by an allow-list."""
    metrics = Metrics(types=["a"])
    handler = observe(end, metrics)
    for event_type in ("a", *(f"t{number}" for number in range(100))):
        await handler(new(type=event_type))
    assert metrics.snapshot()["types"] == {"a": {"acked": 1}, "other": {"acked": 100}}
    without = Metrics()
    await observe(end, without)(EVENT)
    assert without.snapshot()["types"] == {}


async def test_stages_are_shown_in_their_order_by_names_that_differ_before_the_first_event(clock: ManualClock) -> None:
    metrics = Metrics(clock=clock)
    observe(wrap(end, tap(lambda event: None), stages.chain(Again("x"), tap(lambda event: None))), metrics)
    observe(wrap(end, tap(lambda event: None)), metrics)
    found = metrics.snapshot()
    nothing = {"total": 0.0, "longest": 0.0, "p50": 0.0, "p95": 0.0, "p99": 0.0}
    assert [*found["stages"]] == ["tap", "chain", "x", "tap 2", "tap 3"]
    assert found["stages"]["x"] == {"kind": "stage", "events": 0, "endings": {}, "seconds": nothing, "counts": {}}
    assert found["since"] == clock.now().isoformat()
    assert (found["events"], found["outcomes"], found["seconds"]) == (0, {}, nothing)


@pytest.mark.parametrize("count", [1, 7, 500, 501, 1234])
def test_durations_are_summed_and_their_percentiles_are_within_a_bucket(count: int) -> None:
    metrics = Metrics()
    record = metrics.recorder(None)
    random_number = random.Random(count)
    durations = [random_number.expovariate(20) for _ in range(count)]
    for index, seconds in enumerate(durations):
        record(EVENT, "acked", seconds)
        if index == count // 2:
            metrics.snapshot()  # asking changes nothing
    found = metrics.snapshot()["seconds"]
    assert found["total"] == pytest.approx(sum(durations))
    assert found["longest"] == max(durations)
    ordered = sorted(durations)
    for percent in (50, 95, 99):
        true = ordered[min(count - 1, int(percent / 100 * count))]
        assert true / 2.6 <= found[f"p{percent}"] <= true * 2.6
        assert found[f"p{percent}"] <= max(durations)


def test_what_takes_no_time_or_for_ever_has_its_place_too() -> None:
    metrics = Metrics()
    record = metrics.recorder(None)
    for seconds in (0.0, 1e-9, 1000.0):
        record(EVENT, "acked", seconds)
    found = metrics.snapshot()
    assert found["events"] == 3
    assert found["seconds"]["longest"] == 1000.0
    assert found["seconds"]["total"] == pytest.approx(1000.0)
    assert found["seconds"]["p99"] <= 1000.0


@pytest.mark.parametrize("types", ["a", 1, ["a", 1]])
def test_types_are_several_texts(types: Any) -> None:
    with pytest.raises(TypeError, match="types: must be a tuple of event types"):
        Metrics(types=types)
