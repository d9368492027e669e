"""Section 12 of the checklist, continued: LIKE, functions, the words of an expression, and its use as a filter."""

from __future__ import annotations

from typing import Any

import pytest

from cloudevents_kit import Event, cesql
from tests.spec.wire import binary, structured
from tests.support.events import new
from tests.support.expressions import refused, said, same

FULL: dict[str, Any] = {"sequence": "10", "n": 5, "flag": True, "subject": "s", "time": "2018-04-26T14:48:09+02:00"}


@pytest.mark.parametrize(
    ("text", "pattern", "fits"),
    [
        ("abc", "a%", True),
        ("abc", "%c", True),
        ("abc", "%b%", True),
        ("abc", "a%c", True),
        ("ac", "a%c", True),
        ("a", "a%a", False),
        ("abc", "a_c", True),
        ("ac", "a_c", False),
        ("a\U0001f600c", "a_c", True),
        ("a%c", r"a\%c", True),
        ("abc", r"a\%c", False),
        ("a_c", r"a\_c", True),
        ("abc", r"a\_c", False),
        (r"a\bc", r"a\b%", True),
        (r"a\%", r"a\\%", True),
        ("abc", "ABC", False),
        ("a.c", "a.c", True),
        ("abc", "a.c", False),
        ("a[b]*", "%[b]*", True),
        ("abcabd", "%ab_", True),
        ("xaxbxcx", "%a%b%c%", True),
        ("xaxcxbx", "%a%b%c%", False),
        ("anything", "%", True),
        ("anything", "%%", True),
        ("abc", "", False),
    ],
)
def test_like_fits_the_whole_text(text: str, pattern: str, fits: bool) -> None:
    """CQ-17."""
    assert said(f"subject LIKE '{pattern}'", subject=text) == (fits, "")
    assert said(f"subject NOT LIKE '{pattern}'", subject=text) == (not fits, "")


def test_like_takes_new_lines_and_casts_what_is_no_string() -> None:
    """CQ-17."""
    assert said("'a\nb' LIKE 'a_b'") == (True, "")
    assert said("'a\n\nb' LIKE '%\n_b'") == (True, "")
    assert said("n LIKE '1_' AND flag LIKE 'tr%' AND 2344 LIKE '23%'", n=12, flag=True) == (True, "")


@pytest.mark.parametrize("text", ["subject LIKE 123", "subject LIKE id", "subject LIKE ('a')", "subject LIKE"])
def test_the_pattern_of_like_is_a_literal_string(text: str) -> None:
    """CQ-17."""
    assert refused(text).rule.startswith("expected a pattern between quotes")


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("LENGTH('😀')", (1, "")),
        ("LENGTH(12)", (2, "")),
        ("CONCAT()", ("", "")),
        ("CONCAT('a', 1, TRUE)", ("a1true", "")),
        ("CONCAT_WS('-')", ("", "")),
        ("CONCAT_WS('-', 'a', 2)", ("a-2", "")),
        ("LOWER('ÀB')", ("àb", "")),
        ("UPPER('àb')", ("ÀB", "")),
        ("LEFT('abc', 2)", ("ab", "")),
        ("LEFT('abc', -1)", ("abc", "functionEvaluation")),
        ("RIGHT('abc', 2)", ("bc", "")),
        ("RIGHT('abc', 0)", ("", "")),
        ("RIGHT('abc', 9)", ("abc", "")),
        ("RIGHT('abc', -1)", ("abc", "functionEvaluation")),
        ("SUBSTRING('abc', 2)", ("bc", "")),
        ("SUBSTRING('abc', -2)", ("bc", "")),
        ("SUBSTRING('abc', 0)", ("", "")),
        ("SUBSTRING('abc', 3, 1)", ("c", "")),
        ("SUBSTRING('abc', -3, 2)", ("ab", "")),
        ("SUBSTRING('abc', 4)", ("", "functionEvaluation")),
        ("SUBSTRING('abc', -4)", ("", "functionEvaluation")),
        ("SUBSTRING('abc', 1, -1)", ("", "functionEvaluation")),
        ("SUBSTRING('', 0)", ("", "")),
        ("ABS(-3)", (3, "")),
        ("INT('7') + INT(TRUE)", (8, "")),
        ("STRING(7)", ("7", "")),
        ("LENGTH(LEFT('abc', -1))", (0, "functionEvaluation")),
        ("UPPER(LEFT('abc', 'x'))", ("", "cast")),
        ("LEFT('abc', 'x')", ("", "cast")),
    ],
)
def test_the_functions_do_what_they_say(text: str, outcome: Any) -> None:
    """CQ-18."""
    assert same(said(text), outcome)


@pytest.mark.parametrize(
    "text", ["CONCAT_WS()", "ABS()", "NOPE(1)", "LEFT('a')", "SUBSTRING('a', 1, 1, 1)", "IS_INT(1)"]
)
def test_a_function_that_is_not_there_is_false_and_an_error(text: str) -> None:
    """CQ-19."""
    assert same(said(text), (False, "missingFunction"))
    assert same(said(f"1 + {text}"), (0, "missingFunction"))


def test_functions_of_ones_own_are_told_apart_by_arity() -> None:
    """CQ-19."""
    functions = cesql.Functions()
    functions.register("ABC", len, arguments=[str], returns=int)
    functions.register("ABC", lambda one, two: one + two, arguments=[str, str], returns=str)
    functions.register("ABC", lambda *all_: len(all_), arguments=[str] * 3, rest=str, returns=int)
    values = [
        cesql.parse(text, functions=functions).evaluate(new())[0]
        for text in ("abc(1234)", "Abc(1, 2)", "ABC(1, 2, 3)", "ABC(1, 2, 3, 4, 5)")
    ]
    assert values == [4, "12", 3, 5]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("tRuE aNd NoT fAlSe", True),
        ("'a' lIkE 'a' aNd ExIsTs ID", True),
        ("LeNgTh('a') iN (1)", True),
        ("'aBc'", "aBc"),
        ('"a\'b"', "a'b"),
        (r"'it\'s'", "it's"),
        (r'"a\"b"', 'a"b'),
        (r"'a\\c'", r"a\\c"),
        (r"'a\"c'", r"a\"c"),
        (r"'a\nc'", r"a\nc"),
    ],
)
def test_keywords_have_any_case_and_strings_keep_theirs(text: str, value: Any) -> None:
    """CQ-20."""
    assert same(said(text), (value, ""))


def test_a_quote_is_not_escaped_by_another_quote() -> None:
    """CQ-20."""
    error = refused("'it''s'")
    assert (error.position, error.hint) == (4, "a quote inside a string is written with a backslash before it")


@pytest.mark.parametrize("name", ["and", "or", "xor", "not", "like", "in", "exists"])
def test_an_attribute_named_as_a_keyword_cannot_be_addressed(name: str) -> None:
    """CQ-21."""
    event = new(**{name: "x"})
    assert event[name] == "x"
    assert "keyword" in refused(f"{name} = 'x'").hint
    refused(f"EXISTS {name}")


def test_names_may_begin_with_digits_but_digits_alone_are_a_number() -> None:
    """CQ-21."""
    event = structured({"1a": "x", "12": "y", "true": "z"})
    assert said("1a", event) == ("x", "")
    assert said("12", event) == (12, "")
    assert said("true", event) == (True, "")


def test_data_is_no_attribute() -> None:
    """CQ-21."""
    event = Event(type="t", source="/s", data={"a": 1})
    assert said("data = 'x'", event) == (False, "missingAttribute")
    assert said("EXISTS data", event) == (False, "")


def test_exists_is_true_for_what_is_there() -> None:
    """CQ-22."""
    event = structured({"subject": None, "other": "x"})
    assert said("EXISTS id AND EXISTS source AND EXISTS type AND EXISTS specversion", event) == (True, "")
    assert said("EXISTS subject OR EXISTS nope", event) == (False, "")
    assert said("EXISTS other", event) == (True, "")


@pytest.mark.parametrize("text", ["EXISTS SOURCE", "SOURCE = '/s'", "Other = 'x'", "exists OTHER"])
def test_the_case_of_a_name_does_not_matter(text: str) -> None:
    """decision 0.8."""
    assert said(text, other="x") == (True, "")


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("ABC(", 4), ("(1", 2), ("1)", 1), ("1 2", 2), ("", 0), (" ", 1), ("'open", 0), ("@", 0), ("id;DROP", 2),
        ("1 IN (1,)", 8), ("1 IN 1", 5), ("1 +", 3), ("* 1", 0), ("1 NOT 2", 6), ("EXISTS 1", 7), ("EXISTS (id)", 7),
        ("f(1", 3), ("f(,)", 2), ("f1(2)", 0), ("a_b", 0), ("_f()", 0), ("+ 5", 0), ("+a", 0), ("true(1)", 4),
        ("1 = = 1", 4), ("'a' 'b'", 4), ("NOT", 3), ("()", 1), ("1 !", 2), ("\x00", 0), ("a\x0b", 1), ("é = 1", 0),
    ],
)  # fmt: skip
def test_what_is_no_expression_is_refused_with_its_place(text: str, position: int) -> None:
    """CQ-23."""
    assert refused(text).position == position


@pytest.mark.parametrize(
    ("text", "value"), [("4-1", 3), ("4 -1", 3), ("4 - 1", 3), ("4--1", 5), ("4+1", 5), ("(4)-1", 3), ("n-1", 4)]
)
def test_a_sign_after_a_value_is_an_operator(text: str, value: int) -> None:
    """decision 0.9."""
    assert said(text, n=5) == (value, "")


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("type", False),
        ("1", False),
        ("flag", True),
        ("'true'", False),
        ("true OR missing", True),
        ("missing = 'x'", False),
        ("missing != 'x'", False),
        ("NOT (missing = 'x')", False),
        ("type = 't' AND subject = 's'", True),
        ("type = 't' AND subject = 'x'", False),
        ("type = 't' AND missing = 'x'", False),
        ("type = 'x' AND missing = 'x'", False),
        ("type = 'x' AND subject = 's' AND missing = 'x'", False),
        ("type = 't' AND subject = 's' AND n = 5", True),
        ("subject = 's' AND n = 5 AND type = 't'", True),
        ("missing = 'x' OR type = 't'", False),
        ("type = 'x' OR subject = 's'", True),
        ("BOOL(LEFT('true', -1))", False),
        ("BOOL('x')", False),
    ],
)
def test_an_event_passes_if_the_value_is_true_and_nothing_went_wrong(text: str, passes: bool) -> None:
    """CQ-24."""
    assert cesql.parse(text).matches(new(**FULL)) is passes


NESTED = ["(", "NOT ", "-", "1 IN (", "ABS(", "1 = 1 + 1 * (", "1 LIKE '1' = ("]
CHAINED = [" LIKE '1'", " NOT IN (1)"]


@pytest.mark.parametrize("count", [130, 10_000])
@pytest.mark.parametrize("piece", [*NESTED, *CHAINED])
def test_deep_nesting_is_refused(piece: str, count: int) -> None:
    """CQ-25."""
    text = ("1" if piece in CHAINED else "") + piece * count
    assert refused(text, max_length=2**20).rule in {"nested deeper than 100 levels", "more than 8192 words and signs"}


def test_nesting_that_is_not_too_deep_is_taken() -> None:
    """CQ-25."""
    assert said("(" * 99 + "1" + ")" * 99) == (1, "")
    assert said("NOT " * 99 + "flag", flag=True) == (False, "")


@pytest.mark.parametrize("char", [*"\t\n\v\f\r \x85\xa0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000"])
def test_trim_takes_white_space(char: str) -> None:
    """CQ-26."""
    assert said(f"TRIM('{char}a{char}b{char}')") == (f"a{char}b", "")


@pytest.mark.parametrize("char", [*"\x1c\x1d\x1e\x1f\x00\u200b\ufeff"])
def test_trim_takes_no_other_control_character(char: str) -> None:
    """CQ-26."""
    assert said(f"TRIM(' {char}a{char} ')") == (f"{char}a{char}", "")


@pytest.mark.parametrize("time", ["2018-04-26T14:48:09+02:00", "2018-04-26t12:48:09.1234567z"])
def test_a_time_is_the_text_that_came(time: str) -> None:
    """CQ-27."""
    for event in (structured(time=time), binary({"ce-time": time})):
        assert said("time", event) == (time, "")
        assert said(f"time = '{time}'", event) == (True, "")
