"""Filters made in Python: values that can be compared, written as JSON and read back; and their errors."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from cloudevents_kit import CloudEventsError, Event, cesql, filters
from cloudevents_kit.filters import Filter, FilterError, all_of, any_of, exact, from_json, not_, prefix, sql, suffix
from tests.support.events import new


def test_filters_are_made_of_filters() -> None:
    orders = all_of(
        prefix(type="com.example.order."), not_(exact(source="/test")), any_of(suffix(id="1"), sql("n > 5"))
    )
    assert orders(new(type="com.example.order.created"))
    assert orders(new(type="com.example.order.created", id="2", n=6))
    assert not orders(new(type="com.example.order.created", id="2", n=5))
    assert not orders(new(type="com.example.order.created", source="/test"))
    assert orders.to_json() == {
        "all": [
            {"prefix": {"type": "com.example.order."}},
            {"not": {"exact": {"source": "/test"}}},
            {"any": [{"suffix": {"id": "1"}}, {"sql": "n > 5"}]},
        ]
    }


def test_names_that_are_no_keywords_of_python_stand_in_a_dict() -> None:
    assert exact({"class": "x", "1a": "y"}, type="t")(new(**{"class": "x", "1a": "y"}))
    assert exact({"class": "x"}, type="t").to_json() == {"exact": {"class": "x", "type": "t"}}


def test_a_filter_is_compared_by_value() -> None:
    one, same = exact(type="t", id="1"), from_json({"exact": {"id": "1", "type": "t"}})
    assert one == same
    assert hash(one) == hash(same)
    assert any_of(one, sql("true")) == any_of(same, sql("true"))
    assert {one, same, any_of(one), any_of(same)} == {one, any_of(one)}
    assert len({exact(id="1"), prefix(id="1"), suffix(id="1"), not_(exact(id="1")), all_of(exact(id="1"))}) == 5
    assert one != exact(type="t")
    assert one != {"exact": {"id": "1", "type": "t"}}
    assert from_json([{"exact": {"id": "1"}}]) != exact(id="1")


def test_a_filter_has_these_members() -> None:
    assert {name for name in dir(Filter) if name[0] != "_"} == {"to_json"}


def test_a_filter_is_shown_short() -> None:
    assert repr(exact(type="t")) == "Filter({'exact': {'type': 't'}})"
    assert len(repr(any_of(*[exact(type=f"t{number}") for number in range(100)]))) < 100


def test_a_filter_can_be_copied_and_sent_to_another_process() -> None:
    one = from_json([{"not": {"any": [{"exact": {"id": "2"}}, {"sql": "type = 'x'"}]}}])
    for again in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert again == one
        assert again(new())


def test_its_json_is_a_copy() -> None:
    given: list[Any] = [{"all": [{"exact": {"type": "t"}}]}]
    one = from_json(given)
    given[0]["all"].append({"exact": {"type": "x"}})
    one.to_json()[0]["all"].clear()  # type: ignore[index]
    assert one.to_json() == [{"all": [{"exact": {"type": "t"}}]}]
    assert one(new())


def test_an_array_can_stand_within_a_filter_unless_it_is_empty() -> None:
    pair = from_json([{"exact": {"type": "t"}}, {"exact": {"id": "1"}}])
    assert not_(pair).to_json() == {"not": {"all": [{"exact": {"type": "t"}}, {"exact": {"id": "1"}}]}}
    assert not not_(pair)(new())
    with pytest.raises(FilterError, match="an empty array"):
        any_of(exact(type="t"), from_json([]))


def test_functions_of_ones_own_are_for_sql() -> None:
    functions = cesql.Functions()
    functions.register("LONG", lambda text: len(text) > 3, arguments=[str], returns=bool)
    assert sql("LONG(type)", functions=functions)(new(type="long"))
    assert from_json([{"not": {"sql": "LONG(type)"}}], functions=functions)(new(type="t"))
    assert not sql("LONG(type)")(new(type="long"))


def test_events_of_the_official_sdk_are_taken() -> None:
    theirs: Any = CloudEvent({"id": "1", "source": "/s", "type": "t", "specversion": "1.0"}, None)
    assert exact(type="t", source="/s")(theirs)


EXAMPLE = 'for example {"exact": {"type": "com.example.order.created"}}'
DIALECTS = "exact, prefix, suffix, all, any, not, sql"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (exact, f"exact: must have at least one attribute ({EXAMPLE})"),
        (lambda: exact(type=""), "exact.type: must not be empty (presence is tested by sql: EXISTS)"),
        (lambda: suffix(Type="t"), "suffix.Type: attribute names use only a-z and 0-9 (did you mean 'type'?)"),
        (lambda: suffix(type="x" * 65_537), "suffix.type: is longer than 65536 characters"),
        (all_of, "all: must have at least one filter"),
        (any_of, "any: must have at least one filter"),
        (lambda: from_json({"any": [{}]}), "filter.any[0]: must have exactly one dialect, not 0 (put them into all)"),
        (lambda: from_json([{"x": {}}]), f"filters[0]: has an unknown dialect 'x' ({DIALECTS})"),
        (
            lambda: from_json({"prefix": {"n": 5}}),
            "filter.prefix.n: must be a string, not int (an Integer or Boolean attribute is compared as text)",
        ),
        (
            lambda: exact(type="a\ud800"),
            "exact.type: holds a control character, noncharacter or lone surrogate (no event has such text)",
        ),
        (lambda: sql("type ="), "sql: expected a value, found the end at position 6\n  type =\n        ^"),
    ],
)
def test_an_error_says_where_and_what(make: Any, text: str) -> None:
    with pytest.raises(FilterError) as caught:
        make()
    assert str(caught.value) == text
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, CloudEventsError)
    assert pickle.loads(pickle.dumps(caught.value)).path == caught.value.path


def test_an_error_of_sql_has_the_parse_error_as_cause() -> None:
    with pytest.raises(FilterError) as caught:
        sql("(")
    assert isinstance(caught.value.__cause__, cesql.ParseError)


@pytest.mark.parametrize("wrong", [{"exact": {"type": "t"}}, "type = 't'", None])
def test_a_filter_within_a_filter_is_a_filter(wrong: Any) -> None:
    for make in (all_of, any_of, not_):
        with pytest.raises(TypeError, match="must be a Filter"):
            make(wrong)


def test_attributes_are_a_mapping() -> None:
    for make in (exact, prefix, suffix):
        with pytest.raises(TypeError, match=r"^attributes: must be a mapping of names to text, not int"):
            make(5)  # type: ignore[arg-type]


def test_all_expressions_of_a_subscription_have_the_limits_of_one() -> None:
    words = {"sql": " OR ".join(["a = 1"] * 1_000)}
    long = {"sql": "type = '" + "x" * 30_000 + "'"}
    assert not from_json([words, words])(new())
    assert not from_json([long, long])(new())
    with pytest.raises(FilterError, match=r"^filters\[2\].sql: more than 8192 words and signs"):
        from_json([words, words, words])
    with pytest.raises(FilterError, match=r"^filters\[2\].not.sql: there are more than 65536 characters of SQL$"):
        from_json([long, long, {"not": long}])


def test_all_expressions_of_a_filter_together_may_cost_as_much_as_one() -> None:
    event = new(subject="x" * 200_000)
    long = sql("LENGTH(subject) = 200000")
    assert all_of(*[long] * 5)(event)
    assert not all_of(*[long] * 6)(event)
    assert long(event)


def test_depth_and_number_are_limited_in_python_too() -> None:
    one = exact(type="t")
    for _ in range(filters.MAX_DEPTH - 1):
        one = not_(one)
    with pytest.raises(FilterError, match="nested deeper than 32"):
        not_(one)
    many = [exact(type="t", id="1")] * (filters.MAX_FILTERS // 2)
    with pytest.raises(FilterError, match="more than 4096"):
        all_of(*many)


# At random: what a filter says is what the specification says, and JSON goes both ways.

NAMES = st.sampled_from(["type", "id", "subject", "a", "n", "flag"])
TEXTS = st.sampled_from(["t", "1", "true", "5", "ab", "b", "a"])
MATCHES = st.tuples(
    st.sampled_from(["exact", "prefix", "suffix"]), st.dictionaries(NAMES, TEXTS, min_size=1, max_size=2)
).map(lambda pair: {pair[0]: pair[1]})
LEAVES = st.one_of(MATCHES, st.sampled_from([{"sql": "type = 'ab'"}, {"sql": "a = 'a'"}, {"sql": "n"}]))
FILTERS: st.SearchStrategy[dict[str, Any]] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["all", "any"]), st.lists(inner, min_size=1, max_size=3)).map(
            lambda pair: {pair[0]: pair[1]}
        ),
        inner.map(lambda one: {"not": one}),
    ),
    max_leaves=8,
)
EVENTS = st.fixed_dictionaries(
    {"type": TEXTS}, optional={"subject": TEXTS, "a": TEXTS, "n": st.integers(0, 5), "flag": st.booleans()}
).map(lambda given: new(**given))


def says(json: dict[str, Any], event: Event) -> bool:
    """Evaluate as simply as can be."""
    ((dialect, given),) = json.items()
    match str(dialect):
        case "all":
            return all(says(one, event) for one in given)
        case "any":
            return any(says(one, event) for one in given)
        case "not":
            return not says(given, event)
        case "sql":
            name, _, wanted = given.partition(" = ")
            return bool(f"'{event.get(name)}'" == wanted)
    return all(name in event and _matches(dialect, str(event[name]), wanted) for name, wanted in given.items())


def _matches(dialect: str, value: str, wanted: str) -> bool:
    value = value.lower() if value in {"True", "False"} else value
    return {
        "exact": value == wanted, "prefix": value.startswith(wanted), "suffix": value.endswith(wanted)
    }[dialect]  # fmt: skip


@given(one=FILTERS, event=EVENTS)
def test_a_filter_says_what_a_simple_interpreter_says(one: dict[str, Any], event: Event) -> None:
    assert from_json(one)(event) is says(one, event)
    assert from_json([one, one])(event) is says(one, event)


@given(st.lists(FILTERS, max_size=3))
def test_a_filter_is_read_as_it_was_written(array: list[dict[str, Any]]) -> None:
    made = from_json(array)
    assert made.to_json() == array
    assert from_json(json.loads(json.dumps(made.to_json()))) == made
    assert all(isinstance(from_json(one), Filter) and from_json(one).to_json() == one for one in array)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["exact", "all", "any", "not", "sql", "type", ""]), inner, max_size=2),
    ),
    max_leaves=8,
)


@given(JSON)
def test_no_json_raises_anything_but_a_filter_error(given: Any) -> None:
    try:
        made = from_json(given)
    except FilterError as error:
        refused = error
    else:
        assert made(new()) in {True, False}
        return
    assert refused.path.startswith("filter")
