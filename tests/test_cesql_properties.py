"""CloudEvents SQL at random: what the compiled closures say is what a simple interpreter says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloudevents_kit import Event, cesql
from tests.support.cesql import Tree, evaluate, like
from tests.support.cesql_trees import events, strings, trees, written
from tests.support.events import new


@given(data=st.data(), tree=trees(), attributes=events())
@settings(max_examples=200)
def test_the_compiled_expression_says_what_the_interpreter_says(
    data: st.DataObject, tree: Tree, attributes: dict[str, Any]
) -> None:
    """CQ-03."""
    text = data.draw(written(tree))
    expected, kinds = evaluate(tree, attributes)
    event = Event(**{"time": None, **attributes})
    before = dict(event.attributes)
    expression = cesql.parse(text)
    value, errors = expression.evaluate(event)
    assert ([error.kind for error in errors], value, type(value)) == (kinds, expected, type(expected))
    assert expression.matches(event) is (expected is True and not kinds)
    assert all(0 <= error.position < len(text) for error in errors)
    assert dict(event.attributes) == before


TOKENS = st.sampled_from(
    [
        "(",
        ")",
        ",",
        "NOT",
        "and",
        "LIKE",
        "IN",
        "EXISTS",
        "-",
        "+",
        "=",
        "<>",
        "!",
        "'a'",
        '"',
        "\\",
        "1",
        "a",
        "f(",
        " ",
    ]
)


@given(st.one_of(st.text(), st.lists(TOKENS).map("".join), st.lists(TOKENS).map(" ".join)))
@example("\ud800")
@example("'\udfff'")
@example("\x00")
@settings(max_examples=200)
def test_no_text_raises_anything_but_a_parse_error(text: str) -> None:
    """CQ-23."""
    try:
        expression = cesql.parse(text)
    except cesql.ParseError as error:
        refused = error
    else:
        value, errors = expression.evaluate(new())
        assert isinstance(value, str | int)
        assert len(errors) <= 1
        return
    assert refused.kind == "parse"
    assert 0 <= refused.position <= len(text)
    assert str(refused).encode()
    assert str(refused).replace("\n", "").isprintable()


PIECES = st.lists(st.sampled_from(["a", "b", "%a", "%b", "%_", "a%", "b%"]), min_size=1, max_size=4)
PATTERNS = st.one_of(strings("ab%_"), PIECES.map("".join).map(lambda text: (text, f"'{text}'")))


@given(text=st.one_of(st.text("ab", min_size=1, max_size=5), st.text("ab%_\\", min_size=1)), pattern=PATTERNS)
@example("ab", ("%b%b", "'%b%b'"))
@settings(max_examples=300)
def test_like_says_what_a_recursive_matcher_says(text: str, pattern: tuple[str, str]) -> None:
    """CQ-17."""
    said, literal = pattern
    value, _ = cesql.parse(f"subject LIKE {literal}").evaluate(new(subject=text))
    assert value is like(text, said)


NUMBERS = st.one_of(st.integers(-20, 20), st.integers(-(2**31) + 1, 2**31 - 1))


@given(one=NUMBERS, other=NUMBERS.filter(bool))
def test_division_cuts_and_the_remainder_has_the_sign_of_the_dividend(one: int, other: int) -> None:
    """CQ-08."""
    quotient, _ = cesql.parse(f"{one} / {other}").evaluate(new())
    remainder, _ = cesql.parse(f"{one} % {other}").evaluate(new())
    assert int(quotient) * other + int(remainder) == one
    assert abs(int(remainder)) < abs(other)
    assert int(remainder) * one >= 0


@pytest.mark.parametrize("size", [1, 20, 40, 80])
@given(data=st.data())
@settings(max_examples=30)
def test_long_parts_with_wildcards_are_found_as_short_ones_are(data: st.DataObject, size: int) -> None:
    """CQ-17."""
    part = data.draw(st.text("ab_", min_size=size, max_size=size))
    inside = "".join(data.draw(st.sampled_from("ab")) if char == "_" else char for char in part)
    text = data.draw(st.text("ab", max_size=60)) + inside + data.draw(st.text("ab", max_size=60))
    pattern = f"%{part}%"
    assert cesql.parse(f"subject LIKE '{pattern}'").matches(new(subject=text))
    other = data.draw(st.text("ab", min_size=1, max_size=150))
    fits = any(
        all(want in ("_", char) for want, char in zip(part, other[at:], strict=False))
        for at in range(len(other) - size + 1)
    )
    assert cesql.parse(f"subject LIKE '{pattern}'").matches(new(subject=other)) is fits
