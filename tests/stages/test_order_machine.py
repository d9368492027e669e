"""`order` under any interleaving: one by one, in order, nobody waits for ever, nothing is left behind."""

import asyncio
import logging
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cloudevents_kit import Event, Reject, Result, Retry, settle, stages, wrap
from tests.support.events import new
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

    @initialize(policy=st.sampled_from(["skip", "block", "hook"]))
    def build(self, policy: str) -> None:
        self.policy = policy
        on_failure: Any = self.take if policy == "hook" else policy
        self.stage = stages.order(
            on_failure=on_failure, clock=LoopClock(), block_timeout=1e6, max_waiting_per_key=10_000, max_keys=3
        )
        self.handler = wrap(self.work, self.stage)

    async def take(self, event: Event, error: Exception) -> None:
        self.handed_over.add(event.id)

    async def work(self, event: Event) -> None:
        key = event.id[0]
        assert not any(other[0] == key for other in self.running), "two events of one key at once"
        assert self.line[key][0] == event.id, "out of order"
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
        if identity not in self.line[identity[0]]:
            self.line[identity[0]].append(identity)
        event = new(id=identity, partitionkey=identity[0])
        self.tasks[identity] = self.loop.create_task(settle(self.handler, event))

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=5))
    def send(self, keys: list[str]) -> None:
        for key in keys:
            self.send_one(f"{key}{len(self.tasks):04}")
        self.turn()
        self.forget_refused()

    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        failed = [one for one, task in self.tasks.items() if task.done() and not _acked(task)]
        for identity in data.draw(st.lists(st.sampled_from(failed), max_size=4, unique=True)) if failed else ():
            self.send_one(identity)
            self.turn()
        self.forget_refused()

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
        assert _acked(task) == acknowledged
        assert (identity in self.handed_over) == (self.policy == "hook" and how in {"retry", "reject"})
        self.forget_refused()

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Somebody who waits for his turn gives up, and so gives up his place."""
        waiting = [one for one, task in self.tasks.items() if not task.done() and one not in self.running]
        for identity in data.draw(st.lists(st.sampled_from(waiting), max_size=2, unique=True)) if waiting else ():
            self.tasks[identity].cancel()
            self.line[identity[0]].remove(identity)
        self.turn()

    def forget_refused(self) -> None:
        """Unless keys are blocked, what has ended has no place in the line."""
        for line in self.line.values():
            line[:] = [one for one in line if self.policy == "block" or not self.tasks[one].done()]

    @invariant()
    def somebody_runs_wherever_somebody_waits(self) -> None:
        for key, line in self.line.items():
            waiting = [one for one in line if not self.tasks[one].done()]
            assert bool(waiting) == any(one[0] == key for one in self.running)

    @invariant()
    def the_blocked_keys_are_those_whose_first_event_is_missing(self) -> None:
        if hasattr(self, "stage"):
            first = {key: line[0] for key, line in self.line.items() if line}
            blocked = {key: one for key, one in first.items() if self.tasks[one].done()}
            assert {key: one for key, (_, one) in self.stage.blocked.items()} == blocked
            assert set(self.stage._lines) == set(first)

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
                self.running[identity].set_result(None)
                line.remove(identity)
                self.turn()
                assert _acked(self.tasks[identity])
        assert self.stage._lines == {}
        assert not self.stage._blocked


def _acked(task: asyncio.Task[Result]) -> bool:
    return task.done() and not task.cancelled() and bool(task.result())


TestOrder = OrderMachine.TestCase
TestOrder.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
