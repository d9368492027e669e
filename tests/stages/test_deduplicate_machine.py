"""Whatever happens in whatever order: nothing is lost, nothing acknowledged before it is done, no two run at once."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cloudevents_kit import Ack, Event, Nack, Outcome, Reject, Result, settle, stages, wrap
from cloudevents_kit.stages import Stage
from cloudevents_kit.stores.memory import MemoryDedupeStore
from tests.support.dedupe import OverNetwork
from tests.support.events import new
from tests.support.virtual import LoopClock, VirtualLoop

LEASE, TTL = 30.0, 100.0
IDS = st.sampled_from("abc")
ENDS = st.sampled_from(["done", "replied", "failed", "rejected"])


class Kept(MemoryDedupeStore):
    """Remembers until when which keys are done."""

    def __init__(self, done_until: dict[str, float]) -> None:
        super().__init__(clock=LoopClock())
        self.done_until = done_until

    def keep(self, key: str, token: object, outcome: bytes, ttl: float) -> bool:
        kept = super().keep(key, token, outcome, ttl)
        if kept:
            self.done_until[key] = LoopClock().monotonic() + ttl
        return kept


class Link(OverNetwork):
    """Remembers until when the store has promised what."""

    def __init__(self, kept: MemoryDedupeStore) -> None:
        super().__init__(kept)
        self.leased_until: dict[str, float] = {}
        self.tokens: dict[object, str] = {}
        """By the task that claimed."""

    async def claim(self, key: str, token: str, lease: float) -> bytes | float | None:
        asked = LoopClock().monotonic()
        found = await super().claim(key, token, lease)
        if found is None:
            self.leased_until[token] = asked + lease
            self.tokens.setdefault(asyncio.current_task(), token)
        return found


@dataclass(eq=False)
class Process:
    """One stage, as it runs in one process; several may use one store."""

    stage: Stage
    chain: Any
    link: Link | None
    results: list[Result] = field(default_factory=list)
    repeated: int = 0
    """Copies that were acknowledged."""
    unkept: int = 0
    """Events that were handled, and not acknowledged."""
    alive: bool = True


@dataclass(eq=False)
class Run:
    """A handler that runs."""

    key: str
    process: Process
    number: int
    gate: "asyncio.Future[str]"
    task: object


class Deduplication(RuleBasedStateMachine):
    """Processes come and go, lose their store and find it again; the test plays all handlers."""

    @initialize(network=st.booleans(), wait=st.booleans())
    def begin(self, network: bool, wait: bool) -> None:
        self.loop = VirtualLoop()
        asyncio.set_event_loop(self.loop)
        self.network, self.wait = network, wait
        self.running: list[Run] = []
        self.sent: dict[asyncio.Task[Result], tuple[str, Process]] = {}
        self.ids: set[str] = set()
        self.finished: dict[str, set[int]] = {}
        self.done_until: dict[str, float] = {}
        self.store = Kept(self.done_until) if network else MemoryDedupeStore(clock=LoopClock())
        self.ran: dict[object, str] = {}
        self.runs = 0
        self.processes: list[Process] = []
        self.wrong: list[Exception] = []
        self.start()

    def start(self) -> None:
        link = Link(self.store) if self.network else None
        stage = stages.deduplicate(
            link or self.store,
            ttl=TTL,
            lease=LEASE,
            when_running="wait" if self.wait else "conflict",
            clock=LoopClock(),
        )
        process = Process(stage, None, link)

        async def handle(event: Event) -> Outcome:
            return await self.handle(event, process)

        process.chain = wrap(handle, stage)
        self.processes.append(process)

    # The handler.

    async def handle(self, event: Event, process: Process) -> Outcome:
        key = f"2:/s{event.id}"
        with self.noted():
            self.check_start(key)
        return await self.run_handler(event, key, process)

    def check_start(self, key: str) -> None:
        now = self.loop.time()
        assert self.done_until.get(key, 0) <= now, "a finished event runs again within its ttl"
        for other in self.running:
            if other.key == key:
                assert other.process.link, "two run at once in one process"
                token = other.process.link.tokens[other.task]
                assert other.process.link.leased_until[token] <= now, "two run at once within the lease"

    async def run_handler(self, event: Event, key: str, process: Process) -> Outcome:
        self.runs += 1
        run = Run(key, process, self.runs, self.loop.create_future(), asyncio.current_task())
        self.running.append(run)
        try:
            end = await run.gate
        finally:
            self.running.remove(run)
        self.ran[run.task] = end
        if end == "failed":
            raise ValueError
        if end == "rejected":
            raise Reject("no")
        self.finished.setdefault(key, set()).add(run.number if end == "replied" else 0)
        return event.reply(type="r", source="/r", data=run.number) if end == "replied" else None

    # What happens.

    @rule(id_=IDS, copies=st.sampled_from([1, 1, 2, 50]))
    def send(self, id_: str, copies: int) -> None:
        self.ids.add(id_)
        for _ in range(copies):
            _ = self.new_task(id_)
        self.turn()

    def new_task(self, id_: str) -> asyncio.Task[Result]:
        process = self.processes[-1]
        task = self.loop.create_task(settle(process.chain, new(id=id_)))
        self.sent[task] = (f"2:/s{id_}", process)
        task.add_done_callback(self.collect)
        return task

    @precondition(lambda self: self.running)
    @rule(data=st.data(), end=ENDS)
    def end(self, data: st.DataObject, end: str) -> None:
        run = data.draw(st.sampled_from(self.running))
        if not run.gate.done():
            run.gate.set_result(end)
        self.turn()

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), turns=st.sampled_from([0, 1, 2, 20]), as_it_ends=st.booleans())
    def cancel(self, data: st.DataObject, turns: int, as_it_ends: bool) -> None:
        first = data.draw(st.sampled_from([*self.sent]))
        tasks = [*self.sent] if turns == 2 else [first]
        for run in [run for run in self.running if as_it_ends and run.task in tasks]:
            run.gate.set_result("done")
        self.turn(turns)
        for task in tasks:
            task.cancel()
        self.turn(turns)

    @rule(seconds=st.sampled_from([0.01, 1.0, 11.0, LEASE, TTL - 1, TTL, 3600.0]))
    def pass_time(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.turn()

    @rule(what=st.sampled_from(["restart", "crash", "claim", "commit", "release", "all"]), hangs=st.booleans())
    def trouble(self, what: str, hangs: bool) -> None:
        """A new stage on the same store, while the old one still works on what it has; or a store that is away."""
        if what == "restart" or not self.network:
            self.start()
        elif what == "crash":
            self.crash()
        else:
            for method in ("claim", "commit", "release") if what == "all" else (what,):
                self.processes[-1].link.broken[method] = "hangs" if hangs else "raises"  # type: ignore[union-attr]

    def crash(self) -> None:
        """The process is gone, with all it did; what it claimed stays claimed."""
        process = self.processes[-1]
        process.alive = False
        assert process.link
        process.link.broken = dict.fromkeys(("claim", "commit", "release"), "raises")
        for task, (_, where) in [*self.sent.items()]:
            if where is process:
                task.cancel()
        self.turn(40)
        self.start()

    @precondition(lambda self: any(process.link and process.link.broken for process in self.processes))
    @rule()
    def find_the_store(self) -> None:
        for process in self.processes:
            if process.alive and process.link:
                process.link.broken.clear()

    # What must hold.

    def turn(self, turns: int = 20) -> None:
        async def some() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(some())

    def collect(self, task: asyncio.Task[Result]) -> None:
        key, process = self.sent.pop(task)
        end = self.ran.pop(task, None)
        if task.cancelled():
            return
        with self.noted():
            self.check(key, process, end, task.result())

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Keep an error that the loop or the kit would take for its own."""
        try:
            yield
        except Exception as error:
            self.wrong.append(error)

    def check(self, key: str, process: Process, end: str | None, result: Result) -> None:
        process.results.append(result)
        process.repeated += end is None and result.is_ack
        process.unkept += end in {"done", "replied"} and not result.is_ack
        if isinstance(result, Ack):
            number = result.reply.data if result.reply else 0
            assert number in self.finished.get(key, ()), "acknowledged before it was done"
            if end is not None and not self.network:
                self.done_until[key] = self.loop.time() + TTL
            assert self.done_until.get(key, 0) > self.loop.time() or process.stage.counts["lapsed"], "not kept as done"
        assert isinstance(result, Ack | Nack)
        if end is None:
            assert result.status in {200, 204, 409, 503}
        else:
            allowed = {"done": {204, 503}, "replied": {200, 503}, "failed": {500}, "rejected": {422}}
            assert result.status in allowed[end]
            assert result.status != 503 or self.network
        assert isinstance(result, Ack) or result.retryable or result.status == 422

    @invariant()
    def nothing_is_wrong(self) -> None:
        if getattr(self, "wrong", None):
            raise self.wrong[0]

    @invariant()
    def counts_are_exact(self) -> None:
        for process in getattr(self, "processes", ()):
            statuses = Counter(one.status for one in process.results if isinstance(one, Ack | Nack))
            counts = process.stage.counts
            assert counts["conflict"] == statuses[409]
            assert counts["refused"] == statuses[503]
            assert counts["duplicate"] == process.repeated
            assert counts["uncommitted"] >= process.unkept
            assert self.network or counts.keys() <= {"conflict", "duplicate", "waited"}

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.come_to_rest()
        finally:
            self.loop.close()
            asyncio.set_event_loop(None)

    def come_to_rest(self) -> None:
        self.find_the_store()
        while self.sent or self.running:
            self.end_all()
            self.pass_time(1.0)
            self.nothing_is_wrong()
        self.start()
        for id_ in self.ids:  # nothing is lost: whoever sends again is served
            for _ in range(3):
                task = self.new_task(id_)
                while not task.done():
                    self.end_all()
                    self.pass_time(0.1)
                result = task.result()
                if isinstance(result, Ack):
                    break
                assert isinstance(result, Nack)
                assert result.status == 409, "only what a crash left is still claimed"
                self.pass_time(LEASE)
            else:
                raise AssertionError("lost")
        self.pass_time(5)
        self.nothing_is_wrong()
        self.counts_are_exact()
        for process in self.processes:
            assert process.stage._waiting.by_key == {}  # type: ignore[attr-defined]
            assert len(process.stage._tasks) == 0  # type: ignore[attr-defined]
        assert not asyncio.all_tasks(self.loop)

    def end_all(self) -> None:
        for run in self.running:
            if not run.gate.done():
                run.gate.set_result("done")


class TestDeduplication(Deduplication.TestCase):  # type: ignore[misc, valid-type]
    """K-D1: any interleaving of success, failure, cancellation, expiry, crash and restart."""

    settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
