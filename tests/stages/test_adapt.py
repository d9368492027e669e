"""`chain` and `stage`: several stages as one, and a plain middleware under a name."""

from typing import Any

import pytest

from cloudevents_kit import Event, Handler, Outcome, settle, wrap
from cloudevents_kit._lifecycle import parts_of
from cloudevents_kit.stages import PASS, StageError, chain, first_of, keep_if, stage, transform
from cloudevents_kit.stages._adapt import as_branch, name_branches, name_of_branch
from tests.support.branches import Seen, broken
from tests.support.events import new
from tests.support.parts import StagePart


async def passing(event: Event, call_next: Handler) -> Outcome:
    return await call_next(event)


async def test_a_chain_is_its_stages_in_order() -> None:
    seen = Seen()
    assert await settle(wrap(seen.handler("end"), seen.stage("a"), chain(seen.stage("b"), seen.stage("c"))), new())
    assert seen == ["a", "b", "c", "end"]


async def test_an_empty_chain_does_nothing() -> None:
    seen = Seen()
    await wrap(seen.handler("end"), chain())(new())
    assert seen == ["end"]


async def test_a_chain_may_be_part_of_several_chains() -> None:
    seen = Seen()
    both = chain(seen.stage("a"), name="both")
    one, two = wrap(seen.handler("one"), both), wrap(seen.handler("two"), both, both)
    await one(new())
    await two(new())
    assert seen == ["a", "one", "a", "a", "two"]


async def test_an_error_names_the_chain_and_the_stage() -> None:
    with pytest.raises(StageError) as caught:
        await wrap(Seen().handler("end"), chain(passing, transform(broken, name="prices"), name="orders"))(new())
    assert caught.value.path == ("orders", "prices")


async def test_the_same_exception_raised_again_and_again_gives_the_same_path() -> None:
    """K-P2: through whatever it is raised, and it is left as it was."""
    error = OSError("the same")

    def fail(event: Event) -> Event:
        raise error

    handler = wrap(Seen().handler("end"), chain(chain(transform(fail)), first_of(PASS)))
    for _ in range(3):
        with pytest.raises(StageError) as caught:
            await handler(new())
        assert (caught.value.path, caught.value.__cause__) == (("chain", "chain", "fail"), error)
    assert error.args == ("the same",)


async def test_an_event_that_ends_in_a_chain_goes_no_further() -> None:
    seen = Seen()
    await wrap(seen.handler("end"), chain(keep_if(lambda event: False), seen.stage("a")))(new())
    assert seen == []


async def test_a_stage_is_the_middleware_under_a_name() -> None:
    seen = Seen()
    for made, name in ((stage(passing), "passing"), (stage(passing, name="x"), "x")):
        assert (made.kind, made.name, made.branches) == ("stage", name, {"middleware": passing})
        await wrap(seen.handler("end"), made)(new())
        with pytest.raises(StageError) as caught:
            await wrap(Seen().handler("end"), made, transform(broken))(new())
        assert caught.value.path == (name, "broken")
    assert seen == ["end", "end"]


async def test_a_plain_function_is_a_middleware_too() -> None:
    def end_here(event: Event, call_next: Handler) -> Outcome:
        return None

    seen = Seen()
    await wrap(seen.handler("end"), stage(end_here))(new())
    assert seen == []


def test_parts_inside_are_found() -> None:
    a, b = StagePart("A", []), StagePart("B", [])
    assert parts_of(chain(a, stage(b))) == [b, a]


def test_a_chain_describes_itself() -> None:
    made = chain(passing, stage(passing))
    assert (made.kind, made.name, list(made.branches)) == ("chain", "chain", ["1", "2"])


async def test_a_branch_is_a_handler_a_sink_or_a_stage() -> None:
    seen = Seen()
    for branch in (seen.handler("handler"), seen.sink("sink"), seen.stage("stage")):
        await as_branch(branch, seen.handler("next"))(new())
        await as_branch(branch)(new())
    assert seen == ["handler", "handler", "sink", "sink", "stage", "next", "stage"]


@pytest.mark.parametrize("thing", [1, None, passing, Seen, "text"])
def test_nothing_else_is_a_branch(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"there: must be a handler, a sink or a stage \(stage\(...\) makes one of a"):
        as_branch(thing, name="there")


def test_branches_have_names_that_differ() -> None:
    seen = Seen()
    a, b = seen.handler("a"), seen.stage("b")
    assert [name_of_branch(branch) for branch in (a, b, seen.sink("c"), lambda event: None)] == [
        "a", "b", "Scripted", "branch",
    ]  # fmt: skip
    names = name_branches([("a", a), ("a 3", a), ("a", b), ("a", b)])
    assert list(names) == ["a", "a 3", "a 2", "a 4"]
