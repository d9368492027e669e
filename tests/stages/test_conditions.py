"""What conditions say of attributes and data, beside the documented table."""

from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudevents_kit import DataError, Event
from cloudevents_kit.stages import Condition, RuleError
from cloudevents_kit.stages._conditions import Group, compile_all, compile_condition, read_when
from cloudevents_kit.stages._operators import OPERATORS
from tests.support.events import new, read
from tests.support.rules import Cell, at, documented, holds

CELLS = documented()


def check(condition: Condition, event: Event) -> bool:
    return compile_condition(condition)(event, [])


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.place} {cell.found} {cell.condition}")
def test_the_operators_say_what_the_documentation_tells(cell: Cell) -> None:
    """K-D5: int, float, str, bool, null and what is missing, in attributes and in data."""
    assert check(cell.parsed, cell.event) is cell.holds
    assert holds(cell.parsed, cell.event) is cell.holds


def test_the_documentation_tells_all_sixteen_operators() -> None:
    """K-D5."""
    for place in ("attribute", "data"):
        assert {cell.condition.partition(" ")[0] for cell in CELLS if cell.place == place} == {*OPERATORS}
    assert len(OPERATORS) == 16


@pytest.mark.parametrize("op", [op for op in OPERATORS if op not in {"exists", "not_exists"}])
@pytest.mark.parametrize("field", ["x", "data.x"])
def test_what_is_missing_satisfies_a_condition_only_if_it_is_asked_to(op: Any, field: str) -> None:
    """K-D5."""
    value: Any = ["a", "b"] if op in {"in", "not_in", "between"} else "a"
    for event in (new(), new(data={}), new(data=None), new(data="text")):
        assert check(Condition(field, op, value), event) is False
        assert check(Condition(field, op, value, missing=True), event) is True


PLACES = [
    ("data", "text", True),
    ("data.a.b", {"a": {"b": "text"}}, True),
    ("data.items[0].sku", {"items": [{"sku": "text"}]}, True),
    ("data.items.0.sku", {"items": [{"sku": "text"}]}, True),
    ("data.items.0.sku", {"items": {"0": {"sku": "text"}}}, True),
    ('data["a.b"][1]', {"a.b": [0, "text"]}, True),
    ("data[0]", ["text"], True),
    ("data.items[1].sku", {"items": [{"sku": "text"}]}, False),
    ("data.items.1.sku", {"items": [{"sku": "text"}]}, False),
    ("data.items.00.sku", {"items": [{"sku": "text"}]}, False),
    ("data.items.sku", {"items": [{"sku": "text"}]}, False),
    ("data[0]", {"0": "text"}, False),
    ("data.a.b", {"a": "text"}, False),
    ("data.a.b", None, False),
]


@pytest.mark.parametrize(("path", "data", "found"), PLACES)
def test_a_path_leads_into_the_data(path: str, data: Any, found: bool) -> None:
    assert check(Condition(path, "eq", "text"), new(data=data)) is found
    assert check(Condition(path, "exists"), new(data=data)) is found


def test_data_of_another_type_is_text_or_bytes_without_members() -> None:
    text = new(data="hello world", datacontenttype="text/plain")
    assert check(Condition("data", "ends_with", "world"), text)
    assert check(Condition("data.a", "not_exists"), text)
    assert check(Condition("data", "exists"), new(data=b"\x00"))
    assert not check(Condition("data", "contains", "x"), new(data=b"x"))
    assert not check(Condition("data", "exists"), new())
    assert check(Condition("data", "eq", None), new(data=None))


TIMES: list[tuple[str, Any, bool]] = [
    ("eq", "2026-01-02T01:00:00+01:00", True),
    ("eq", at("2026-01-02T00:00:00+00:00"), True),
    ("gt", "2026-01-02T00:30:00+01:00", True),
    ("lt", "2026-01-01T23:30:00-01:00", True),
    ("ne", "2026-01-02T00:00:00.000Z", False),
    ("in", ["2026-01-02T00:00:00Z", "2027-01-02T00:00:00Z"], True),
    ("between", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"], True),
    ("starts_with", "2026-01-02T", True),
    ("regex", "^2026", True),
]


@pytest.mark.parametrize(("op", "value", "wanted"), TIMES)
def test_times_are_compared_as_the_moments_they_name(op: Any, value: Any, wanted: bool) -> None:
    """K-D5."""
    written = "2026-01-02T00:00:00Z"
    for field in ("time", "recordedtime", "expirytime"):
        assert check(Condition(field, op, value), new(**{field: written})) is wanted
    if isinstance(value, datetime):
        assert check(Condition("anything", op, value), new(anything=written)) is wanted
        assert check(Condition("data.at", op, value), new(data={"at": written})) is wanted
        assert check(Condition("data.at", op, value), new(data={"at": "soon"})) is False


def test_a_time_that_names_no_moment_is_equal_to_none() -> None:
    for text in ("0000-01-01T00:00:00Z", "soon"):
        event = read(recordedtime=text)
        assert not check(Condition("recordedtime", "lt", "2026-01-01T00:00:00Z"), event)
        assert check(Condition("recordedtime", "ne", "2026-01-01T00:00:00Z"), event)


class Kind(StrEnum):
    ORDER = "order"


def test_a_value_may_be_a_member_of_an_enumeration_of_text() -> None:
    assert check(Condition("x", "eq", Kind.ORDER), new(x="order"))
    assert check(Condition("x", "in", {Kind.ORDER}), new(x="order"))


VALUES = st.one_of(
    st.integers(-12, 12),
    st.sampled_from(["", "5", "10", "-3", "true", "false", "ten", "05", "1.5", "é"]),
    st.booleans(),
)
WANTED = st.one_of(VALUES, st.floats(-12, 12, width=16))
ORDERED = st.one_of(st.integers(-12, 12), st.sampled_from(["", "5", "true"]))
PARTS = st.sampled_from(["", "1", "e", "tr", "é"])


@st.composite
def conditions(draw: st.DrawFn, fields: tuple[str, ...], extra: Any = None) -> Condition:
    op: Any = draw(st.sampled_from(OPERATORS))
    wanted = WANTED if extra is None else st.one_of(WANTED, extra)
    missing = {"missing": draw(st.booleans())}
    field = draw(st.sampled_from(fields))
    match op:
        case "exists" | "not_exists":
            return Condition(field, op)
        case "eq" | "ne":
            value: Any = draw(wanted)
        case "gt" | "gte" | "lt" | "lte":
            value = draw(ORDERED)
        case "in" | "not_in":
            value = draw(st.lists(wanted, min_size=1, max_size=3))
        case "between":
            value = sorted(draw(st.tuples(st.integers(-9, 9), st.integers(-9, 9))))
        case "regex":
            value = draw(st.sampled_from(["^1", "e$", "[0-9]+", "^$", "é"]))
        case _:
            value = draw(PARTS)
    return Condition(field, op, value, **missing)


@given(conditions(("x", "y")), st.dictionaries(st.sampled_from("xy"), VALUES))
def test_a_condition_says_the_same_of_an_event_in_every_mode(condition: Condition, extensions: dict[str, Any]) -> None:
    """K-D5: binary mode writes every attribute as text."""
    written = {
        name: "true" if value is True else "false" if value is False else str(value)
        for name, value in extensions.items()
    }
    said = check(condition, new(**extensions))
    assert said is check(condition, new(**written))
    assert said is holds(condition, new(**extensions))


JSON = st.one_of(VALUES, st.none(), st.floats(-12, 12, width=16), st.lists(VALUES, max_size=3))


@given(
    conditions(("data.x", "data.y.z", "data.l[0]", "data.l.1"), st.none()),
    st.fixed_dictionaries(
        {}, optional={"x": JSON, "y": st.one_of(JSON, st.fixed_dictionaries({"z": JSON})), "l": JSON}
    ),
)
def test_a_condition_on_data_says_what_a_plain_reading_of_the_documentation_says(
    condition: Condition, data: dict[str, Any]
) -> None:
    """K-D5."""
    event = new(data=data)
    assert check(condition, event) is holds(condition, event)


GROUPS: list[tuple[Any, bool]] = [
    ([], True),
    (Condition("x", "eq", 1), True),
    ({"field": "x", "op": "eq", "value": 1}, True),
    ([{"field": "x", "op": "eq", "value": 1}, Condition("x", "eq", 2)], False),
    ({"any": [Condition("x", "eq", 2), {"field": "x", "op": "gt", "value": 0}]}, True),
    ({"any": [Condition("x", "eq", 2)]}, False),
    ({"any": [Condition("x", "eq", 2), Condition("x", "eq", 3)]}, False),
    ({"all": [Condition("x", "exists"), Condition("x", "lt", 5), Condition("x", "gt", 0)]}, True),
    ({"all": [Condition("x", "exists"), Condition("x", "gt", 5), Condition("x", "gt", 0)]}, False),
    ([{"any": [{"all": [Condition("x", "eq", 2), Condition("x", "eq", 1)]}, Condition("x", "eq", 1)]}], True),
]


@pytest.mark.parametrize(("when", "wanted"), GROUPS)
def test_conditions_are_joined_by_all_and_any(when: Any, wanted: bool) -> None:
    nodes = read_when(when)
    assert read_when(nodes) == nodes
    test = compile_all(nodes)
    assert (test is None or test(new(x=1), [])) is wanted


def test_data_that_cannot_be_read_is_an_error_each_time_and_is_read_once() -> None:
    test = compile_condition(Condition("data.a", "eq", 1))
    broken = new(data=b"{", datacontenttype="application/json")
    memo: list[Any] = []
    errors = []
    for _ in range(3):
        with pytest.raises(DataError) as caught:
            test(broken, memo)
        errors.append(caught.value)
    assert memo == [errors[0]]
    assert {id(error) for error in errors} == {id(errors[0])}


WRONG: list[tuple[tuple[Any, ...], str]] = [
    (("x", "eqq", 1), "op: 'eqq' is no operator (did you mean 'eq'?)"),
    (("x", "matches", "a"), "op: 'matches' is no operator (one of eq, ne,"),
    (("x", 5, 1), "op: '5' is no operator"),
    (("Subject", "eq", "a"), "did you mean 'subject'?"),
    (("a.b", "eq", "a"), "field: 'a.b' leads into the attribute 'a'"),
    (("", "eq", "a"), "field: "),
    ((5, "eq", "a"), "field: must be text, not int"),
    (("data..a", "eq", "a"), "field: 'data..a' cannot be read from character 5"),
    (("data" + ".a" * 300, "eq", "a"), "field: is longer than 500 characters"),
    (("data" + ".a" * 33, "eq", "a"), "field: has more than 32 steps"),
    (("x", "eq"), "value: is required"),
    (("x", "exists", 1), "value: says nothing beside exists"),
    (("x", "eq", None), "value: an attribute is never null (use exists or not_exists)"),
    (("x", "ne", None), "value: an attribute is never null"),
    (("x", "in", [1, None]), "value[1]: an attribute is never null"),
    (("x", "eq", [1]), "value: must be a single value (use in or not_in"),
    (("x", "eq", {}), "value: cannot be of type dict"),
    (("x", "eq", b"a"), "value: cannot be of type bytes"),
    (("x", "eq", float("nan")), "value: must be finite"),
    (("x", "eq", "a" * 10_001), "value: is longer than 10000 characters"),
    (("x", "gt", datetime(2026, 1, 1)), "value: must carry an offset"),  # noqa: DTZ001
    (("time", "gt", "yesterday"), "value: must be a time of RFC 3339 (for example"),
    (("time", "gt", 5), "value: must be a time of RFC 3339"),
    (("time", "gt", "0000-01-01T00:00:00Z"), "value: lies outside what datetime can hold"),
    (("x", "gt", True), "value: must be a number, text or a time"),
    (("data.x", "lte", None), "value: must be a number, text or a time"),
    (("x", "in", "ab"), "value: must be a list, not str"),
    (("x", "in", []), "value: must have 1 to 1000 members, not 0"),
    (("x", "not_in", [0] * 1001), "value: must have 1 to 1000 members, not 1001"),
    (("x", "between", [1]), "value: must have 2 members, not 1"),
    (("x", "between", [2, 1]), "value: must have the lowest first"),
    (("x", "between", [1, "2"]), "value: must have two members of one kind"),
    (("x", "between", [True, True]), "value: must be a number, text or a time"),
    (("x", "contains", 5), "value: must be text, not int"),
    (("data.x", "contains", []), "value: must be a single value"),
    (("x", "starts_with", 5), "value: must be text, not int"),
    (("x", "ends_with", None), "value: must be text, not NoneType"),
    (("x", "regex", "("), "value: is no regular expression: missing ): ( (RE2 syntax"),
    (("x", "regex", r"(a)\1"), "value: is no regular expression: invalid escape sequence"),
    (("x", "regex", "(?=a)"), "value: is no regular expression"),
    (("x", "regex", "\ud800"), "value: is not Unicode text"),
    (("x", "regex", "a" * 1001), "value: a pattern has at most 1000 characters"),
    (("x", "regex", "(.{0,50}){20}x"), "value: is a pattern that takes too much"),
    (("x", "regex", r"\pL{1,900}"), "value: is no regular expression: pattern too large"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=range(len(WRONG)))
def test_a_condition_that_cannot_work_is_refused_when_it_is_made(arguments: tuple[Any, ...], message: str) -> None:
    """K-D5: a bad pattern and an unknown operator too."""
    with pytest.raises(RuleError) as caught:
        Condition(*arguments)
    assert message in str(caught.value)


def test_missing_is_a_flag_and_says_nothing_beside_exists() -> None:
    with pytest.raises(RuleError, match=r"missing: must be true or false, not int"):
        Condition("x", "eq", 1, missing=1)  # type: ignore[arg-type]
    with pytest.raises(RuleError, match=r"missing: says nothing beside not_exists"):
        Condition("x", "not_exists", missing=True)


def nested(depth: int) -> Any:
    return {"any": [nested(depth - 1)]} if depth else {"field": "x", "op": "exists"}


WRONG_GROUPS: list[tuple[Any, str]] = [
    ("x eq 1", "when: must be a list of conditions, not str"),
    (5, "when: must be a list of conditions, not int"),
    ([5], "when[0]: must be a condition, not int"),
    ([{"field": "x", "op": "eq", "vlaue": 1}], "when[0].vlaue: is not known here (did you mean 'value'?)"),
    ([{"op": "eq", "value": 1}], "when[0].field: is required"),
    ([{"any": [], "all": []}], "when[0].any: is not known here"),
    ([{"any": []}], "when[0].any: must have at least one condition"),
    ([{"all": [{"field": "x", "op": "eqq"}]}], "when[0].all[0].op: 'eqq' is no operator"),
    ({"field": "x", "op": "in", "value": [[]]}, "when.value[0]: must be a single value"),
    (nested(8), f"when{'.any[0]' * 7}.any: is nested more than 8 deep"),
    ([nested(0)] * 201, "when: has more than 200 conditions"),
    ([{"any": [nested(0)] * 150}, {"any": [nested(0)] * 150}], "when: has more than 200 conditions"),
]


def test_a_list_may_hold_values_of_every_kind() -> None:
    test = compile_condition(Condition("data.x", "in", [True, None, 1, "a"]))
    found: list[Any] = [True, False, None, 1, 1.0, 0, "a", "b", []]
    assert [test(new(data={"x": value}), []) for value in found] == [
        True,
        False,
        True,
        True,
        True,
        *[False, True],
        *[False] * 2,
    ]


def test_a_group_is_joined_by_all_or_any() -> None:
    with pytest.raises(RuleError, match=r"^join: must be 'all' or 'any', not 'none'"):
        Group("none", (Condition("x", "exists"),))  # type: ignore[arg-type]


def test_conditions_that_hold_one_another_are_counted_while_they_are_read() -> None:
    many: Any = [nested(0)] * 100
    for _ in range(7):
        many = [{"any": many}] * 100
    with pytest.raises(RuleError, match=r"^when: has more than 200 conditions"):
        read_when(many)


@pytest.mark.parametrize(("when", "message"), WRONG_GROUPS, ids=range(len(WRONG_GROUPS)))
def test_an_error_in_a_group_tells_the_place(when: Any, message: str) -> None:
    with pytest.raises(RuleError) as caught:
        read_when(when)
    assert message in str(caught.value)


def test_conditions_may_be_nested_to_the_limit() -> None:
    test = compile_all(read_when([nested(7)]))
    assert test is not None
    assert test(new(x=1), [])


HOSTILE = ["(x+x+)+y", "(a|aa)+$", "(.*a){20}", "(?:a?){60}a{60}", "(.{0,50}){10}x", "[ab].{400}$"]


@pytest.mark.parametrize("pattern", HOSTILE)
def test_no_pattern_and_text_take_long(pattern: str) -> None:
    condition = compile_condition(Condition("data", "regex", pattern))
    for text in ("a" * 1_000_000, "ab" * 1_500, "xxxxxxxxxxxxx" * 5_000):
        event = new(data=text)
        event.data  # noqa: B018 - reading it is not what takes long
        began = perf_counter()
        with suppress(ValueError):  # the text is too long for this pattern
            condition(event, [])
        assert perf_counter() - began < 0.5


def test_text_that_is_too_long_for_a_pattern_is_an_error_and_not_a_silent_no() -> None:
    condition = compile_condition(Condition("data", "regex", "a.{400}b"))
    with pytest.raises(ValueError, match="longer than this pattern may search"):
        condition(new(data="a" * 100_000), [])
    assert not condition(new(data={}), [])
    assert not condition(new(data="a"), [])
