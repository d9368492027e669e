import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudevents_kit import Event, EventError
from cloudevents_kit.stages import Reducer, avg_of, count, distinct, fold, max_of, min_of, sum_of
from cloudevents_kit.stages._reducers import text_of
from cloudevents_kit.stages._totals import Reducers
from tests.support.events import new, read

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def reduce(reducer: Reducer, *events: Event) -> Any:
    state = reducer.start()
    for event in events:
        value = reducer.take(event)
        state = state if value is None else reducer.step(state, value)
    return reducer.result(state)


def of(*values: Any) -> list[Event]:
    return [new(data={"v": value}) for value in values]


LARGEST = 2**1024 - 1
NOTHING = [new(), new(data={}), new(data={"v": None}), new(data="text"), new(data=[1])]


@pytest.mark.parametrize(
    ("reducer", "values", "result"),
    [
        (count(), [1, 2], 2),
        (sum_of("data.v"), [1, 2, 3], 6),
        (sum_of("data.v"), [0.1] * 10, 1.0),
        (sum_of("data.v"), [2**53, 1], 2**53 + 1),
        (sum_of("data.v"), [1e308, 1e308, -1e308], 1e308),
        (sum_of("data.v"), [1, 1e100, 1, -1e100], 2.0),
        (avg_of("data.v"), [1, 2], 1.5),
        (avg_of("data.v"), [0.1, 0.2, 0.3], 0.2),
        (min_of("data.v"), [3, 1.5, 2], 1.5),
        (max_of("data.v"), [3, 1.5, 2], 3),
        (distinct("data.v"), ["a", "b", "a"], 2),
        (distinct("data.v"), [1, 1.0, "1", True, "true", [1], {"a": 1}, 1.5], 7),
    ],
    ids=repr,
)
def test_a_reducer_makes_one_value_of_many(reducer: Reducer, values: list[Any], result: Any) -> None:
    """K-D6."""
    assert reduce(reducer, *of(*values)) == result
    assert type(reduce(reducer, *of(*values))) is type(result)


@pytest.mark.parametrize(
    ("reducer", "result"),
    [
        (sum_of("data.v"), 0),
        (avg_of("data.v"), None),
        (min_of("data.v"), None),
        (max_of("data.v"), None),
        (distinct("data.v"), 0),
        (fold(0, lambda state, value: state + 1, of="data.v"), 0),
    ],
    ids=repr,
)
def test_events_without_the_value_are_passed_over(reducer: Reducer, result: Any) -> None:
    assert reduce(reducer, *NOTHING) == result


@given(st.lists(st.one_of(st.integers(), FINITE), max_size=30), st.randoms(use_true_random=False))
def test_a_sum_is_exact_whatever_the_order(values: list[float], random: Any) -> None:
    """K-D6: rounded once, in the end."""
    exact = sum(map(Fraction, values), Fraction(0))
    expected: float = sum(values) if all(isinstance(value, int) for value in values) else 0.0
    if isinstance(expected, float):
        try:
            expected = exact.numerator / exact.denominator
        except OverflowError:  # more than floats hold
            expected = exact.numerator // exact.denominator
    random.shuffle(values)
    states = sum_of("data")
    state = states.start()
    for value in values:
        state = states.step(state, value)
    assert states.result(state) == expected


def test_a_mean_beyond_what_floats_hold_is_whole() -> None:
    mean = avg_of(lambda event: LARGEST)
    assert reduce(mean, new(), new()) == LARGEST


@pytest.mark.parametrize("reducer", [sum_of("data.v"), avg_of("data.v"), min_of("data.v"), max_of("data.v")], ids=repr)
@pytest.mark.parametrize("value", [LARGEST, -LARGEST])
def test_an_integer_may_be_as_large_as_a_float(reducer: Reducer, value: int) -> None:
    assert reduce(reducer, *of(value)) == value


@pytest.mark.parametrize("reducer", [sum_of("data.v"), avg_of("data.v"), min_of("data.v"), max_of("data.v")], ids=repr)
@pytest.mark.parametrize("value", ["12", True, [1], {}, LARGEST + 1, -LARGEST - 1], ids=lambda value: str(value)[:9])
def test_what_is_no_number_is_the_events_fault(reducer: Reducer, value: Any) -> None:
    (event,) = of(value)
    with pytest.raises(EventError, match=r"is no finite number, which .*data\.v.* needs") as caught:
        reducer.take(event)
    assert caught.value.key == event.key


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_function_must_find_finite_numbers(value: float) -> None:
    with pytest.raises(EventError, match=r"is no finite number"):
        sum_of(lambda event: value).take(new())


def test_an_integer_attribute_counts_as_number_in_every_mode() -> None:
    assert reduce(sum_of("size"), read(size=5), read(size="5"), read()) == 10
    with pytest.raises(EventError):
        sum_of("size").take(read(size="big"))


def test_an_attribute_is_one_value_in_every_mode() -> None:
    assert reduce(distinct("flag"), read(flag=True), read(flag="true"), read(flag="1"), read(flag=1), read()) == 2


def test_distinct_stops_at_its_limit_and_says_so() -> None:
    """K-D6, trap 21: it counts what is distinct, and does not pass a guess off as a count."""
    values = Reducers({"who": distinct("data.v", limit=3)})
    states = None
    for number, event in enumerate(of(1, 2, 2, 3, 3, 1, 4)):
        states = values.fold(values.take(event), states)
        assert values.inexact(states) == (["who"] if number == 6 else [])
    assert states is not None
    assert values.results(states) == {"who": 3}


def test_a_fold_makes_anything() -> None:
    longest = fold("", lambda state, value: max(state, value, key=len), of="data.v", result=str.upper)
    assert reduce(longest, *of("a", "ccc", "bb")) == "CCC"
    types: Reducer = fold([], lambda state, event: [*state, event.type])
    assert reduce(types, new(), new(type="u")) == ["t", "u"]
    assert types.start() == []
    assert (repr(longest), repr(types)) == ("fold(data.v)", "fold()")


def test_what_a_fold_shows_is_not_its_state() -> None:
    for result in (None, lambda state: state):
        reducer = fold([], lambda state, value: [*state, [value]], of="data.v", result=result)
        state = reducer.step(reducer.start(), 1)
        reducer.result(state)[0].append("theirs")
        reducer.result(state).append("theirs")
        assert state == [[1]]


def test_long_values_are_kept_as_digests() -> None:
    """By which they are still told apart."""
    reducer = distinct("data.v")
    assert reduce(reducer, *of("x" * 10**5, "x" * 10**5, "x" * 10**5 + "y", ["x" * 10**5], "x" * 256)) == 4
    assert max(len(reducer.take(event)) for event in of("x" * 10**5, ["x" * 10**5])) < 100
    assert len(distinct("subject").take(new(subject="x" * 10**5))) < 100
    assert reducer.take(of("x" * 256)[0]) == '"' + "x" * 256


def test_a_fold_cannot_change_what_it_was_given() -> None:
    initial: list[Any] = []

    def add(state: list[Any], value: list[Any]) -> list[Any]:
        value.append("mine")
        return [*state, value]

    (event,) = of([1])
    reducer = fold(initial, add, of="data.v")
    reducer.start().append("mine")
    assert reduce(reducer, event, event) == [[1, "mine"], [1, "mine"]]
    assert event.data == {"v": [1]}


def test_a_step_that_fails_leaves_every_state_as_it_was() -> None:
    def fail(state: int, value: int) -> int:
        if value == 2:
            raise ZeroDivisionError
        return state + value

    values = Reducers({"who": distinct("data.v"), "sum": sum_of("data.v"), "own": fold(0, fail, of="data.v")})
    one, two = of(1, 2)
    states = values.fold(values.take(one), None)
    with pytest.raises(ZeroDivisionError):
        values.fold(values.take(two), states)
    assert values.results(states) == {"who": 1, "sum": 1, "own": 1}
    assert [*values.results(states)] == ["who", "sum", "own"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        ("", ""),
        (None, ""),
        (7, "7"),
        (7.0, "7"),
        (7.5, "7.5"),
        (True, "true"),
        (("a", 1), '["a",1]'),
        ({"b": 1, "a": "ü"}, '{"a":"ü","b":1}'),
    ],
)
def test_a_key_has_one_text(value: Any, text: str) -> None:
    """K-D6, trap 21: what a query must ask for is no riddle."""
    assert text_of(value) == text


def test_a_reducer_must_say_how_it_works() -> None:
    with pytest.raises(NotImplementedError):
        reduce(Reducer(), new())


WRONG: Any = 5
LIST: Any = [count()]


async def later(*_: object) -> int:
    return 1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: sum_of("data."), ValueError, "path"),
        (lambda: sum_of(WRONG), TypeError, "of: must be callable, not int"),
        (lambda: distinct("data", limit=0), ValueError, "limit: must be 1 or more"),
        (lambda: sum_of(later), TypeError, "of: must be a plain function, not an async one"),
        (lambda: fold(0, WRONG), TypeError, "step: must be callable"),
        (lambda: fold(0, later), TypeError, "step: must be a plain function"),
        (lambda: fold(0, max, result=WRONG), TypeError, "result: must be callable"),
        (lambda: Reducers(LIST), TypeError, "of: must be a mapping of names to reducers"),
        (lambda: Reducers({WRONG: count()}), TypeError, "of: must be a mapping whose keys are str"),
        (lambda: Reducers({"n": WRONG}), TypeError, r"of\['n'\]: must be a reducer"),
    ],
)
def test_a_wrong_reducer_is_refused_by_name(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
