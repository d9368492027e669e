"""`order`: one by one per key, in parallel across keys, and what happens behind an event that fails."""

import asyncio
from typing import Any

import pytest

from cloudevents_kit import (
    Event,
    Nack,
    Receiver,
    Reject,
    Result,
    Retry,
    Sender,
    current_event,
    settle,
    stages,
    wrap,
)
from tests.support import sending
from tests.support.events import new, read
from tests.support.sending import statuses, turns
from tests.support.virtual import LoopClock, virtual


class Work:
    """Notes when events begin and end; `fails` says with what, `seconds` how long they take."""

    def __init__(self, seconds: dict[str, float] | None = None, **fails: Exception) -> None:
        self.seconds = seconds or {}
        self.fails = fails
        self.diary: list[str] = []

    async def __call__(self, event: Event) -> None:
        assert current_event() is event
        self.diary.append(f"{event.id} in")
        await asyncio.sleep(self.seconds.get(event.id, 1))
        if event.id in self.fails:
            self.diary.append(f"{event.id} failed")
            raise self.fails[event.id]
        self.diary.append(f"{event.id} out")


def start(handler: Any, *ids: str, key: str | None = None) -> list[asyncio.Task[Result]]:
    """Send events; the key is the first letter of the id unless given."""
    return [task for id in ids for task in sending.start(handler, id, partitionkey=key or id[0])]


@virtual
async def test_events_of_a_key_are_handled_in_order_of_arrival_and_other_keys_in_parallel(clock: LoopClock) -> None:
    """K-D7."""
    work = Work({"A1": 0.030, "A2": 0.010, "A3": 0.020, "B1": 0.001})
    stage = stages.order()
    handler = wrap(work, stage)
    events = [new(id=identity, subject=identity[0]) for identity in ("A1", "A2", "A3", "B1")]
    tasks = [asyncio.ensure_future(settle(handler, event)) for event in events]
    await tasks[3]
    assert clock.monotonic() == pytest.approx(0.001)
    assert statuses(await asyncio.gather(*tasks)) == [204] * 4
    assert clock.monotonic() == pytest.approx(0.060)
    assert [line for line in work.diary if line[0] == "A"] == [
        "A1 in", "A1 out", "A2 in", "A2 out", "A3 in", "A3 out",
    ]  # fmt: skip
    assert stage.status == {"keys": 0, "blocked_keys": 0}


@pytest.mark.parametrize(
    ("event", "key"),
    [
        (new(partitionkey="p", subject="s"), "p"),
        (new(subject="s"), ("/s", "s")),
        (new(), None),
        (read(partitionkey=5), 5),
    ],
)
def test_the_key_is_partitionkey_or_else_source_and_subject(event: Event, key: object) -> None:
    assert stages.order_key(event) == key


@virtual
async def test_events_without_a_key_are_not_ordered(clock: LoopClock) -> None:
    handler = wrap(Work(), stages.order())
    assert statuses(await asyncio.gather(*(settle(handler, new(id=str(n))) for n in range(5)))) == [204] * 5
    assert clock.monotonic() == 1


async def test_a_key_function_that_fails_is_a_failure_of_the_stage() -> None:
    with pytest.raises(stages.StageError) as caught:
        await wrap(Work(), stages.order(key=lambda event: event["missing"]))(new())
    assert isinstance(caught.value.__cause__, KeyError)


async def test_a_peer_that_sends_no_single_value_as_key_is_refused_for_good() -> None:
    handler = wrap(Work(), stages.order(key=stages.field("data.key")))
    results = [await settle(handler, event) for event in (new(data={"key": []}), new(data={"key": {}}))]
    assert statuses(results) == [422, 422]


def test_a_key_function_is_not_async() -> None:
    async def later(event: Event) -> str:
        return "key"

    with pytest.raises(TypeError, match="key: must be a plain function, not an async one"):
        stages.order(key=later)  # type: ignore[arg-type]


async def test_a_key_function_may_refuse() -> None:
    def key(event: Event) -> str:
        raise Reject("no tenant")

    assert statuses([await settle(wrap(Work(), stages.order(key=key)), new())]) == [422]


# ------------------------------------------------------------------------------------------------------- failures


@virtual
async def test_skip_lets_the_next_one_go_on_and_the_sender_learns_of_the_failure() -> None:
    """K-D7: skip."""
    work = Work(A1=ValueError("x"))
    handler = wrap(work, stages.order(on_failure="skip"))
    assert statuses(await asyncio.gather(*start(handler, "A1", "A2"))) == [500, 204]
    assert work.diary == ["A1 in", "A1 failed", "A2 in", "A2 out"]


@virtual
async def test_block_refuses_what_is_behind_until_the_failed_one_came_again(clock: LoopClock) -> None:
    """K-D7: block; what was sent back goes on in its order, whatever the order in which it comes again."""
    work = Work(A1=Retry(), B1=Reject())
    stage = stages.order(on_failure="block", hold=0, retry_after=7, clock=clock)
    handler = wrap(work, stage)
    first = await asyncio.gather(*start(handler, "A1", "A2", "A3", "B1", "B2"))
    assert statuses(first) == [503, 409, 409, 422, 204]  # what was rejected for good blocks nothing
    assert isinstance(first[1], Nack)
    assert (first[1].retryable, first[1].retry_after) == (True, 7)
    assert stage.blocked == {"A": ("/s", "A1")}
    assert stage.status["blocked_keys"] == 1

    assert statuses(await asyncio.gather(*start(handler, "A4", "A3", "A2"))) == [409] * 3
    work.fails.clear()
    again = start(handler, "A3", "A1", "A2", "A4", "A3")  # the first A3 is too early
    assert statuses(await asyncio.gather(*again)) == [409, 204, 204, 204, 204]
    work.fails["A5"] = Retry()
    assert statuses(await asyncio.gather(*start(handler, "A5"))) == [503]
    assert stage.blocked == {"A": ("/s", "A5")}
    work.fails.clear()
    assert statuses(await asyncio.gather(*start(handler, "A5"))) == [204]
    done = [line for line in work.diary if line.startswith("A") and line.endswith("out")]
    assert done == ["A1 out", "A2 out", "A3 out", "A4 out", "A5 out"]
    assert stage.status["keys"] == 0


@virtual
async def test_block_ends_when_the_failed_one_is_refused_for_good(clock: LoopClock) -> None:
    work = Work(A1=Retry())
    handler = wrap(work, stages.order(on_failure="block", clock=clock))
    assert statuses(await asyncio.gather(*start(handler, "A1", "A2"))) == [503, 409]
    work.fails["A1"] = Reject()
    assert statuses(await asyncio.gather(*start(handler, "A1", "A2"))) == [422, 204]


@virtual
async def test_block_does_not_wait_for_ever_for_what_does_not_come(clock: LoopClock) -> None:
    """K-D7: the block is bounded."""
    stage = stages.order(on_failure="block", block_timeout=60, clock=clock)
    work = Work(A1=Retry())
    handler = wrap(work, stage)
    await asyncio.gather(*start(handler, "A1", "A2", "A3"))
    await asyncio.sleep(30)
    assert statuses(await asyncio.gather(*start(handler, "A3"))) == [409]
    await asyncio.sleep(31)
    assert statuses(await asyncio.gather(*start(handler, "A3"))) == [204]  # A1 and A2 have not come for 60 s
    assert stage.counts["given_up"] == 2
    assert stage.status["keys"] == 0


@virtual
async def test_block_does_not_wait_for_ever_for_what_comes_and_fails(clock: LoopClock) -> None:
    stage = stages.order(on_failure="block", block_timeout=60, clock=clock)
    work = Work(A1=Retry())
    handler = wrap(work, stage)
    found = []
    for _ in range(8):
        found.append(statuses(await asyncio.gather(*start(handler, "A2", "A1"))))
        await asyncio.sleep(9)
    # First A2 came first. Then A1 blocks it, until A1 has failed for 60 s.
    assert found[0] == [204, 503]
    assert found[1:6] == [[409, 503]] * 5
    assert [204, 503] in found[6:]
    assert stage.counts["given_up"] >= 1


@virtual
async def test_a_blocked_key_nobody_asks_for_any_more_is_forgotten(clock: LoopClock) -> None:
    stage = stages.order(on_failure="block", block_timeout=60, max_keys=3, clock=clock)
    work = Work(A1=Retry(), B1=Retry())
    handler = wrap(work, stage)
    await asyncio.gather(*start(handler, "A1"))
    await asyncio.sleep(30)
    await asyncio.gather(*start(handler, "B1"))
    running = start(handler, "C1")
    await turns()
    assert statuses(await asyncio.gather(*start(handler, "D1"))) == [503]
    await asyncio.gather(*running)
    running = start(handler, "E1")
    await turns()
    await asyncio.sleep(0.5)
    assert (await asyncio.gather(*running))[0]
    await asyncio.sleep(28)
    running = start(handler, "F1")
    await turns()
    assert statuses(await asyncio.gather(*start(handler, "G1"))) == [204]  # in the place of A
    assert stage.blocked == {"B": ("/s", "B1")}
    await asyncio.gather(*running)


@virtual
async def test_a_key_can_be_released_by_hand(clock: LoopClock) -> None:
    stage = stages.order(on_failure="block", clock=clock)
    handler = wrap(Work(A1=Retry()), stage)
    await asyncio.gather(*start(handler, "A1", "A2"))
    assert stage.release("A")
    assert not stage.release("A")
    assert statuses(await asyncio.gather(*start(handler, "A2"))) == [204]


@virtual
async def test_a_time_limit_that_cuts_off_the_running_event_blocks_too(clock: LoopClock) -> None:
    stage = stages.order(on_failure="block", clock=clock)
    handler = wrap(Work(), stage)
    tasks = start(handler, "A1", "A2", "A3")
    await asyncio.sleep(0.5)
    tasks[0].cancel()
    tasks[1].cancel()
    results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in results] == [asyncio.CancelledError, asyncio.CancelledError, Nack]
    assert statuses(await asyncio.gather(*start(handler, "A3", "A1", "A2", "A3"))) == [409, 204, 204, 204]
    assert stage.status["keys"] == 0


@virtual
async def test_a_key_that_is_forgotten_while_its_event_runs_goes_on(clock: LoopClock) -> None:
    work = Work({"A1": 100}, A1=Retry())
    stage = stages.order(on_failure="block", block_timeout=60, clock=clock)
    handler = wrap(work, stage)
    await asyncio.gather(*start(handler, "A1", "A2"))
    again = start(handler, "A1")
    await asyncio.sleep(70)
    behind = start(handler, "A3")
    assert statuses(await asyncio.gather(*again, *behind)) == [503, 409]
    work.fails.clear()
    assert statuses(await asyncio.gather(*start(handler, "A1", "A3"))) == [204] * 2


@virtual
async def test_a_function_takes_what_failed_and_the_key_goes_on() -> None:
    """K-D7: dead letters."""
    taken: list[tuple[str, type]] = []

    async def take(event: Event, error: Exception) -> None:
        await asyncio.sleep(1)
        taken.append((event.id, type(error)))

    work = Work(A1=ValueError("x"), A2=Reject())
    stage = stages.order(on_failure=take)
    handler = wrap(work, stage)
    assert statuses(await asyncio.gather(*start(handler, "A1", "A2", "A3"))) == [204] * 3
    assert taken == [("A1", ValueError), ("A2", Reject)]
    assert work.diary == ["A1 in", "A1 failed", "A2 in", "A2 failed", "A3 in", "A3 out"]
    assert stage.counts == {"dead_lettered": 2}
    assert stage.parameters["on_failure"] == "function"


async def test_a_plain_function_takes_what_failed_too() -> None:
    async def refuse(event: Event) -> None:
        raise Reject

    taken: list[str] = []
    handler = wrap(refuse, stages.order(on_failure=lambda event, error: taken.append(event.id)))
    assert await settle(handler, new(id="A1", partitionkey="A"))
    assert taken == ["A1"]


@virtual
async def test_what_the_function_does_not_take_is_to_be_sent_again_and_both_errors_are_told() -> None:
    def take(event: Event, error: Exception) -> None:
        raise OSError("full")

    work = Work(A1=Reject())
    handler = wrap(work, stages.order(on_failure=take))
    tasks = start(handler, "A1", "A2")
    assert statuses(await asyncio.gather(*tasks)) == [500, 204]

    async def refuse(event: Event) -> None:
        raise Reject

    with pytest.raises(stages.StageError) as caught:
        await wrap(refuse, stages.order(on_failure=take))(new(partitionkey="A"))
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert [type(one) for one in caught.value.__cause__.exceptions] == [Reject, OSError]


# ------------------------------------------------------------------------------------------ held while one is away


async def test_followers_are_held_until_the_failed_one_is_back_and_all_are_acknowledged() -> None:
    """K-D7: with a sender that has no settings, over HTTP."""
    failed: list[int] = []
    done: list[int] = []

    async def work(event: Event) -> None:
        await asyncio.sleep(0.002)
        if event.data == 2 and not failed:
            failed.append(2)
            raise ConnectionError("one hiccup")
        done.append(event.data)

    stage = stages.order(on_failure="block")
    async with Receiver(work, stage, port=0) as receiver, Sender(receiver.url) as sender:
        results = await asyncio.gather(
            *(sender.send(Event(type="t", source="/s", partitionkey="k", data=number)) for number in range(20))
        )
    assert statuses(results) == [204] * 20
    assert sum(len(one.attempts) for one in results) == 21
    assert done == list(range(20))
    assert stage.counts == {"blocked": 1}


@virtual
async def test_a_follower_is_held_for_so_long_and_those_that_come_later_are_refused_at_once(clock: LoopClock) -> None:
    work = Work({"A1": 0}, A1=Retry())
    stage = stages.order(on_failure="block", hold=5, clock=clock)
    handler = wrap(work, stage)
    first, *held = start(handler, "A1", "A2", "A3")
    assert statuses([await first]) == [503]
    await asyncio.sleep(3)
    held += start(handler, "A4")
    assert statuses(await asyncio.gather(*held)) == [409] * 3
    assert clock.monotonic() == 5
    assert statuses(await asyncio.gather(*start(handler, "A5", "A2"))) == [409] * 2
    assert clock.monotonic() == 5
    assert statuses(await asyncio.gather(*start(handler, "A1"))) == [503]  # it fails again, and nobody is held again
    assert statuses(await asyncio.gather(*start(handler, "A2"))) == [409]
    assert clock.monotonic() == 5
    assert stage.counts == {"blocked": 2, "refused": 6}

    work.fails.clear()
    assert statuses(await asyncio.gather(*start(handler, "A3", "A5", "A4", "A1", "A2"))) == [409] * 3 + [204] * 2
    assert statuses(await asyncio.gather(*start(handler, "A5", "A4", "A3"))) == [204] * 3  # held for one another
    assert [line for line in work.diary if line.endswith("out")] == [f"A{number} out" for number in range(1, 6)]
    assert stage.status["keys"] == 0


@virtual
async def test_what_fails_again_and_again_holds_the_others_for_the_same_time(clock: LoopClock) -> None:
    work = Work({"A1": 0.5}, A1=Retry())
    handler = wrap(work, stages.order(on_failure="block", hold=5, clock=clock))
    _, held = start(handler, "A1", "A2")
    while not held.done():
        await asyncio.sleep(0.6)
        await asyncio.gather(*start(handler, "A1"))
    assert statuses([await held]) == [409]
    assert clock.monotonic() == pytest.approx(5.5, abs=1.2)


@virtual
async def test_a_key_that_goes_on_without_an_event_lets_those_that_are_held_go_on(clock: LoopClock) -> None:
    """Because it was away for too long, or by hand."""
    stage = stages.order(on_failure="block", hold=100, block_timeout=60, clock=clock)
    handler = wrap(Work({}, A1=Retry(), B1=Retry(), C1=Retry()), stage)
    tasks = start(handler, "A1", "A2", "A3", "B1", "B2", "C1", "C2")
    await asyncio.sleep(2)
    assert stage.release("B")
    assert statuses([await tasks[4]]) == [204]
    await asyncio.sleep(30)
    assert statuses(await asyncio.gather(*start(handler, "A1"))) == [503]
    await asyncio.sleep(30)
    assert statuses(await asyncio.gather(*start(handler, "A4"))) == [204]  # it comes, and A1 is given up: A2 first
    assert statuses(await asyncio.gather(*tasks)) == [503, 204, 204, 503, 204, 503, 204]
    assert clock.monotonic() == 67
    assert stage.counts["given_up"] == 3
    assert stage.status["keys"] == 0


@virtual
async def test_a_key_that_all_who_were_held_have_left_is_free_for_who_comes(clock: LoopClock) -> None:
    """Also for one who comes in the same turn of the loop, when the failed event has been away for too long."""
    stage = stages.order(on_failure="block", hold=100, block_timeout=60, clock=clock)
    handler = wrap(Work({"A1": 0}, A1=Retry()), stage)
    tasks = start(handler, "A1", "A2")
    await asyncio.sleep(50)
    assert statuses(await asyncio.gather(*start(handler, "A1"))) == [503]
    await asyncio.sleep(20)
    tasks += start(handler, "A3", "A4")  # which begin before A2 ends
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert statuses([await task for task in tasks[2:]]) == [204, 204]
    assert clock.monotonic() == 72
    assert stage.status["keys"] == 0


@virtual
async def test_those_that_are_held_go_on_at_last_if_nobody_else_comes(clock: LoopClock) -> None:
    stage = stages.order(on_failure="block", hold=100, block_timeout=60, clock=clock)
    handler = wrap(Work({}, A1=Retry()), stage)
    assert statuses(await asyncio.gather(*start(handler, "A1", "A2"))) == [503, 204]
    assert clock.monotonic() == 102


@virtual
async def test_one_that_is_held_may_leave(clock: LoopClock) -> None:
    stage = stages.order(on_failure="block", hold=5, clock=clock)
    handler = wrap(Work({}, A1=Retry()), stage)
    tasks = start(handler, "A1", "A2")
    await tasks[0]
    tasks[1].cancel()
    await asyncio.sleep(6)
    assert list(stage._lines["A"].places) == [("/s", "A1")]


@virtual
async def test_one_that_leaves_when_it_was_held_in_vain_keeps_its_place(clock: LoopClock) -> None:
    stage = stages.order(on_failure="block", hold=5, clock=clock)
    handler = wrap(Work({"A1": 0}, A1=Retry()), stage)
    tasks = start(handler, "A1", "A2", "A3")
    loop = asyncio.get_running_loop()
    loop.call_later(4, lambda: loop.call_later(1, tasks[1].cancel))  # just after the hold has ended
    await asyncio.wait(tasks)
    assert tasks[1].cancelled()
    assert statuses([await tasks[2]]) == [409]
    assert list(stage._lines["A"].places) == [("/s", "A1"), ("/s", "A2"), ("/s", "A3")]


@virtual
async def test_a_copy_that_waits_already_takes_the_place_of_one_that_failed(clock: LoopClock) -> None:
    work = Work(A1=Retry())
    stage = stages.order(on_failure="block", hold=5, clock=clock)
    handler = wrap(work, stage)
    tasks = start(handler, "A1", "A2", "A1", "A1")  # a sender that has lost its patience sends it again
    assert statuses([await tasks[0]]) == [503]
    work.fails.clear()
    assert statuses(await asyncio.gather(*tasks)) == [503, 204, 204, 204]
    assert [line for line in work.diary if line.endswith("in")] == ["A1 in", "A1 in", "A2 in", "A1 in"]


@virtual
async def test_copies_that_are_held_in_vain_have_one_place(clock: LoopClock) -> None:
    stage = stages.order(on_failure="block", hold=5, clock=clock)
    handler = wrap(Work({}, A1=Retry()), stage)
    assert statuses(await asyncio.gather(*start(handler, "A1", "A2", "A2", "A2"))) == [503, 409, 409, 409]
    assert list(stage._lines["A"].places) == [("/s", "A1"), ("/s", "A2")]


@virtual
async def test_a_receiver_that_stops_holds_nobody(clock: LoopClock) -> None:
    stage = stages.order(on_failure="block", hold=5, clock=clock)
    work = Work({"A1": 0, "B1": 1, "C1": 1}, A1=Retry(), B1=Retry())
    handler = wrap(work, stage)
    async with stages.running(handler):
        tasks = start(handler, "A1", "A2", "B1", "B2", "C1", "C2")
        await asyncio.sleep(0.1)
        stage.drain()
        assert statuses([await tasks[1]]) == [409]
        assert clock.monotonic() == pytest.approx(0.1)
        assert statuses(await asyncio.gather(*start(handler, "A3"))) == [409]
        assert statuses(await asyncio.gather(*tasks)) == [503, 409, 503, 409, 204, 204]
        assert clock.monotonic() == pytest.approx(2)
    work.fails.clear()
    assert statuses(await asyncio.gather(*start(handler, "A1"))) == [204]
    held = start(handler, "A3")  # a stage that was closed can be opened again, or used as it is
    await asyncio.sleep(1)
    assert not held[0].done()
    assert statuses(await asyncio.gather(*start(handler, "A2"), *held)) == [204, 204]


async def test_a_batch_is_held_once_however_many_of_its_keys_are_blocked() -> None:
    """Its events are handled one by one, and all would have to wait for the first ones to be sent again."""
    failing = ["A1", "B1", "C1"]

    async def work(event: Event) -> None:
        if event.id in failing:
            failing.remove(event.id)
            raise Retry(after=0)

    stage = stages.order(on_failure="block", hold=0.2, retry_after=0)
    events = [new(id=identity, partitionkey=identity[0]) for identity in ("A1", "A2", "B1", "B2", "C1", "C2", "C2")]
    async with Receiver(work, stage, port=0) as receiver, Sender(receiver.url, max_batch=10) as sender:
        results = await sender.send_batch(events)
    assert statuses(results) == [204] * 7
    assert 0.2 <= results[0].attempts[0].elapsed < 0.55
    assert stage.status["keys"] == 0


# --------------------------------------------------------------------------------------------- limits and leaving


@virtual
async def test_more_than_may_wait_for_a_key_are_refused() -> None:
    stage = stages.order(max_waiting_per_key=2)
    handler = wrap(Work(), stage)
    assert statuses(await asyncio.gather(*start(handler, "A1", "A2", "A3", "A4", "B1"))) == [204, 204, 204, 409, 204]
    assert stage.counts["refused"] == 1


@pytest.mark.parametrize("hold", [0, 5])
@virtual
async def test_no_more_is_remembered_of_a_blocked_key_than_may_wait(hold: float, clock: LoopClock) -> None:
    stage = stages.order(on_failure="block", hold=hold, max_waiting_per_key=3, clock=clock)
    work = Work(A1=Retry())
    handler = wrap(work, stage)
    await asyncio.gather(*start(handler, "A1", "A2"))
    await asyncio.gather(*start(handler, "A3", "A4", "A5", "A1"))
    assert list(stage._lines["A"].places) == [("/s", "A1"), ("/s", "A2"), ("/s", "A3")]
    again = start(handler, "A1")
    await turns()
    await asyncio.gather(*again, *start(handler, "A2", "A4", "A5"))  # while one runs there is a place more
    assert list(stage._lines["A"].places) == [("/s", "A1"), ("/s", "A2"), ("/s", "A3"), ("/s", "A4")]


@virtual
async def test_waiters_that_leave_do_not_disturb_the_others() -> None:
    work = Work()
    stage = stages.order()
    handler = wrap(work, stage)
    tasks = start(handler, "A1", "A2", "A3", "A4")
    await asyncio.sleep(0.5)
    tasks[1].cancel()
    await asyncio.sleep(0.5)  # the turn of A3 has just come
    tasks[2].cancel()
    results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in results] == [False, True, True, False]
    assert [line for line in work.diary if line.endswith("out")] == ["A1 out", "A4 out"]
    assert stage.status["keys"] == 0


@virtual
async def test_a_turn_that_is_given_to_one_who_leaves_goes_to_the_next() -> None:
    work = Work()
    stage = stages.order()
    handler = wrap(work, stage)
    tasks: list[asyncio.Task[Result]] = []

    async def outer(event: Event) -> Any:
        try:
            return await handler(event)
        finally:
            tasks[1].cancel()  # A2 has got its turn, and does not know it yet

    tasks += start(outer, "A1") + start(handler, "A2", "A3")
    results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in results] == [False, True, False]
    assert work.diary == ["A1 in", "A1 out", "A3 in", "A3 out"]
    assert stage.status["keys"] == 0


@virtual
async def test_a_turn_is_not_given_to_one_who_leaves() -> None:
    seen: list[str] = []
    tasks: list[asyncio.Task[Result]] = []

    async def work(event: Event) -> None:
        seen.append(event.id)
        await asyncio.sleep(1)
        tasks[1].cancel()

    stage = stages.order()
    tasks += start(wrap(work, stage), "A1", "A2", "A3")
    await asyncio.gather(*tasks, return_exceptions=True)
    assert seen == ["A1", "A3"]
    assert stage.status["keys"] == 0


@virtual
async def test_fifty_tasks_of_five_keys_keep_their_order_whoever_leaves() -> None:
    """K-D7: with real cancellation."""
    work = Work({f"{key}{n}": 0.01 * (1 + n % 3) for key in "ABCDE" for n in range(10)})
    stage = stages.order()
    handler = wrap(work, stage)
    tasks = start(handler, *(f"{key}{n}" for n in range(10) for key in "ABCDE"))
    for number in range(0, 50, 7):
        asyncio.get_running_loop().call_later(number / 500, tasks[number].cancel)
    await asyncio.gather(*tasks, return_exceptions=True)
    for key in "ABCDE":
        lines = [line for line in work.diary if line[0] == key]
        begun = [line for line in lines if line.endswith("in")]
        assert begun == sorted(begun)
        open_now = 0
        for line in lines:
            open_now = open_now + 1 if line.endswith("in") else 0
            assert open_now <= 2  # one that was cancelled writes no end
    assert stage._lines == {}


@virtual
async def test_an_idle_key_leaves_nothing_behind() -> None:
    stage = stages.order()
    handler = wrap(Work(), stage)
    for _ in range(2):
        assert (
            statuses(await asyncio.gather(*start(handler, *(chr(1000 + number) for number in range(150)))))
            == [204] * 150
        )
        assert stage._lines == {}
        assert len(stage._spare) == 100


def test_it_tells_its_settings() -> None:
    stage = stages.order(name="by customer")
    assert (stage.kind, stage.name) == ("order", "by customer")
    assert stage.parameters == {
        "on_failure": "skip",
        "hold": 5.0,
        "block_timeout": 60.0,
        "retry_after": 1.0,
        "max_waiting_per_key": 100,
        "max_keys": 10_000,
    }


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("key", 5, TypeError),
        ("on_failure", "stop", ValueError),
        ("on_failure", 5, TypeError),
        ("hold", -1, ValueError),
        ("block_timeout", 0, ValueError),
        ("retry_after", -1, ValueError),
        ("max_waiting_per_key", 0, ValueError),
        ("max_keys", 0, ValueError),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{name}: must be "):
        stages.order(**{name: value})
