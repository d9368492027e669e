"""Whatever comes in whatever order: the stage counts what a naive model counts."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cloudevents_kit import Event, wrap
from cloudevents_kit.stages import Totals, aggregate, distinct, fold, sum_of
from tests.support.clock import START
from tests.support.events import new
from tests.support.virtual import LoopClock, VirtualLoop

SIZE, LATENESS, IDLE, AHEAD = 10, 5, 30, 40
NEVER = -(10**9)


class Model:
    """Windows by their start in seconds, kept for ever, with everything that was counted in them."""

    def __init__(self) -> None:
        self.windows: dict[int, dict[str, list[Event]]] = {}
        self.over = NEVER
        self.newest = NEVER
        self.arrived = 0.0
        self.left_out = {"late": 0, "ahead": 0, "repeated": 0}

    @staticmethod
    def over_at(second: float) -> int:
        return int((second - LATENESS) // SIZE * SIZE)

    def arrive(self, second: int, now: float) -> int | None:
        start = second // SIZE * SIZE
        if second > now + AHEAD:
            self.left_out["ahead"] += 1
            return None
        if start < self.over:
            self.left_out["late"] += 1
            return None
        self.over = max(self.over, self.over_at(min(second, now)))
        self.newest = max(self.newest, start)
        self.arrived = now
        return start

    def look(self, now: float) -> None:
        if now - self.arrived >= IDLE and self.newest > NEVER:
            self.over = max(self.over, min(self.over_at(now), self.newest + SIZE))

    def count(self, start: int, key: str, event: Event) -> None:
        window = self.windows.setdefault(start, {})
        if any(event.key == other.key for events in window.values() for other in events):
            self.left_out["repeated"] += 1
        else:
            window.setdefault(key, []).append(event)

    def flush(self) -> None:
        # What is over already stays so; the newest window that holds anything is the last to end.
        still = [start for start in self.windows if start >= self.over]
        self.over = max(self.over, *[start + SIZE for start in still]) if still else self.over


def expected(events: list[Event]) -> tuple[int, dict[str, Any]]:
    numbers = [event.data for event in events]
    return len(events), {"sum": sum(numbers), "distinct": len({*numbers}), "ids": sorted(event.id for event in events)}


def shown(totals: Totals) -> tuple[int, dict[str, Any]]:
    return totals["count"], totals["values"]


class Aggregation(RuleBasedStateMachine):
    """Events come, succeed, fail, are cancelled and come again, while time passes and stops happen."""

    @initialize(handed_out=st.booleans())
    def open(self, handed_out: bool) -> None:
        self.model = Model()
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.ends: dict[int, asyncio.Future[None]] = {}
        self.tasks: dict[int, tuple[asyncio.Task[Any], int | None, Event]] = {}
        self.numbers = iter(range(10**6))
        self.known: list[Event] = []
        self.refusing = False
        self.given: dict[tuple[str, str], tuple[int, dict[str, Any]]] = {}
        self.handed_out = handed_out
        self.stage = aggregate(
            {
                "sum": sum_of("data"),
                "distinct": distinct("data"),
                "ids": fold([], lambda ids, event: [*ids, event.id], result=sorted),
            },
            by="subject",
            size=SIZE,
            lateness=LATENESS,
            idle=IDLE,
            ahead=AHEAD,
            on_close=self.take if handed_out else None,
            at_stop="flush",
            clock=LoopClock(),
        )
        self.handler = wrap(self.handle, self.stage)
        self.run(self.stage.__aenter__)
        self.run(lambda: asyncio.sleep(0.5))  # so that no window begins or ends in this very moment

    async def handle(self, event: Event) -> None:
        end = asyncio.get_running_loop().create_future()
        self.ends[event.get_int("number")] = end
        await end

    async def take(self, totals: Totals) -> None:
        await asyncio.sleep(0)
        if self.refusing:
            raise ConnectionError
        place = (totals["start"], totals["key"])
        assert place not in self.given, "handed out twice"
        assert totals["closed"]
        self.given[place] = shown(totals)

    def run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        async def settled() -> Any:
            found = await work()
            for _ in range(20):
                await asyncio.sleep(0)
            return found

        return self.runner.run(settled())

    def now(self) -> float:
        return self.runner.get_loop().time()

    def come(self, event: Event) -> None:
        number = next(self.numbers)
        # The number of the delivery is for this test alone.
        delivered = event.evolve(number=number)
        second = round((event.time - START).total_seconds())  # type: ignore[operator]
        start = self.model.arrive(second, self.now())

        async def begin() -> asyncio.Task[Any]:
            return asyncio.ensure_future(self.handler(delivered))

        self.tasks[number] = (self.run(begin), start, event)

    @rule(key=st.sampled_from("ab"), ago=st.integers(-60, 40), value=st.integers(0, 3), id=st.integers(0, 30))
    def an_event_comes(self, key: str, ago: int, value: int, id: int) -> None:
        when = START + timedelta(seconds=int(self.now()) - ago)
        event = new(id=f"{id}", subject=key, time=when, data=value)
        # Two events have one id only if they are the same.
        event = next((one for one in self.known if one.id == event.id), event)
        self.known.append(event)
        self.come(event)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def an_event_comes_again(self, data: st.DataObject) -> None:
        self.come(data.draw(st.sampled_from(self.known)))

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), how=st.sampled_from(["succeed", "succeed", "succeed", "fail", "cancel"]))
    def one_ends(self, data: st.DataObject, how: str) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.tasks))), how)

    def end(self, number: int, how: str) -> None:
        task, start, event = self.tasks.pop(number)

        async def settle() -> None:
            if how == "cancel":
                task.cancel()
            elif how == "fail":
                self.ends.pop(number).set_exception(ValueError())
            else:
                self.ends.pop(number).set_result(None)
            found: object = (await asyncio.gather(task, return_exceptions=True))[0]
            wanted = {"cancel": asyncio.CancelledError, "fail": ValueError, "succeed": type(None)}[how]
            assert type(found) is wanted

        self.run(settle)
        if how == "succeed" and start is not None:
            self.model.count(start, str(event.subject), event)

    @rule(seconds=st.integers(1, 50))
    def time_passes(self, seconds: int) -> None:
        began = self.now()
        self.run(lambda: asyncio.sleep(seconds))
        if self.handed_out:  # somebody looks at the clock meanwhile
            for second in range(seconds):
                self.model.look(began + second)

    @rule()
    def on_close_begins_or_ceases_to_fail(self) -> None:
        self.refusing = not self.refusing

    @precondition(lambda self: not self.tasks)
    @rule()
    def it_is_closed_and_opened_again(self) -> None:
        self.run(lambda: self.stage.__aexit__(None, None, None))
        self.model.flush()
        self.run(self.stage.__aenter__)

    @invariant()
    def every_count_is_exact(self) -> None:
        self.model.look(self.now())
        for start, window in self.model.windows.items():
            when = START + timedelta(seconds=start)
            for key, events in window.items():
                found = self.query(key, when)
                assert found is not None
                assert shown(found) == expected(events)
        self.run(self.stage.windows)
        assert {name: self.stage.counts[name] for name in self.model.left_out} == self.model.left_out
        assert self.stage.status["in_work"] == sum(start is not None for _, start, _ in self.tasks.values())

    def query(self, key: str, when: datetime) -> Totals | None:
        found: Totals | None = self.run(lambda: self.stage.query(key, when))
        return found

    @invariant()
    def what_was_handed_out_is_final(self) -> None:
        for (start, key), totals in self.given.items():
            assert totals == expected(self.counted(start)[key])

    def counted(self, text: str) -> dict[str, list[Event]]:
        return next(
            window
            for start, window in self.model.windows.items()
            if (START + timedelta(seconds=start)).isoformat().replace("+00:00", "Z") == text
        )

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        for number in sorted(self.tasks):
            self.end(number, "cancel")
        self.refusing = False
        self.run(lambda: asyncio.sleep(130))  # as long as it may pause after failures
        self.run(lambda: self.stage.__aexit__(None, None, None))
        self.every_count_is_exact_in_the_end()
        self.runner.close()

    def every_count_is_exact_in_the_end(self) -> None:
        windows = self.model.windows
        assert len(self.given) == (sum(len(window) for window in windows.values()) if self.handed_out else 0)
        self.what_was_handed_out_is_final()
        assert all(window["closed"] for window in self.run(self.stage.windows))
        assert self.stage.status["waiting"] == self.stage.status["remembered"] == 0


class TestAggregation(Aggregation.TestCase):  # type: ignore[valid-type,misc]
    """K-D6, trap 21: every count is exact, nothing counts twice, nothing is lost, and on_close learns once."""

    settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
