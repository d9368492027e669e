"""The stage that limits how much goes on at once."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudevents_kit import Event, Handler, Nack, Retry, settle, stages, wrap
from tests.support.events import new
from tests.support.virtual import LoopClock, run_virtual, virtual


class Room:
    """A handler that knows how many are in it, and who came in."""

    def __init__(self, takes: float = 1.0) -> None:
        self.takes = takes
        self.inside = self.most = 0
        self.came: list[str] = []

    async def __call__(self, event: Event) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.came.append(event.id)
        try:
            await asyncio.sleep(self.takes)
        finally:
            self.inside -= 1


def start(handler: Handler, event: Event) -> asyncio.Task[Any]:
    async def run() -> Any:
        return await handler(event)

    return asyncio.create_task(run())


@virtual
async def test_at_most_the_limit_is_inside_and_the_others_wait_in_order(clock: LoopClock) -> None:
    room = Room()
    guard = stages.bulkhead(5, max_waiting=45)
    handler = wrap(room, guard)
    await asyncio.gather(*[handler(new(id=str(number))) for number in range(50)])
    assert room.most == 5
    assert room.came == [str(number) for number in range(50)]
    assert clock.monotonic() == pytest.approx(10)
    assert guard.status == {"inside": 0, "waiting": 0}


@virtual
async def test_more_than_may_wait_are_refused_and_the_handler_never_sees_them() -> None:
    """K-S6: 4 at once, of which 2 may be inside and 1 may wait."""
    room = Room()
    guard = stages.bulkhead(2, max_waiting=1, retry_after=7)
    handler = wrap(room, guard)
    results = await asyncio.gather(*[settle(handler, new(id=str(number))) for number in range(4)])
    assert [result.is_ack for result in results] == [True, True, True, False]
    assert results[3] == Nack(status=503, reason="too many events at once (bulkhead)", retryable=True, retry_after=7)
    assert room.came == ["0", "1", "2"]
    assert guard.counts == {"refused": 1}


@virtual
async def test_by_default_nobody_waits() -> None:
    room = Room()
    handler = wrap(room, stages.bulkhead(1))
    first = start(handler, new())
    await asyncio.sleep(0)
    with pytest.raises(Retry):
        await handler(new())
    await first
    assert await handler(new()) is None


@virtual
async def test_a_failure_makes_room() -> None:
    async def fail(event: Event) -> None:
        await asyncio.sleep(1)
        raise OSError

    handler = wrap(fail, stages.bulkhead(1, max_waiting=9))
    ends = await asyncio.gather(*[handler(new()) for _ in range(10)], return_exceptions=True)
    assert [type(end) for end in ends] == [OSError] * 10


@virtual
async def test_those_who_are_cancelled_while_they_wait_or_work_leave_no_gap() -> None:
    room = Room()
    guard = stages.bulkhead(2, max_waiting=50)
    tasks = [start(wrap(room, guard), new(id=str(number))) for number in range(50)]
    await asyncio.sleep(0.5)
    for task in tasks[:30]:  # the two inside, and the first who wait
        task.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert guard.status == {"inside": 2, "waiting": 18}
    await asyncio.gather(*tasks, return_exceptions=True)
    assert room.came == ["0", "1", *[str(number) for number in range(30, 50)]]
    assert room.most == 2
    assert guard.status == {"inside": 0, "waiting": 0}


@virtual
async def test_one_who_leaves_while_it_waits_makes_room_for_another() -> None:
    room = Room()
    guard = stages.bulkhead(1, max_waiting=1)
    first, second = (start(wrap(room, guard), new(id=str(number))) for number in range(2))
    await asyncio.sleep(0.1)
    second.cancel()
    await asyncio.sleep(0.1)
    assert guard.status == {"inside": 1, "waiting": 0}
    third = start(wrap(room, guard), new(id="2"))
    await asyncio.gather(first, second, third, return_exceptions=True)
    assert room.came == ["0", "2"]


@virtual
async def test_a_place_given_to_one_who_is_cancelled_in_the_same_moment_goes_to_the_next() -> None:
    room = Room()
    guard = stages.bulkhead(1, max_waiting=5)
    first, second, third = (start(wrap(room, guard), new(id=str(number))) for number in range(3))
    await asyncio.sleep(0.5)

    def cancel_when_it_has_its_place() -> None:
        if guard.status["waiting"] == 2:
            loop.call_soon(cancel_when_it_has_its_place)
        else:
            second.cancel()

    loop = asyncio.get_running_loop()
    loop.call_later(0.5, cancel_when_it_has_its_place)
    await asyncio.gather(first, second, third, return_exceptions=True)
    assert second.cancelled()
    assert room.came == ["0", "2"]
    assert guard.status == {"inside": 0, "waiting": 0}


@virtual
async def test_one_who_was_cancelled_but_has_not_run_since_is_passed_over() -> None:
    room = Room()
    guard = stages.bulkhead(1, max_waiting=5)
    first, second, third = (start(wrap(room, guard), new(id=str(number))) for number in range(3))
    await asyncio.sleep(0.5)
    first.cancel()  # runs before the second one, and finds it in the queue
    second.cancel()
    await asyncio.gather(first, second, third, return_exceptions=True)
    assert room.came == ["0", "2"]
    assert guard.status == {"inside": 0, "waiting": 0}


@virtual
async def test_a_higher_limit_lets_in_at_once_who_waits(clock: LoopClock) -> None:
    """K-P6: from 1 to 4 while one is inside, and all finish."""
    room = Room()
    guard = stages.bulkhead(1, max_waiting=10)
    tasks = [start(wrap(room, guard), new(id=str(number))) for number in range(9)]
    await asyncio.sleep(0.5)
    guard.resize(4)
    await asyncio.gather(*tasks)
    assert (room.most, clock.monotonic()) == (4, pytest.approx(3))
    assert guard.parameters == {"limit": 4, "max_waiting": 10, "retry_after": 1.0}


@virtual
async def test_a_lower_limit_holds_once_those_inside_have_left() -> None:
    room = Room()
    guard = stages.bulkhead(4, max_waiting=10)
    tasks = [start(wrap(room, guard), new(id=str(number))) for number in range(8)]
    await asyncio.sleep(0.5)
    guard.resize(1)
    await asyncio.sleep(1)
    assert guard.status == {"inside": 1, "waiting": 3}
    await asyncio.gather(*tasks)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.integers(1, 4)),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("pass"), st.integers(0, 3)),
        st.tuples(st.just("turn"), st.integers(1, 3)),
        st.tuples(st.just("resize"), st.integers(1, 4)),
    ),
    max_size=30,
)


@given(STEPS, st.integers(1, 3))
def test_whatever_happens_nobody_is_lost_and_no_place(steps: list[tuple[str, int]], limit: int) -> None:
    """Any interleaving of arrivals, cancellations, time and changes of the limit."""

    async def play() -> None:
        room = Room(2)
        guard = stages.bulkhead(limit, max_waiting=6)
        handler = wrap(room, guard)
        tasks: list[asyncio.Task[Any]] = []
        most = limit
        for what, number in steps:
            match what:
                case "come":
                    tasks += [start(handler, new(id=str(len(tasks) + one))) for one in range(number)]
                case "cancel" if number < len(tasks):
                    tasks[number].cancel()
                case "pass":
                    await asyncio.sleep(number)
                case "turn":
                    for _ in range(number):
                        await asyncio.sleep(0)
                case "resize":
                    most = max(most, number)
                    guard.resize(number)
            assert room.most <= most
        await asyncio.gather(*tasks, return_exceptions=True)
        refused = sum(not task.cancelled() and isinstance(task.exception(), Retry) for task in tasks)
        done = sum(not task.cancelled() and task.exception() is None for task in tasks)
        cancelled = sum(task.cancelled() for task in tasks)
        assert refused + done + cancelled == len(tasks)
        assert refused == guard.counts["refused"]
        assert done <= len(room.came) <= done + cancelled
        assert most > 1 or room.came == sorted(room.came, key=int)  # two that have a place may start in any order
        assert guard._inside == len(guard._waiting) == room.inside == 0

    run_virtual(play)


@pytest.mark.parametrize(
    "arguments", [{"limit": 0}, {"limit": 1, "max_waiting": -1}, {"limit": 1, "retry_after": 0}], ids=str
)
def test_limits_that_make_no_sense_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=[*arguments][-1]):
        stages.bulkhead(**arguments)
    with pytest.raises(ValueError, match="limit"):
        stages.bulkhead(1).resize(0)
