"""Section 12 of the checklist: CloudEvents SQL row by row, its types, errors and operators."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from cloudevents_kit import cesql
from tests.support.events import new
from tests.support.expressions import refused, said, same

FULL: dict[str, Any] = {"sequence": "10", "n": 5, "flag": True, "subject": "s", "time": "2018-04-26T14:48:09+02:00"}


def test_there_are_three_types() -> None:
    """CQ-02."""
    event = new(**FULL)
    assert [type(said(name, event)[0]) for name in ("n", "flag", "sequence", "time")] == [int, bool, str, str]
    assert said("2147483647") == (2147483647, "")


def test_evaluation_leaves_the_event_alone_and_says_the_same_again() -> None:
    """CQ-03."""
    event = new(**FULL)
    before = dict(event.attributes)
    expression = cesql.parse("CONCAT(subject, sequence + n) = 's15' AND NOT missing = 1")
    assert expression.evaluate(event) == expression.evaluate(event)
    assert dict(event.attributes) == before


def test_the_kinds_of_errors_have_their_names() -> None:
    """CQ-04."""
    kinds = get_args(cesql.Kind)
    found = [said(text)[1] for text in ("1/0", "'a' + 1", "missing", "NOPE()", "LEFT('a', -1)")]
    assert [refused("(").kind, *found, "generic"] == list(kinds)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("missing * 5", 0),
        ("1 / missing", 0),
        ("missing / 0", 0),
        ("missing != 2", False),
        ("2 = missing", False),
        ("missing < 2", False),
        ("NOT missing", False),
        ("-missing", 0),
        ("missing LIKE 'missing'", False),
        ("missing NOT LIKE 'x'", False),
        ("missing IN (1)", False),
        ("missing NOT IN (1)", False),
        ("1 IN (2, missing)", False),
        ("missing AND true", False),
        ("true XOR missing", False),
        ("LENGTH(missing)", 0),
        ("CONCAT('a', missing)", ""),
        ("BOOL(missing)", False),
        ("missing", False),
        ("(missing)", False),
        ("true AND (missing = '')", False),
    ],
)
def test_a_missing_attribute_is_an_error_and_a_zero_of_the_type(text: str, value: Any) -> None:
    """CQ-05, decision 0.10."""
    assert same(said(text), (value, "missingAttribute"))


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("false AND (1 != 1/0)", (False, "")),
        ("true OR missing", (True, "")),
        ("missing OR true", (False, "missingAttribute")),
        ("true AND (1 != 1/0)", (False, "math")),
        ("false OR (1 != 1/0)", (False, "math")),
        ("n = 9 AND missing", (False, "")),
        ("n = 5 OR missing", (True, "")),
        ("n = 5 OR missing OR missing", (True, "")),
        ("n = 9 AND missing AND missing", (False, "")),
        ("n = 5 OR missing AND n = 9", (False, "")),
        ("n = 5 AND missing OR true", (False, "missingAttribute")),
        ("true XOR true", (False, "")),
        ("0 OR 'TRUE'", (True, "")),
        ("1 AND 'x'", (False, "cast")),
    ],
)
def test_logic_stops_where_the_outcome_is_certain(text: str, outcome: Any) -> None:
    """CQ-06."""
    assert same(said(text, n=5), outcome)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("NOT id = 'zz'", "(NOT id) = 'zz'"),
        ("NOT type LIKE 'x%'", "(NOT type) LIKE 'x%'"),
        ("NOT flag LIKE 'fal%'", "(NOT flag) LIKE 'fal%'"),
        ("type NOT LIKE 'x%'", "(type NOT LIKE 'x%')"),
        ("-n LIKE '-5'", "(-n) LIKE '-5'"),
        ("n + n LIKE '5'", "n + (n LIKE '5')"),
        ("1 + n IN (5, 6)", "1 + (n IN (5, 6))"),
        ("n LIKE '5' IN (TRUE)", "(n LIKE '5') IN (TRUE)"),
        ("NOT EXISTS nope", "NOT (EXISTS nope)"),
        ("-NOT flag", "-(NOT flag)"),
        ("2 + 3 * 4 - 10 / 5 % 3", "(2 + (3 * 4)) - ((10 / 5) % 3)"),
        ("10 - 4 - 3", "(10 - 4) - 3"),
        ("1 + 2 = 3", "(1 + 2) = 3"),
        ("3 = 3 = TRUE", "(3 = 3) = TRUE"),
        ("n = 5 AND n < 6", "(n = 5) AND (n < 6)"),
        ("NOT ABS(n) = 5", "(NOT ABS(n)) = 5"),
    ],
)
def test_operators_bind_in_their_order(text: str, meant: str) -> None:
    """CQ-07."""
    event = new(n=5, flag=True)
    assert same(said(text, event), said(meant, event))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("FALSE AND FALSE OR TRUE", True),
        ("TRUE OR FALSE AND FALSE", False),
        ("TRUE XOR TRUE OR TRUE", True),
        ("TRUE OR TRUE XOR TRUE", False),
        ("FALSE AND (FALSE OR TRUE)", False),
    ],
)
def test_and_or_and_xor_are_one_level_from_left_to_right(text: str, value: bool) -> None:
    """CQ-07, decision 0.7."""
    assert said(text) == (value, "")


@pytest.mark.parametrize(
    ("text", "value"), [("-7 / 2", -3), ("-7 % 2", -1), ("7 % -2", 1), ("7 / -2", -3), ("-7 / -2", 3), ("6 % 3", 0)]
)
def test_division_is_cut_towards_zero(text: str, value: int) -> None:
    """CQ-08."""
    assert said(text) == (value, "")


@pytest.mark.parametrize("text", ["5 / 0", "5 % 0", "n / (n - n)", "0 % FALSE"])
def test_division_by_zero_is_zero_and_a_math_error(text: str) -> None:
    """CQ-09."""
    assert said(text, n=5) == (0, "math")


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("TRUE = 'TRUE'", (False, "")),
        ("TRUE = 'true'", (True, "")),
        ("'TRUE' = TRUE", (True, "")),
        ("sequence = 10", (True, "")),
        ("sequence <> 10", (False, "")),
        ("'1' = TRUE", (False, "cast")),
        ("'1' != TRUE", (False, "cast")),
        ("type = 10", (False, "cast")),
        ("type = n", (False, "cast")),
        ("10 = sequence", (True, "")),
        ("n = '5'", (True, "")),
        ("n != '5'", (False, "")),
        ("flag = 'true'", (True, "")),
        ("flag = 1", (True, "")),
        ("n = TRUE", (True, "")),
        ("id = sequence", (False, "")),
        ("type = 't'", (True, "")),
        ("type != 't'", (False, "")),
        ("subject = 's'", (True, "")),
        ("subject <> 's'", (False, "")),
    ],
)
def test_the_left_side_is_cast_to_the_type_of_the_right(text: str, outcome: Any) -> None:
    """CQ-10."""
    assert said(text, new(**FULL)) == outcome


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("'true' IN (TRUE)", (True, "")),
        ("'TRUE' IN (TRUE)", (False, "")),
        ("1 IN ('1')", (True, "")),
        ("1 IN (1, missing)", (True, "")),
        ("1 IN (missing, 1)", (False, "missingAttribute")),
        ("1 IN ('x', 1)", (False, "cast")),
        ("n NOT IN ('x')", (False, "cast")),
        ("n IN ('5', 6)", (True, "")),
        ("n NOT IN (6, '7')", (True, "")),
        ("type IN ('a', 't')", (True, "")),
        ("type NOT IN ('a', 't')", (False, "")),
        ("sequence IN (9, 10)", (True, "")),
        ("flag IN ('TRUE', 'x')", (True, "")),
        ("subject IN (id, subject)", (True, "")),
    ],
)
def test_elements_of_a_set_are_cast_to_the_type_of_the_left_side(text: str, outcome: Any) -> None:
    """CQ-11."""
    assert said(text, new(**FULL)) == outcome


def test_a_set_is_not_empty() -> None:
    """CQ-11."""
    assert refused("1 IN ()").position == 6


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("'10' < 9", (False, "")),
        ("'10' > '9'", (True, "")),
        ("'a' < 'b'", (False, "cast")),
        ("1 <= 'b'", (False, "cast")),
        ("TRUE >= 1", (True, "")),
        ("TRUE > FALSE", (True, "")),
    ],
)
def test_order_is_for_integers_alone(text: str, outcome: Any) -> None:
    """CQ-12."""
    assert said(text) == outcome


@pytest.mark.parametrize(
    "text",
    ["' 5'", "'5 '", "'1_000'", "'٣'", "'²'", "''", "'+'", "'--1'", "'1.0'", "'0x1'", "'2147483648'", "'-2147483649'",
     "'99999999999'", "'١٢٣٤٥٦٧٨٩٠'"],
)  # fmt: skip
def test_text_that_is_no_integer_is_zero_and_a_cast_error(text: str) -> None:
    """CQ-13."""
    assert said(f"INT({text})") == (0, "cast")
    assert said(f"{text} + 1") == (0, "cast")


@pytest.mark.parametrize(
    ("text", "number"),
    [("'+5'", 5), ("'-5'", -5), ("'007'", 7), ("'2147483647'", 2147483647), ("'-2147483648'", -2147483648),
     ("'00000000000000000000001'", 1), ("'-0'", 0)],
)  # fmt: skip
def test_text_that_is_an_integer_is_read(text: str, number: int) -> None:
    """CQ-13."""
    assert said(f"INT({text})") == (number, "")


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("BOOL('TruE')", (True, "")),
        ("BOOL('FALSE')", (False, "")),
        ("BOOL(' true')", (False, "cast")),
        ("BOOL('1')", (False, "cast")),
        ("NOT 'x'", (False, "cast")),
        ("BOOL(0)", (False, "")),
        ("BOOL(-3)", (True, "")),
        ("STRING(TRUE)", ("true", "")),
        ("STRING(FALSE)", ("false", "")),
        ("STRING(-007)", ("-7", "")),
        ("INT(TRUE)", (1, "")),
    ],
)
def test_booleans_are_cast(text: str, outcome: Any) -> None:
    """CQ-14."""
    assert same(said(text), outcome)


@pytest.mark.parametrize(("text", "value"), [("NOT 10", False), ("NOT 0", True)])
def test_an_integer_is_cast_to_a_boolean_by_not_as_anywhere_else(text: str, value: bool) -> None:
    """CQ-14, decision 0.6."""
    assert said(text) == (value, "")


@pytest.mark.parametrize("text", ["2147483648", "-2147483649", "+2147483648", "- 2147483648", "9" * 5000])
def test_a_literal_beyond_32_bits_is_refused(text: str) -> None:
    """CQ-15."""
    assert "32 bits" in refused(text).rule


def test_the_smallest_integer_is_a_literal_and_has_no_absolute_value() -> None:
    """CQ-15."""
    assert said("-2147483648") == (-2147483648, "")
    assert said("ABS(-2147483648)") == (2147483647, "math")


@pytest.mark.parametrize(
    "text",
    ["2147483647 + 1", "-2147483648 - 1", "65536 * 65536", "-2147483648 / -1", "--2147483648", "-(-2147483648)",
     "-n", "n - 1", "n * -1"],
)  # fmt: skip
def test_an_overflow_is_zero_and_a_math_error(text: str) -> None:
    """CQ-16."""
    assert said(text, n=-(2**31)) == (0, "math")
