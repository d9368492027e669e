"""`order` under any interleaving: one by one, in order, nobody waits for ever, nothing is left behind."""

import asyncio
import logging
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cloudevents_kit import Event, Reject, Result, Retry, settle, stages, wrap
from tests.support.events import new
from tests.support.sending import acked
from tests.support.virtual import LoopClock, VirtualLoop

KEYS = "ABC"


class OrderMachine(RuleBasedStateMachine):
    """Events end when the machine says so, and as it says. What was not acknowledged may be sent again."""

    def __init__(self) -> None:
        super().__init__()
        logging.getLogger("cloudevents_kit").setLevel(logging.CRITICAL)  # else most of the time goes there
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.loop = self.runner.get_loop()
        self.tasks: dict[str, asyncio.Task[Result]] = {}  # the last attempt of each event
        self.running: dict[str, asyncio.Future[Any]] = {}
        self.line: dict[str, list[str]] = {key: [] for key in KEYS}  # in the order in which they must be done
        self.handed_over: set[str] = set()
        self.failed: dict[str, tuple[str, float]] = {}  # by key: what failed last, and when it did so first
        self.expected: dict[asyncio.Task[Result], bool] = {}  # whether it is not refused at once
        self.held: dict[str, asyncio.Task[Result]] = {}  # all that waited at the last look and have not left
        self.until: dict[str, float] = {}  # by key: how long the others wait for the first one, while it is away

    @initialize(policy=st.sampled_from(["skip", "block", "hook"]), hold=st.sampled_from([0, 5]))
    def build(self, policy: str, hold: float) -> None:
        self.policy, self.hold = policy, hold
        on_failure: Any = self.take if policy == "hook" else policy
        self.stage = stages.order(
            on_failure=on_failure,
            hold=hold,
            clock=LoopClock(),
            block_timeout=1e6,
            max_waiting_per_key=10_000,
            max_keys=3,
        )
        self.handler = wrap(self.work, self.stage)

    async def take(self, event: Event, error: Exception) -> None:
        self.handed_over.add(event.id)

    async def work(self, event: Event) -> None:
        key = event.id[0]
        assert not any(other[0] == key for other in self.running), "two events of one key at once"
        assert self.line[key][0] == event.id, "out of order"
        self.held.pop(event.id, None)
        self.running[event.id] = self.loop.create_future()
        try:
            await self.running[event.id]
        finally:
            del self.running[event.id]

    def turn(self) -> None:
        async def wait() -> None:
            for _ in range(20):
                await asyncio.sleep(0)

        self.runner.run(wait())

    def send_one(self, identity: str) -> None:
        key, line = identity[0], self.line[identity[0]]
        first = self.away(key)
        if identity not in line:
            line.append(identity)
        task = self.loop.create_task(settle(self.handler, new(id=identity, partitionkey=key)))
        self.tasks[identity] = task
        self.expected[task] = first in {None, identity} or self.loop.time() < self.until[key]

    def away(self, key: str) -> str | None:
        """Return what the others of the key must wait for, because it has failed."""
        first = next(iter(self.line[key]), None)
        return first if first is not None and self.tasks[first].done() else None

    def wait_for_first(self, key: str) -> None:
        """Note how long the others wait for the first one, if it is away now."""
        if not self.line[key]:
            self.failed.pop(key, None)
        elif (first := self.away(key)) is not None:
            identity, since = self.failed.get(key, (None, 0.0))
            self.until[key] = (since if identity == first else self.loop.time()) + self.hold

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=5))
    def send(self, keys: list[str]) -> None:
        for key in keys:
            self.send_one(f"{key}{len(self.tasks):04}")
        self.turn()
        self.check_sent()

    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        failed = [one for one, task in self.tasks.items() if task.done() and not acked(task)]
        for identity in data.draw(st.lists(st.sampled_from(failed), max_size=4, unique=True)) if failed else ():
            self.send_one(identity)
            self.turn()
            self.check_sent()

    def check_sent(self) -> None:
        assert {task: not task.done() for task in self.expected} == self.expected
        self.expected.clear()
        self.forget_refused()

    @rule(seconds=st.sampled_from([1, 2, 5]))
    def wait(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))
        self.turn()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(["done", "retry", "reject", "cancel"]))
    def end(self, data: st.DataObject, how: str) -> None:
        identity = data.draw(st.sampled_from(sorted(self.running)))
        blocks = self.policy == "block" and how in {"retry", "cancel"}
        if not blocks:
            self.line[identity[0]].remove(identity)
        match how:
            case "done":
                self.running[identity].set_result(None)
            case "retry":
                self.running[identity].set_exception(Retry())
            case "reject":
                self.running[identity].set_exception(Reject())
            case _:
                self.tasks[identity].cancel()
        self.turn()
        task = self.tasks[identity]
        acknowledged = how == "done" or (self.policy == "hook" and how != "cancel")
        assert acked(task) == acknowledged
        assert (identity in self.handed_over) == (self.policy == "hook" and how in {"retry", "reject"})
        self.forget_refused()
        if blocks and self.failed.get(identity[0], (None,))[0] != identity:
            self.failed[identity[0]] = identity, self.loop.time()
        self.wait_for_first(identity[0])

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Somebody who waits for his turn gives up, and so gives up his place."""
        waiting = [one for one, task in self.tasks.items() if not task.done() and one not in self.running]
        for identity in data.draw(st.lists(st.sampled_from(waiting), max_size=2, unique=True)) if waiting else ():
            self.tasks[identity].cancel()
            self.line[identity[0]].remove(identity)
            self.held.pop(identity, None)
        self.turn()

    def forget_refused(self) -> None:
        """Unless keys are blocked, what has ended has no place in the line."""
        for line in self.line.values():
            line[:] = [one for one in line if self.policy == "block" or not self.tasks[one].done()]

    @invariant()
    def somebody_runs_wherever_somebody_waits_unless_all_wait_for_one_that_is_away(self) -> None:
        for key, line in self.line.items():
            waiting = [one for one in line if not self.tasks[one].done()]
            runs = any(one[0] == key for one in self.running)
            if self.away(key) is None:
                assert runs == bool(waiting)
            else:
                assert not runs
                assert not waiting or self.loop.time() < self.until[key]

    @invariant()
    def nobody_is_sent_back_before_it_is_time(self) -> None:
        for identity, task in self.held.items():
            assert not task.done() or self.loop.time() >= self.until[identity[0]]
        self.held = {one: task for one, task in self.tasks.items() if not task.done() and one not in self.running}

    @invariant()
    def the_blocked_keys_are_those_whose_first_event_is_missing(self) -> None:
        if hasattr(self, "stage"):
            blocked = {key: one for key in KEYS if (one := self.away(key)) is not None}
            assert {key: one for key, (_, one) in self.stage.blocked.items()} == blocked
            assert set(self.stage._lines) == {key for key, line in self.line.items() if line}

    def teardown(self) -> None:
        if hasattr(self, "stage"):
            self.finish()
        self.runner.close()
        logging.getLogger("cloudevents_kit").setLevel(logging.NOTSET)

    def finish(self) -> None:
        """Whatever happened, everything can be done in the end."""
        for line in self.line.values():
            while line:
                identity = line[0]
                if self.tasks[identity].done():
                    self.send_one(identity)
                    self.turn()
                    assert self.expected.popitem()[1]
                self.running[identity].set_result(None)
                line.remove(identity)
                self.turn()
                assert acked(self.tasks[identity])
        assert self.stage._lines == {}
        assert not self.stage._blocked


TestOrder = OrderMachine.TestCase
TestOrder.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
