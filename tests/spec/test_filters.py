"""Section 13 of the checklist: subscription filters, row by row. A manager of subscriptions is not there."""

from __future__ import annotations

import time
from typing import Any

import pytest

from cloudevents_kit import filters
from tests.spec.wire import structured
from tests.support.events import new

EVENT = {"type": "com.example.order.created", "source": "/orders", "subject": "s", "n": 5, "flag": True}


def passes(json: Any, **attributes: Any) -> bool:
    return filters.from_json(json)(new(**{**EVENT, **attributes}))


def refused(json: Any) -> filters.FilterError:
    with pytest.raises(filters.FilterError) as caught:
        filters.from_json(json)
    return caught.value


@pytest.mark.parametrize(
    ("json", "passed"),
    [
        ({"exact": {"type": "com.example.order.created"}}, True),
        ({"prefix": {"type": "com.example."}}, True),
        ({"suffix": {"type": ".created"}}, True),
        ({"all": [{"prefix": {"type": "com."}}, {"suffix": {"type": ".created"}}]}, True),
        ({"all": [{"prefix": {"type": "com."}}, {"suffix": {"type": ".deleted"}}]}, False),
        ({"any": [{"prefix": {"type": "org."}}, {"suffix": {"type": ".created"}}]}, True),
        ({"any": [{"prefix": {"type": "org."}}, {"suffix": {"type": ".deleted"}}]}, False),
        ({"any": [{"exact": {"type": "a"}}, {"exact": {"type": "com.example.order.created"}}]}, True),
        ({"any": [{"exact": {"nope": "a"}}, {"exact": {"nope": "b"}}]}, False),
        ({"not": {"exact": {"type": "a"}}}, True),
        ({"not": {"prefix": {"type": "com."}}}, False),
        ({"sql": "type LIKE 'com.%'"}, True),
    ],
)
def test_every_dialect_is_there(json: Any, passed: bool) -> None:
    """SF-01."""
    assert passes(json) is passed


@pytest.mark.parametrize("dialect", ["exakt", "Exact", "", "https://example.com/dialect", "\ud800", "x" * 1000])
def test_an_unknown_dialect_is_refused(dialect: str) -> None:
    """SF-01."""
    error = refused([{"exact": {"type": "t"}}, {dialect: {"type": "t"}}])
    assert (error.path, error.hint) == ("filters[1]", "exact, prefix, suffix, all, any, not, sql")
    assert "has an unknown dialect" in error.rule
    assert len(str(error)) < 200


@pytest.mark.parametrize(
    ("json", "passed"),
    [
        ([], True),
        ([{"exact": {"source": "/orders"}}, {"prefix": {"type": "com."}}], True),
        ([{"exact": {"source": "/orders"}}, {"prefix": {"type": "org."}}], False),
    ],
)
def test_all_filters_of_an_array_must_be_true(json: Any, passed: bool) -> None:
    """SF-02."""
    assert passes(json) is passed


@pytest.mark.parametrize(
    ("json", "passed"),
    [
        ({"exact": {"type": "com.example.order.created", "source": "/orders"}}, True),
        ({"exact": {"type": "com.example.order.created", "source": "/Orders"}}, False),
        ({"prefix": {"type": "COM."}}, False),
        ({"suffix": {"type": ".CREATED", "source": "orders"}}, False),
        ({"suffix": {"type": ".created", "source": "orders"}}, True),
    ],
)
def test_all_attributes_must_match_in_the_same_case(json: Any, passed: bool) -> None:
    """SF-03."""
    assert passes(json) is passed


@pytest.mark.parametrize("dialect", ["exact", "prefix", "suffix"])
@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"type": ""}, ".type"),
        ({"": "x"}, ".attribute"),
        ({}, ""),
        ({"id": "x", "type": ""}, ".type"),
        ([], ""),
        ("x", ""),
    ],
)
def test_names_and_values_are_not_empty(dialect: str, given: Any, path: str) -> None:
    """SF-03."""
    assert refused({dialect: given}).path == f"filter.{dialect}{path}"


@pytest.mark.parametrize("dialect", ["exact", "prefix", "suffix"])
def test_a_missing_attribute_matches_nothing(dialect: str) -> None:
    """SF-04."""
    assert not passes({dialect: {"nope": "x"}})
    assert passes({"not": {dialect: {"nope": "x"}}})
    event = structured({"subject": None})
    assert not filters.from_json({dialect: {"subject": "x"}})(event)


@pytest.mark.parametrize(
    ("json", "path"),
    [
        ({"all": []}, "filter.all"),
        ({"any": []}, "filter.any"),
        ({"all": {"exact": {"type": "t"}}}, "filter.all"),
        ({"any": [[]]}, "filter.any[0]"),
        ({"not": []}, "filter.not"),
        ({"not": [{"exact": {"type": "t"}}]}, "filter.not"),
        ({"not": {}}, "filter.not"),
        ([{"exact": {"type": "t"}}, {"all": [{"prefix": {}}]}], "filters[1].all[0].prefix"),
        ([{"not": {"any": [{"not": {"all": []}}]}}], "filters[0].not.any[0].not.all"),
    ],
)
def test_filters_within_filters_have_their_form(json: Any, path: str) -> None:
    """SF-05."""
    assert refused(json).path == path


@pytest.mark.parametrize(
    ("json", "path"),
    [
        ({}, "filter"),
        ({"exact": {"type": "t"}, "prefix": {"type": "t"}}, "filter"),
        ([None], "filters[0]"),
        ("exact", "filter"),
        (None, "filter"),
        ({"exact": {"type": 1}}, "filter.exact.type"),
        ({"exact": {"type": None}}, "filter.exact.type"),
        ({"exact": {"flag": True}}, "filter.exact.flag"),
        ({"exact": {"type": ["a", "b"]}}, "filter.exact.type"),
        ({"exact": {1: "t"}}, "filter.exact"),
        ({"exact": {"Type": "t"}}, "filter.exact.Type"),
        ({"exact": {"data": "t"}}, "filter.exact.data"),
        ({"exact": {"a\nb": "t"}}, "filter.exact.attribute"),
        ({1: {"type": "t"}}, "filter"),
    ],
)
def test_anything_else_is_refused(json: Any, path: str) -> None:
    """SF-06."""
    assert refused(json).path == path


@pytest.mark.parametrize(
    "json",
    [
        {"exact": {"flag": "true", "n": "5"}},
        {"prefix": {"flag": "tr", "n": "5"}},
        {"suffix": {"flag": "ue"}},
        {"any": [{"exact": {"n": "4"}}, {"exact": {"n": "5"}}]},
        {"exact": {"time": "2018-04-26T14:48:09+02:00"}},
        {"not": {"exact": {"time": "2018-04-26T12:48:09Z"}}},
        {"not": {"exact": {"flag": "True"}}},
        {"not": {"exact": {"n": "05"}}},
    ],
)
def test_a_value_is_compared_by_its_canonical_text(json: Any) -> None:
    """SF-07."""
    assert passes(json, time="2018-04-26T14:48:09+02:00")


@pytest.mark.parametrize(
    ("text", "passed"),
    [("n = 5", True), ("n = 6", False), ("type", False), ("n", False), ("missing != 'x'", False), ("'true'", False)],
)
def test_sql_passes_what_is_true_without_an_error(text: str, passed: bool) -> None:
    """SF-08."""
    assert passes({"sql": text}) is passed
    assert passes({"not": {"sql": text}}) is not passed


@pytest.mark.parametrize("given", ["type = ", "", "x" * 70_000, 5, None, {"expression": "true"}])
def test_what_is_no_sql_is_refused(given: Any) -> None:
    """SF-08."""
    assert refused([{"any": [{"sql": given}]}]).path == "filters[0].any[0].sql"


def nested(dialect: str, depth: int) -> Any:
    json: Any = {"exact": {"type": "t"}}
    for _ in range(depth):
        json = {dialect: json if dialect == "not" else [json]}
    return json


@pytest.mark.parametrize(
    "json",
    [
        nested("not", 100_000),
        nested("all", 10_000),
        nested("any", 32),
        [{"exact": {"type": "t"}}] * 5_000,
        {"all": [{"any": [{"exact": {"type": "t"}}] * 100}] * 100},
        {"exact": {f"a{number}": "x" for number in range(5_000)}},
        {"prefix": {"type": "x" * 65_537}},
        {"sql": "(" * 10_000},
    ],
    ids=range(8),
)
def test_what_is_too_large_is_refused_soon(json: Any) -> None:
    """SF-09."""
    began = time.process_time()
    refused(json)
    assert time.process_time() - began < 0.5


def test_what_is_not_too_large_is_taken() -> None:
    """SF-09."""
    assert filters.from_json(nested("not", 31))(new()) is False
    assert filters.from_json([{"all": [{"exact": {"type": "t"}}] * 4_095}])(new())
