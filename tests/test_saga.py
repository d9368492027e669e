"""`Saga`: steps in their order, compensations in reverse, each once, whatever is repeated and whatever fails."""

import asyncio
from typing import Any

import pytest

from cloudevents_kit import ACCEPTED, Event, Nack, Reject, RetryPolicy, Router, current_event, settle
from cloudevents_kit.saga import Context, InDoubt, Journal, Saga, Step, Wait
from cloudevents_kit.stores.memory_journal import MemoryJournal
from tests.support.events import new
from tests.support.journal import JournalConformance
from tests.support.virtual import LoopClock, virtual

POLICY = RetryPolicy(attempts=3, initial=10, jitter=False, deadline=None)
EVENT = new(type="order.created", data={"number": 7})


class TestMemory(JournalConformance):
    @pytest.fixture
    def journal(self) -> Journal:
        return MemoryJournal()


class Shop:
    """Does the steps, and notes what it does; ``fails`` has what each is to raise, in turn."""

    def __init__(self, **fails: list[Exception]) -> None:
        self.fails = fails
        self.done: list[str] = []
        self.contexts: list[Context] = []
        self.takes = 0.0

    def step(self, name: str, **given: Any) -> Step:
        return Step(name, self.work(name), self.work(f"{name}_undo"), **given)

    def work(self, name: str) -> Any:
        async def work(step: Context) -> Any:
            self.contexts.append(step)
            await asyncio.sleep(self.takes)
            if self.fails.get(name):
                raise self.fails[name].pop(0)
            self.done.append(name)
            return {"did": name}

        return work

    def saga(self, clock: LoopClock, journal: Journal | None = None, **given: Any) -> Saga:
        steps = given.pop("steps", [self.step(name) for name in ("reserve", "pay", "ship")])
        journal = MemoryJournal() if journal is None else journal
        return Saga("order", steps, journal=journal, clock=clock, **{"retry": POLICY, **given})


async def answer(handler: Any, event: Event) -> Any:
    """Return the result of handing ``event`` to a handler."""
    return await settle(handler, event)


async def over(saga: Saga, event: Event = EVENT) -> Any:
    """Wait until the saga is over; return the report."""
    while True:
        report = await saga.find(saga.id_of(event))
        assert report is not None
        if report.status in {"completed", "compensated", "stuck"}:
            return report
        await asyncio.sleep(0.5)


@virtual
async def test_the_start_is_accepted_when_it_is_stored_and_the_steps_are_run_in_their_order(clock: LoopClock) -> None:
    shop = Shop()
    shop.takes = 1
    async with shop.saga(clock) as saga:
        assert (await answer(saga, EVENT)).status == 202
        assert shop.done == []
        report = await over(saga)
    assert shop.done == ["reserve", "pay", "ship"]
    assert report.status == "completed"
    assert report.results == {name: {"did": name} for name in shop.done}
    assert saga.counts == {"started": 1, "completed": 1}


@virtual
async def test_a_step_is_given_what_it_needs(clock: LoopClock) -> None:
    shop = Shop(pay=[RuntimeError("once")])
    event = EVENT.evolve(correlationid="flow")
    async with shop.saga(clock) as saga:
        await saga(event)
        await over(saga, event)
    reserve, pay, again, ship = shop.contexts
    assert (reserve.event, dict(reserve.results), reserve.attempt) == (event, {}, 1)
    assert (pay.attempt, again.attempt, pay.key == again.key, pay.began == again.began) == (1, 2, True, True)
    assert ship.results == {"reserve": {"did": "reserve"}, "pay": {"did": "pay"}}
    assert len({reserve.key, pay.key, ship.key}) == 3
    made = again.make(type="t", source="/s", data=1)
    assert made == pay.make(type="t", source="/s", data=1)
    assert (made.id, made["correlationid"], made["causationid"]) == (pay.key, "flow", event.id)


@virtual
async def test_a_final_failure_compensates_what_was_done_in_reverse_each_once(clock: LoopClock) -> None:
    """K-D8: pay-undo, then reserve-undo; nothing for the step that did not happen."""
    shop = Shop(ship=[Reject("no such address")])
    async with shop.saga(clock) as saga:
        await saga(EVENT)
        report = await over(saga)
        assert (await answer(saga, EVENT)).status == 202
        await asyncio.sleep(100)
    assert shop.done == ["reserve", "pay", "pay_undo", "reserve_undo"]
    assert (report.status, report.compensated) == ("compensated", ("pay", "reserve"))
    assert report.reason == "step ship: Reject: no such address"
    assert report.errors == {"ship": "Reject: no such address"}
    undo = shop.contexts[3]
    assert (undo.results["pay"], undo.in_doubt) == ({"did": "pay"}, False)


@virtual
async def test_a_step_is_retried_as_the_policy_says_and_then_given_up(clock: LoopClock) -> None:
    shop = Shop(pay=[OSError("away")] * 9)
    async with shop.saga(clock) as saga:
        await saga(EVENT)
        report = await over(saga)
        assert 30 <= clock.monotonic() < 32  # 10, then 20 seconds
    assert (report.status, shop.done, saga.counts["retried"]) == ("compensated", ["reserve", "reserve_undo"], 2)


@virtual
async def test_a_step_may_have_a_policy_of_its_own_and_name_its_pause(clock: LoopClock) -> None:
    shop = Shop(a=[OSError()] * 4, b=[InDoubt(after=40)])
    steps = [shop.step("a", retry=RetryPolicy(attempts=5, initial=1, factor=1, jitter=False)), shop.step("b")]
    async with shop.saga(clock, steps=steps) as saga:
        await saga(EVENT)
        assert (await over(saga)).status == "completed"
        assert 44 <= clock.monotonic() < 46


@virtual
async def test_a_compensation_is_retried_too_and_counted_once(clock: LoopClock) -> None:
    shop = Shop(ship=[Reject()], pay_undo=[OSError(), OSError()])
    async with shop.saga(clock) as saga:
        await saga(EVENT)
        assert (await over(saga)).status == "compensated"
    assert shop.done == ["reserve", "pay", "pay_undo", "reserve_undo"]


@virtual
async def test_a_compensation_that_keeps_failing_is_stuck_and_a_dead_letter_until_it_is_resumed(
    clock: LoopClock, caplog: pytest.LogCaptureFixture
) -> None:
    """K-D8."""
    letters: list[tuple[Event, Exception]] = []
    shop = Shop(ship=[Reject()], pay_undo=[OSError("bank is closed")] * 3)
    async with shop.saga(clock, dead_letter=lambda *letter: letters.append(letter)) as saga:
        await saga(EVENT)
        report = await over(saga)
        id = report.id
        assert (report.status, shop.done) == ("stuck", ["reserve", "pay"])
        ((event, error),) = letters
        assert event == EVENT
        assert "pay:undo: OSError: bank is closed" in str(error)
        assert await saga.resume(id)
        assert not await saga.resume(id)
        assert not await saga.resume("no such")
        assert (await over(saga)).status == "compensated"
    assert shop.done == ["reserve", "pay", "pay_undo", "reserve_undo"]
    assert "saga order: stuck" in caplog.text


@virtual
async def test_a_dead_letter_that_is_not_taken_is_handed_over_again(clock: LoopClock) -> None:
    answers: list[Any] = [OSError("full"), Nack(status=503), None]

    async def letter(event: Event, error: Exception) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    shop = Shop(ship=[Reject()], pay_undo=[Reject()])
    async with shop.saga(clock, dead_letter=letter) as saga:
        await saga(EVENT)
        await asyncio.sleep(200)
    assert (answers, saga.counts["not_handed_over"], saga.counts["stuck"]) == ([], 2, 1)


@virtual
async def test_a_step_without_compensation_leaves_nothing_to_undo(clock: LoopClock) -> None:
    shop = Shop(c=[Reject()])
    steps = [shop.step("a"), Step("b", shop.work("b")), shop.step("c")]
    async with shop.saga(clock, steps=steps) as saga:
        await saga(EVENT)
        assert (await over(saga)).compensated == ("a",)


@pytest.mark.parametrize("error", [TimeoutError(), InDoubt("who knows")])
@virtual
async def test_a_step_that_stays_in_doubt_is_compensated_as_well(clock: LoopClock, error: Exception) -> None:
    shop = Shop(pay=[error, OSError(), OSError()])
    async with shop.saga(clock) as saga:
        await saga(EVENT)
        await over(saga)
    assert shop.done == ["reserve", "pay_undo", "reserve_undo"]
    assert [one.in_doubt for one in shop.contexts] == [False, False, True, True, True, False]


@virtual
async def test_a_final_refusal_ends_a_doubt(clock: LoopClock) -> None:
    shop = Shop(pay=[TimeoutError(), Reject("that key was never seen")])
    async with shop.saga(clock) as saga:
        await saga(EVENT)
        await over(saga)
    assert shop.done == ["reserve", "reserve_undo"]


@virtual
async def test_a_step_that_takes_too_long_is_cancelled_and_in_doubt(clock: LoopClock) -> None:
    shop = Shop()
    shop.takes = 60
    async with shop.saga(clock, lease=60, retry=RetryPolicy.none()) as saga:
        await saga(EVENT)
        await asyncio.sleep(53)
        report: Any = await saga.find(saga.id_of(EVENT))
        assert report.status == "running"
        shop.takes = 0
        report = await over(saga)
    assert (report.status, shop.done) == ("compensated", ["reserve_undo"])


@virtual
async def test_a_step_that_was_cancelled_from_within_is_in_doubt(clock: LoopClock) -> None:
    async def broken(step: Context) -> None:
        if step.attempt == 1:
            raise asyncio.CancelledError

    shop = Shop()
    async with shop.saga(clock, steps=[Step("a", broken)]) as saga:
        await saga(EVENT)
        assert (await over(saga)).status == "completed"
    assert saga.counts["retried"] == 1


@virtual
async def test_a_result_that_is_no_json_leaves_the_step_in_doubt(clock: LoopClock) -> None:
    shop = Shop()

    async def run(step: Context) -> object:
        return object()

    steps = [Step("a", run, shop.work("a_undo"))]
    async with shop.saga(clock, steps=steps) as saga:
        await saga(EVENT)
        report = await over(saga)
    assert (report.status, shop.done) == ("compensated", ["a_undo"])
    assert report.errors["a"] == "InDoubt: returned what is no JSON: object"


@virtual
async def test_a_step_that_returns_none_leaves_the_other_results_alone(clock: LoopClock) -> None:
    """K-D8: the state is not deleted."""
    shop = Shop()

    async def nothing(step: Context) -> None:
        return None

    async with shop.saga(clock, steps=[shop.step("a"), Step("b", nothing), shop.step("c")]) as saga:
        await saga(EVENT)
        report = await over(saga)
    assert report.results == {"a": {"did": "a"}, "b": None, "c": {"did": "c"}}
    assert shop.contexts[-1].results == {"a": {"did": "a"}, "b": None}


@virtual
async def test_past_the_deadline_no_step_begins_and_what_was_done_is_compensated(clock: LoopClock) -> None:
    """K-D8."""
    shop = Shop(pay=[OSError()])
    async with shop.saga(clock, deadline=5) as saga:
        await saga(EVENT)
        report = await over(saga)
        assert 5 <= clock.monotonic() < 6  # not after the pause of 10 seconds
    assert (report.status, shop.done) == ("compensated", ["reserve", "reserve_undo"])


@virtual
async def test_the_deadline_between_two_steps_and_in_the_middle_of_one(clock: LoopClock) -> None:
    shop = Shop()
    shop.takes = 4
    async with shop.saga(clock, deadline=4) as between, shop.saga(clock, deadline=6) as within:
        await between(EVENT)
        assert (await over(between)).compensated == ("reserve",)
        shop.done.clear()
        await within(EVENT)
        report = await over(within)
    assert report.compensated == ("pay", "reserve")  # pay was cut off: it may have happened
    assert report.reason.startswith("step pay: TimeoutError")
    assert shop.done == ["reserve", "pay_undo", "reserve_undo"]


@virtual
async def test_a_deadline_does_not_undo_what_is_complete(clock: LoopClock) -> None:
    shop = Shop()
    async with shop.saga(clock, deadline=0.001) as saga:
        await saga(EVENT)
        assert (await over(saga)).status == "completed"


# Copies of the event that starts it.


@virtual
async def test_five_copies_at_once_run_each_step_once(clock: LoopClock) -> None:
    """K-D8."""
    shop = Shop()
    shop.takes = 1
    async with shop.saga(clock) as saga:
        assert await asyncio.gather(*(saga(EVENT) for _ in range(5))) == [ACCEPTED] * 5
        await over(saga)
        assert await saga(EVENT) is ACCEPTED
        await asyncio.sleep(100)
    assert shop.done == ["reserve", "pay", "ship"]
    assert (saga.counts["started"], saga.counts["repeated"]) == (1, 5)


@virtual
async def test_a_copy_may_be_told_that_the_saga_is_running(clock: LoopClock) -> None:
    shop = Shop()
    shop.takes = 1
    async with shop.saga(clock, when_running="conflict") as saga:
        first, second = [await answer(saga, EVENT) for _ in range(2)]
        await over(saga)
        third = await answer(saga, EVENT)
    assert [one.status for one in (first, second, third)] == [202, 409, 202]
    assert isinstance(second, Nack)
    assert second.retryable


@virtual
async def test_within_retention_a_copy_starts_nothing_and_after_it_a_new_saga(clock: LoopClock) -> None:
    """K-D8."""
    shop = Shop()
    async with shop.saga(clock, retention=100) as saga:
        await saga(EVENT)
        await over(saga)
        await asyncio.sleep(98)
        await saga(EVENT)
        assert len(shop.done) == 3
        await asyncio.sleep(2)
        await saga(EVENT)
        await over(saga)
        assert len(shop.done) == 6
        await asyncio.sleep(200)
        assert await saga.find(saga.id_of(EVENT)) is None
    assert saga.counts["forgotten"] == 1


@virtual
async def test_events_of_other_sources_start_sagas_of_their_own(clock: LoopClock) -> None:
    shop = Shop()
    async with shop.saga(clock) as saga:
        for event in (EVENT, EVENT.evolve(source="/other"), EVENT.evolve(id="2")):
            await saga(event)
            await over(saga, event)
    assert saga.counts["completed"] == 3


@virtual
async def test_another_event_with_the_same_key_is_refused(clock: LoopClock) -> None:
    shop = Shop()
    async with shop.saga(clock, key=lambda event: str(event.data["number"])) as saga:
        await saga(EVENT)
        found = await answer(saga, EVENT.evolve(id="2"))
        assert (found.status, (await over(saga)).id) == (422, "7")


# The answer at the end.


@virtual
async def test_the_answer_may_wait_for_the_end_and_is_the_same_for_every_copy(clock: LoopClock) -> None:
    shop = Shop()
    shop.takes = 1

    def reply(saga: Context) -> Event:
        return saga.make(type="order.done", source="/shop", data=saga.results["ship"])

    async with shop.saga(clock, reply=reply) as saga:
        first, second = await asyncio.gather(saga(EVENT), saga(EVENT))
        assert clock.monotonic() == 3
        third = await saga(EVENT)
    assert isinstance(first, Event)
    assert first == second == third
    assert (first.data, first["causationid"]) == ({"did": "ship"}, EVENT.id)


@pytest.mark.parametrize(
    ("fails", "status", "reason"),
    [
        ({}, 204, ""),
        ({"ship": [Reject("secret")]}, 422, "this order was compensated"),
        ({"ship": [Reject()], "pay_undo": [Reject()]}, 422, "this order is stuck"),
    ],
)
@virtual
async def test_whoever_waits_learns_how_it_ended(
    clock: LoopClock, fails: dict[str, Any], status: int, reason: str
) -> None:
    async with Shop(**fails).saga(clock, wait=True) as saga:
        for _ in range(2):
            found = await answer(saga, EVENT)
            assert (found.status, getattr(found, "reason", "")) == (status, reason)


@virtual
async def test_whoever_waits_learns_what_another_process_did_and_what_was_forgotten(clock: LoopClock) -> None:
    journal, shop = MemoryJournal(), Shop()
    async with shop.saga(clock, journal, wait=True, concurrency=0) as here, shop.saga(clock, journal) as there:
        assert await here(EVENT) is None
        waiting = asyncio.create_task(here(EVENT.evolve(id="2")))
        await asyncio.sleep(0)
        journal._kept.clear()
        assert (await answer(_awaiting(waiting), EVENT)).reason == "this order was forgotten"
    assert there.counts["completed"] == 1


# Opening and closing.


@virtual
async def test_what_is_not_open_takes_nothing(clock: LoopClock) -> None:
    saga = Shop().saga(clock)
    with pytest.raises(RuntimeError, match="must be open"):
        await saga(EVENT)


@virtual
async def test_a_close_lets_the_step_end_and_the_next_opening_goes_on(clock: LoopClock) -> None:
    shop, journal = Shop(), MemoryJournal()
    shop.takes = 5
    async with shop.saga(clock, journal) as saga:
        await saga(EVENT)
        await asyncio.sleep(1)
    assert (shop.done, clock.monotonic()) == (["reserve"], 5)
    async with saga, saga:
        assert (await over(saga)).status == "completed"
    assert shop.done == ["reserve", "pay", "ship"]


@virtual
async def test_a_step_that_a_close_cuts_off_is_in_doubt_and_run_again_at_once(clock: LoopClock) -> None:
    shop, journal = Shop(), MemoryJournal()
    shop.takes = 50
    async with shop.saga(clock, journal, grace=1) as saga:
        await saga(EVENT)
        await asyncio.sleep(1)
    shop.takes = 0
    async with shop.saga(clock, journal) as saga:
        await over(saga)
        assert clock.monotonic() < 3
    assert [(one.attempt, one.in_doubt) for one in shop.contexts[:2]] == [(1, False), (2, True)]
    assert shop.contexts[0].key == shop.contexts[1].key


@virtual
async def test_a_step_whose_process_died_is_run_again_when_the_lease_ends(clock: LoopClock) -> None:
    """K-D8: the restart goes on in the middle."""
    shop, journal = Shop(), MemoryJournal()
    shop.fails["pay"] = [_Killed()]  # type: ignore[list-item]
    died = shop.saga(clock, journal, concurrency=0)
    async with died:
        await died(EVENT)
        with pytest.raises(_Killed):
            await died.work()
        assert shop.done == ["reserve"]
        async with shop.saga(clock, journal, lease=30) as saga:
            await over(saga)
            assert 60 <= clock.monotonic() < 62
    assert shop.done == ["reserve", "pay", "ship"]
    assert [(one.attempt, one.in_doubt) for one in shop.contexts[1:3]] == [(1, False), (2, True)]


def _awaiting(task: asyncio.Task[Any]) -> Any:
    async def wait(_: Event) -> Any:
        return await task

    return wait


class _Killed(BaseException):
    pass


@virtual
async def test_a_step_that_kills_every_process_is_given_up(clock: LoopClock) -> None:
    shop = Shop(pay=[_Killed() for _ in range(99)])  # type: ignore[misc]
    async with shop.saga(clock, concurrency=0) as saga:
        await saga(EVENT)
        for _ in range(40):
            try:
                await saga.work()
            except _Killed:
                await asyncio.sleep(60)
        report: Any = await saga.find(saga.id_of(EVENT))
    assert (report.status, report.compensated) == ("compensated", ("pay", "reserve"))
    assert len(shop.fails["pay"]) == 99 - 21


@virtual
async def test_who_was_overtaken_leaves_the_saga_to_the_other(
    clock: LoopClock, caplog: pytest.LogCaptureFixture
) -> None:
    journal, shop = MemoryJournal(), Shop()

    async def slow(step: Context) -> str:
        if step.attempt == 1:  # the lease runs out because the journal's clock goes fast
            await journal.lease("order", now=clock.now().timestamp() + 1000, until=0, token="thief")
        return "done"

    async with shop.saga(clock, journal, steps=[Step("a", slow), shop.step("b")], concurrency=1) as saga:
        await saga(EVENT)
        report = await over(saga)
    assert (report.status, shop.done, saga.counts["overtaken"]) == ("completed", ["b"], 1)
    assert "somebody else goes on" in caplog.text


@virtual
async def test_a_journal_that_fails_for_a_while_delays_and_loses_nothing(
    clock: LoopClock, caplog: pytest.LogCaptureFixture
) -> None:
    """K-D8: the step runs again if what it did could not be saved."""

    class Failing(MemoryJournal):
        fails = 0

        async def save(self, saga: str, id: str, state: bytes, /, **given: Any) -> bool:
            if given["version"] == 3 and self.fails < 1:  # after the first step
                self.fails += 1
                raise OSError("disk full")
            return await super().save(saga, id, state, **given)

    shop = Shop()
    async with shop.saga(clock, Failing(), lease=10) as saga:
        await saga(EVENT)
        await over(saga)
    assert shop.done == ["reserve", "reserve", "pay", "ship"]
    assert shop.contexts[0].key == shop.contexts[1].key
    assert saga.counts["journal_failed"] == 1
    assert "the journal failed" in caplog.text


@virtual
async def test_a_save_whose_answer_was_lost_is_made_again(clock: LoopClock) -> None:
    class Doubtful(MemoryJournal):
        async def save(self, saga: str, id: str, state: bytes, /, **given: Any) -> bool:
            return await super().save(saga, id, state, **given) and given["version"] != 3

    shop = Shop()
    async with shop.saga(clock, Doubtful()) as saga:
        await saga(EVENT)
        assert (await over(saga)).status == "completed"
    assert (shop.done, saga.counts["conflicts"]) == (["reserve", "pay", "ship"], 1)


@virtual
async def test_no_act_begins_when_the_journal_took_as_long_as_the_lease(clock: LoopClock) -> None:
    class Slow(MemoryJournal):
        async def save(self, saga: str, id: str, state: bytes, /, **given: Any) -> bool:
            saved = await super().save(saga, id, state, **given)
            await asyncio.sleep(9.5 if given["version"] == 2 else 0)
            return saved

    shop = Shop()
    async with shop.saga(clock, Slow(), lease=10) as saga:
        await saga(EVENT)
        assert (await over(saga)).status == "completed"
    assert saga.counts["overtaken"] == 1
    assert shop.contexts[0].in_doubt  # as far as the next one could know


@virtual
async def test_a_close_does_not_wait_for_pauses(clock: LoopClock) -> None:
    shop = Shop(reserve=[OSError()])
    async with shop.saga(clock, poll=60) as saga:
        await saga(EVENT)
        await asyncio.sleep(1)
    assert clock.monotonic() == 1


@virtual
async def test_an_event_is_not_acknowledged_if_it_could_not_be_stored(clock: LoopClock) -> None:
    class Failing(MemoryJournal):
        async def save(self, saga: str, id: str, state: bytes, /, **given: Any) -> bool:
            raise OSError("disk full")

    async with Shop().saga(clock, Failing()) as saga:
        found = await answer(saga, EVENT)
        assert (found.status, await saga.find(saga.id_of(EVENT))) == (500, None)


@virtual
async def test_a_start_that_meets_an_entry_just_forgotten_starts_anew(clock: LoopClock) -> None:
    class Blinking(MemoryJournal):
        async def load(self, saga: str, id: str, /) -> Any:
            self._kept.clear()

    journal, shop = Blinking(), Shop()
    await journal.save("order", shop.saga(clock).id_of(EVENT), b"{}", version=0, due=None, lease="", expires=0)
    async with shop.saga(clock, journal) as saga:
        assert await saga(EVENT) is ACCEPTED
        await asyncio.sleep(1)
    assert shop.done == ["reserve", "pay", "ship"]


# Steps that are gone, or new.


@virtual
async def test_a_step_that_is_not_known_any_more_cannot_be_compensated(clock: LoopClock) -> None:
    journal, shop = MemoryJournal(), Shop(pay=[Wait(1000)])
    async with shop.saga(clock, journal) as old:
        await old(EVENT)
        await asyncio.sleep(1)
    shop.fails["pay"] = [Reject("no money")]
    async with shop.saga(clock, journal, steps=[shop.step("pay"), shop.step("ship")]) as saga:
        report = await over(saga)
    assert report.status == "stuck"
    assert report.reason == "step pay: Reject: no money; step reserve is not known any more"


# What a step may be.


async def test_steps_may_be_plain_functions_and_send_in_the_name_of_the_event() -> None:
    seen: list[Event | None] = []

    def run(step: Context) -> int:
        seen.append(current_event())
        return 5

    async with Saga("order", [Step("a", run)], journal=MemoryJournal(), reply=_told) as saga:
        router = Router()
        router.on("order.created")(saga)
        reply: Any = await router(EVENT)
    assert (reply.data, seen) == (5, [EVENT])


def _told(saga: Context) -> Event:
    return saga.make(type="told", source="/s", data=saga.results["a"])


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "a:b"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": 5}, "name"),
        ({"run": None}, "run"),
        ({"run": lambda: None}, "run: must be callable with one positional argument"),
        ({"compensate": 5}, "compensate"),
        ({"retry": 5}, "retry"),
    ],
)
def test_a_step_that_makes_no_sense_cannot_be_made(given: dict[str, Any], error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        Step(**{"name": "a", "run": lambda step: None, **given})


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"name": "a/b"}, "name"),
        ({"name": 5}, "name"),
        ({"steps": []}, "steps"),
        ({"steps": [len]}, "steps"),
        ({"steps": [Step("a", print), Step("a", print)]}, "steps"),
        ({"journal": object()}, "journal"),
        ({"retry": 5}, "retry"),
        ({"key": 5}, "key"),
        ({"reply": 5}, "reply"),
        ({"dead_letter": 5}, "dead_letter"),
        ({"retention": 0}, "retention"),
        ({"lease": 0}, "lease"),
        ({"poll": 0}, "poll"),
        ({"deadline": 0}, "deadline"),
        ({"when_running": "x"}, "when_running"),
        ({"unknown": "x"}, "unknown"),
        ({"wait": "yes"}, "wait"),
        ({"concurrency": -1}, "concurrency"),
        ({"grace": -1}, "grace"),
    ],
)
def test_a_saga_that_makes_no_sense_cannot_be_made(given: dict[str, Any], error: str) -> None:
    arguments = {"name": "order", "steps": [Step("a", _told)], "journal": MemoryJournal(), **given}
    with pytest.raises((TypeError, ValueError), match=f"^{error}"):
        Saga(**arguments)
