"""Sagas under any interleaving of failures, deaths, cancellations, stalls and events: all come to a true end."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cloudevents_kit import Event, Reject, RetryPolicy
from cloudevents_kit.saga import Context, Saga, Step, Wait
from cloudevents_kit.stores.memory_journal import MemoryJournal
from tests.support.events import new
from tests.support.virtual import LoopClock, VirtualLoop

STEPS = ("reserve", "pay", "ship")
LEASE = 10.0
EXAMPLES = int(os.environ.get("SAGA_EXAMPLES", "100"))
OVER = {"completed", "compensated", "stuck"}


class Died(BaseException):
    """The process ends here; nothing of it runs any more."""


class World:
    """What the services have done, by key; and what goes wrong, wherever something may."""

    def __init__(self) -> None:
        self.faults: Iterator[str] = iter(())
        self.done: dict[str, None] = {}
        self.calls: list[str] = []
        self.doubtful: set[str] = set()

    async def fault(self) -> str:
        """Do what goes wrong here, if that is the same everywhere."""
        found = next(self.faults, "")
        if found == "die":
            raise Died
        if found == "cancel":
            task: Any = asyncio.current_task()
            task.cancel()
        await asyncio.sleep(2 * LEASE if found == "stall" else 0)
        return found

    def work(self, name: str) -> Callable[[Context], Awaitable[str]]:
        async def work(step: Context) -> str:
            self.calls.append(step.key)
            try:
                found = await self.fault()
                if found == "fail":
                    raise OSError("it did not happen")
                if found == "reject":
                    raise Reject("it will not happen")
                if name == "pay" and not step.events:
                    raise Wait(3.0)
                self.done.setdefault(step.key)
                found = await self.fault()
            except (Died, asyncio.CancelledError):
                self.doubtful.add(step.key)
                raise
            if found in {"fail", "reject"}:
                self.doubtful.add(step.key)
                raise TimeoutError("the answer was lost")
            return step.key

        return work


class Journal(MemoryJournal):
    """Fails before or after it has done what it was asked for."""

    def __init__(self, world: World) -> None:
        super().__init__(clock=LoopClock())
        self.world = world

    async def save(self, saga: str, id: str, state: bytes, /, **given: Any) -> bool:
        return bool(await self._surely(lambda: super(Journal, self).save(saga, id, state, **given), id, state))

    async def lease(self, saga: str, seconds: float, token: str, /) -> Any:
        return await self._surely(lambda: super(Journal, self).lease(saga, seconds, token))

    async def load(self, saga: str, id: str, /) -> Any:
        return await self._surely(lambda: super(Journal, self).load(saga, id))

    async def _surely(self, work: Callable[[], Awaitable[Any]], id: str = "", state: bytes = b"{}") -> Any:
        try:
            before = await self.world.fault()
            if before == "fail":
                raise OSError("no connection")
            found = await work()
            after = await self.world.fault()
            if after == "fail":
                raise OSError("the answer was lost")
        except BaseException:
            self._doubt(id, state)
            raise
        if "stall" in {before, after}:
            self._doubt(id, state)
        return found

    def _doubt(self, id: str, state: bytes) -> None:
        """Nobody can tell what became of an act that began and whose end is not in the journal."""
        for one, text in [(id, state), *((id, kept.state) for (_, id), kept in self._kept.items())]:
            acts = msgspec.json.decode(text).get("acts", {})
            self.world.doubtful |= {f"order/{one}/{name}" for name, act in acts.items() if act.get("status") == "begun"}


class Machine(RuleBasedStateMachine):
    """Each rule is a process of its own, with the same journal."""

    def __init__(self, deadline: float = 200) -> None:
        super().__init__()
        self.deadline = deadline
        self.world = World()
        self.journal = Journal(self.world)
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.started: dict[str, Event] = {}

    def saga(self) -> Saga:
        world = self.world
        return Saga(
            "order",
            [Step(name, world.work(name), world.work(f"{name}_undo")) for name in STEPS],
            journal=self.journal,
            retry=RetryPolicy(attempts=3, initial=1, jitter=False, deadline=None),
            deadline=self.deadline,
            lease=LEASE,
            concurrency=0,
            clock=LoopClock(),
        )

    def run(self, work: Callable[[Saga], Awaitable[object]], faults: Iterable[str] = (), times: int = 1) -> None:
        """Do ``work`` in one process, or in several at once, with what goes wrong in them."""

        async def process() -> None:
            saga = self.saga()
            async with saga:
                await work(saga)

        async def main() -> None:
            tasks = [asyncio.create_task(process()) for _ in range(times)]
            await asyncio.wait(tasks)
            for task in tasks:
                with suppress(Died, OSError, asyncio.CancelledError):
                    task.result()

        self.world.faults = iter(faults)
        self.runner.run(main())

    FAULTS = st.lists(st.sampled_from(["", "", "", "fail", "reject", "die", "cancel", "stall"]), max_size=30)
    NUMBERS = st.integers(0, 2)

    @rule(number=NUMBERS, times=st.integers(1, 3), faults=FAULTS)
    def start(self, number: int, times: int, faults: list[str]) -> None:
        event = new(id=str(number))

        async def start(saga: Saga) -> None:
            await saga(event)
            self.started[str(number)] = event  # it was acknowledged

        self.run(start, faults, times)

    @rule(number=NUMBERS, name=st.sampled_from("ab"), times=st.integers(1, 3), faults=FAULTS)
    def deliver(self, number: int, name: str, times: int, faults: list[str]) -> None:
        cause = f"order/{self.saga().id_of(new(id=str(number)))}/pay"

        async def deliver(saga: Saga) -> None:
            with suppress(Exception):  # it may not have started
                await saga.deliver(new(id=f"{number}{name}", causationid=cause))

        self.run(deliver, faults, times)

    @rule(times=st.integers(1, 3), faults=FAULTS)
    def work(self, times: int, faults: list[str]) -> None:
        self.run(lambda saga: saga.work(), faults, times)

    @rule(seconds=st.sampled_from([0.5, 2, 11, 100]))
    def wait(self, seconds: float) -> None:
        self.run(lambda _: asyncio.sleep(seconds))

    @invariant()
    def what_was_acknowledged_is_there(self) -> None:
        ids = {self.saga().id_of(event) for event in self.started.values()}
        assert ids <= {id for _, id in self.journal._kept}

    def teardown(self) -> None:
        try:
            self.run(self.finish)
            for number in range(3):
                self.check(self.saga().id_of(new(id=str(number))))
        finally:
            self.runner.close()

    async def finish(self, saga: Saga) -> None:
        """Nothing goes wrong any more."""
        for _ in range(300):
            await saga.work()
            await asyncio.sleep(1)
        for id in [report.id async for report in saga.reports("stuck")]:
            assert await saga.resume(id)
            for _ in range(10):
                await saga.work()

    def check(self, id: str) -> None:
        report = None

        async def look(saga: Saga) -> None:
            nonlocal report
            report = await saga.find(id)

        self.run(look)
        found: Any = report
        if found is None:
            assert not any(f"/{id}/" in key for key in self.world.calls)
            return
        acts = [key.rpartition("/")[2] for key in self.world.done if f"/{id}/" in key]
        ran = [name for name in acts if not name.endswith(":undo")]
        undone = [name.removesuffix(":undo") for name in acts if name.endswith(":undo")]
        assert ran == [*STEPS[: len(ran)]]
        if found.status == "completed":
            assert (ran, undone, [*found.results]) == ([*STEPS], [], [*STEPS])
            return
        assert found.status == "compensated"
        assert undone == sorted(undone, key=STEPS.index, reverse=True) == [*found.compensated]
        assert {*ran} <= {*undone}  # nothing of what was done is left
        doubtful = {key.rpartition("/")[2] for key in self.world.doubtful if f"/{id}/" in key}
        assert {*undone} - {*ran} <= doubtful  # it had waited for an event, and done nothing before
        assert acts == [*ran, *(f"{name}:undo" for name in undone)]


@pytest.mark.timeout(60 + EXAMPLES / 5)
@given(
    faults=st.dictionaries(
        st.integers(0, 100), st.sampled_from(["fail", "reject", "die", "cancel", "stall"]), min_size=1, max_size=10
    ),
    answered=st.integers(0, 20),
    processes=st.integers(1, 2),
    deadline=st.sampled_from([5.0, 20.0, 200.0]),
)
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_saga_comes_to_a_true_end_whatever_goes_wrong_at_any_point(
    faults: dict[int, str], answered: int, processes: int, deadline: float
) -> None:
    """Faults by the number of the point at which they happen: before or after any effect, any access to the journal."""
    machine = Machine(deadline)
    points = (faults.get(number, "") for number in range(200))
    machine.start(0, 1, [])
    try:
        for turn in range(25):
            if turn == answered:
                machine.deliver(0, "a", 1, [])
            machine.run(lambda saga: saga.work(), points, processes)
            machine.run(lambda _: asyncio.sleep(2))
    finally:
        machine.teardown()


TestMachine = pytest.mark.timeout(60 + EXAMPLES / 5)(Machine.TestCase)
TestMachine.settings = settings(max_examples=EXAMPLES // 4, stateful_step_count=15, deadline=None)
