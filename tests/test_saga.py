"""`Saga`: steps in their order, compensations in reverse, retries, results, and what is stuck."""

import asyncio
from typing import Any

import pytest

from cloudevents_kit import Event, HandlerSink, Nack, Reject, RetryPolicy, Router, current_event
from cloudevents_kit.dead_letter import keeper
from cloudevents_kit.saga import Context, InDoubt, Saga, Step
from cloudevents_kit.stores.memory_dead_letters import MemoryDeadLetterStore
from cloudevents_kit.stores.memory_journal import MemoryJournal
from cloudevents_kit.testing._events import EVENTS, exact
from tests.support.saga import EVENT, Shop, answer, over
from tests.support.virtual import LoopClock, virtual


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
    """K-D8.1. Pay-undo, then reserve-undo; nothing for the step that did not happen."""
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
    """K-D8.1."""
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
        assert (await over(saga)).status == "compensated"
    assert shop.done == ["reserve", "pay", "pay_undo", "reserve_undo"]
    assert "saga order: stuck" in caplog.text


@virtual
async def test_what_somebody_has_taken_back_by_hand_counts_as_compensated(clock: LoopClock) -> None:
    shop = Shop(ship=[Reject()], pay_undo=[Reject("refunded already")])
    async with shop.saga(clock) as saga:
        await saga(EVENT)
        id = (await over(saga)).id
        for wrong in ("ship", "reserve", "x", "pay:undo"):
            with pytest.raises(ValueError, match=rf"^done: must name .* failed, \['pay'\], not '{wrong}'"):
                await saga.resume(id, done=[wrong])
        assert await saga.resume(id, done=["pay"])
        report = await over(saga)
    assert (report.status, report.compensated) == ("compensated", ("pay", "reserve"))
    assert shop.done == ["reserve", "pay", "reserve_undo"]


async def test_the_dead_letter_of_a_stuck_saga_names_it_and_leads_back_to_it() -> None:
    """K-D8.1."""
    letters = MemoryDeadLetterStore()
    shop = Shop(reserve=[Reject()], pay=[Reject()], reserve_undo=[Reject("the shelf is gone")])
    steps = [Step("reserve", print, shop.work("reserve_undo")), shop.step("pay")]
    hook = keeper(letters, "orders")
    async with Saga("order", steps, journal=MemoryJournal(), dead_letter=hook, wait=True) as saga:
        assert (await answer(saga, EVENT)).status == 422
        [letter] = await letters.read(0, 10)
        assert letter.event == EVENT
        why = "pay: Reject: rejected; reserve:undo: Reject: the shelf is gone"
        assert letter.reason == f"saga order: {saga.id_of(EVENT)} is stuck: {why}"
        assert await saga.resume(saga.id_of(letter.event))


@pytest.mark.parametrize("form", EVENTS)
async def test_what_a_stuck_saga_hands_over_is_the_event_that_came_to_the_last_byte(form: str) -> None:
    sink: list[Event] = []
    steps = [Step("reserve", print, Shop(reserve_undo=[Reject()]).work("reserve_undo")), Step("pay", refused)]
    taker = HandlerSink(sink.append)
    async with Saga("order", steps, journal=MemoryJournal(), dead_letter=taker, wait=True) as saga:
        assert (await answer(saga, EVENTS[form])).status == 422
    assert exact(sink[0]) == exact(EVENTS[form])


async def refused(step: Context) -> None:
    raise Reject


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
    assert (answers, saga.counts["dead_letter_failed"], saga.counts["stuck"]) == ([], 2, 1)


@virtual
async def test_a_step_without_compensation_leaves_nothing_to_undo(clock: LoopClock) -> None:
    shop = Shop(c=[Reject()])
    steps = [shop.step("a"), Step("b", shop.work("b")), shop.step("c")]
    async with shop.saga(clock, steps=steps) as saga:
        await saga(EVENT)
        assert (await over(saga)).compensated == ("a",)


@virtual
async def test_a_step_that_returns_none_leaves_the_other_results_alone(clock: LoopClock) -> None:
    """K-D8.2. The state is not deleted."""
    shop = Shop()

    async def nothing(step: Context) -> None:
        return None

    async with shop.saga(clock, steps=[shop.step("a"), Step("b", nothing), shop.step("c")]) as saga:
        await saga(EVENT)
        report = await over(saga)
    assert report.results == {"a": {"did": "a"}, "b": None, "c": {"did": "c"}}
    assert shop.contexts[-1].results == {"a": {"did": "a"}, "b": None}


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
        ({"steps": Step("a", print)}, "steps: must be a list of Steps, not Step"),
        ({"steps": None}, "steps: must be a list of Steps, not NoneType"),
        ({"retry": 0}, "retry: must be a RetryPolicy, not int"),
        ({"clock": 5}, "clock"),
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
