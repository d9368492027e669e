"""The ways into CloudEvents SQL: parsing and its errors, expressions as values, functions of one's own."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest
from cloudevents.core.v1.event import CloudEvent

from cloudevents_kit import CloudEventsError, Event, cesql
from tests.support.events import new
from tests.support.expressions import refused, said

# Parsing.


def test_an_error_shows_the_place_and_says_what_was_expected() -> None:
    first, shown, caret = str(refused("type = 'a' AND x LIKE 12")).splitlines()
    assert first == "expected a pattern between quotes, found '12' at position 22"
    assert shown == "  type = 'a' AND x LIKE 12"
    assert caret == " " * shown.index("12") + "^"


def test_an_error_shows_a_part_of_a_long_text_on_one_line() -> None:
    error = refused("type = 'a'\n\tAND " * 20 + "; AND type = 'a'" * 20)
    shown, caret = str(error).splitlines()[1:]
    assert shown.strip(" …").startswith("type = 'a'  AND") or "AND" in shown
    assert shown[caret.index("^")] == ";"
    assert len(shown) < 130


def test_an_error_is_one_of_ours_and_a_value_error() -> None:
    error = refused("1 +")
    assert isinstance(error, CloudEventsError)
    assert isinstance(error, ValueError)
    assert (error.kind, error.position, error.rule) == ("parse", 3, "expected a value, found the end")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.position, again.hint) == (str(error), error.position, error.hint)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a == b", "equality is written with one ="),
        ("a && b", "use AND"),
        ("a || b", "use OR, or the function CONCAT"),
        ("!a", "NOT negates, != compares"),
        ("a IS NULL", "presence is tested with EXISTS"),
        ("my_key = 1", "the names of attributes have no underscore"),
        ("md5(1)", "it has letters and underscores, and begins with a letter"),
        ("in = 1", "IN is a keyword, never the name of an attribute"),
        ("exists = 1", "EXISTS is a keyword, never the name of an attribute"),
        ("'it''s'", "a quote inside a string is written with a backslash before it"),
        ("data.id = 1", "numbers have no fraction, and data cannot be addressed"),
        ("9999999999", "write larger numbers between quotes"),
        ("'a", "it ends with another '"),
        ("1 +", ""),
    ],
)
def test_usual_mistakes_are_told_how_to_do_it(text: str, hint: str) -> None:
    assert refused(text).hint == hint


def test_what_was_found_is_shown_and_cut() -> None:
    assert refused("1 " + "x" * 50).rule == f"expected an operator or the end, found '{'x' * 20}…'"


@pytest.mark.parametrize(
    ("arguments", "options"), [((b"1",), {}), ((None,), {}), (("1",), {"functions": {}}), (("1",), {"max_length": "9"})]
)
def test_arguments_of_the_wrong_type_are_told(arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        cesql.parse(*arguments, **options)


# Evaluation.


def test_an_error_of_evaluation_says_kind_message_and_place() -> None:
    (error,) = cesql.parse("1 + missing").evaluate(new())[1]
    assert error == cesql.EvaluationError(kind="missingAttribute", message="the event has no missing", position=4)
    assert str(error) == "missingAttribute: the event has no missing (position 4)"
    (error,) = cesql.parse("1 + 'a' * 2").evaluate(new())[1]
    assert (error.kind, error.position) == ("cast", 8)


def test_no_error_holds_a_value_of_the_event() -> None:
    for text in ("subject + 1", "-subject", "NOT subject", "INT(subject)", "LEFT(subject, -1)", "1 IN (subject)"):
        (error,) = cesql.parse(text).evaluate(new(subject="hunter2"))[1]
        assert "hunter2" not in str(error)


def test_events_of_the_official_sdk_are_taken() -> None:
    theirs = CloudEvent({"id": "1", "source": "/s", "type": "t", "specversion": "1.0", "n": 5}, None)
    expression: Any = cesql.parse("n = 5 AND type = 't'")
    assert expression.matches(theirs)
    assert expression.evaluate(theirs) == (True, ())
    with pytest.raises(TypeError):
        expression.matches({"type": "t"})


# Expressions as values.


def test_an_expression_and_functions_have_these_members() -> None:
    members = {kind: {name for name in dir(kind) if name[0] != "_"} for kind in (cesql.Expression, cesql.Functions)}
    assert members == {cesql.Expression: {"evaluate", "matches", "text"}, cesql.Functions: {"find", "register"}}


def test_an_expression_has_its_text_and_is_compared_by_it() -> None:
    one, same, other = cesql.parse("type = 't'"), cesql.parse("type = 't'"), cesql.parse("type  = 't'")
    assert one.text == "type = 't'"
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != "type = 't'"
    assert one != cesql.parse("type = 't'", functions=cesql.Functions())
    assert repr(one) == "Expression(\"type = 't'\")"
    assert repr(cesql.parse("'" + "a" * 100 + "'")) == f'Expression("\'{"a" * 59}…")'


def test_an_expression_can_be_copied_and_sent_to_another_process() -> None:
    functions = cesql.Functions()
    functions.register("DOUBLED", doubled, arguments=[str], returns=str)
    for expression in (cesql.parse("type = 't'"), cesql.parse("DOUBLED('t') = 'tt'", functions=functions)):
        for again in (copy.deepcopy(expression), pickle.loads(pickle.dumps(expression))):
            assert again.text == expression.text
            assert again.matches(new())


def doubled(text: str) -> str:
    return text * 2


def test_nothing_of_asyncio_is_imported() -> None:
    program = "import cloudevents_kit.cesql, sys; assert not {'asyncio', 'aiohttp'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# Functions.


def with_function(function: Any, *arguments: type, returns: Any = int, **more: Any) -> cesql.Functions:
    functions = cesql.Functions()
    functions.register("My_F", function, arguments=arguments, returns=returns, **more)
    return functions


def test_a_function_gets_what_its_arguments_are_cast_to() -> None:
    given: list[Any] = []

    def note(*values: Any) -> bool:
        given.extend(values)
        return True

    functions = with_function(note, str, int, bool, object, rest=int, returns=bool)
    event = new(n=5)
    expression = cesql.parse("my_f(n, '7', 1, n, TRUE, '3')", functions=functions)
    assert expression.matches(event)
    assert given == ["5", 7, True, 5, 1, 3]
    assert list(map(type, given)) == [str, int, bool, int, int, int]
    assert cesql.parse("MY_F(1, 'x', 1, 1)", functions=functions).evaluate(event)[1][0].kind == "cast"


def test_a_function_is_called_once_for_each_event_and_not_before() -> None:
    calls: list[int] = []

    def count() -> int:
        calls.append(1)
        return len(calls)

    functions = with_function(count)
    expression = cesql.parse("MY_F() = 1 OR MY_F() = 1", functions=functions)
    assert calls == []
    assert expression.matches(new())
    assert expression.evaluate(new()) == (False, ())
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("function", "returns", "zero", "message"),
    [
        (lambda: 1 / 0, int, 0, "MY_F raised ZeroDivisionError"),
        (lambda: None, str, "", "MY_F returned NoneType, not str"),
        (lambda: True, int, 0, "MY_F returned bool, not int"),
        (lambda: 1, bool, False, "MY_F returned int, not bool"),
        (lambda: 2**31, int, 0, "MY_F returned an Integer over 32 bits"),
        (lambda _: "", str, "", "MY_F raised TypeError"),
    ],
)
def test_a_function_that_breaks_its_word_is_a_zero_and_an_error(
    function: Any, returns: type, zero: Any, message: str
) -> None:
    value, errors = cesql.parse("MY_F()", functions=with_function(function, returns=returns)).evaluate(new())
    assert (value, type(value)) == (zero, type(zero))
    assert errors == (cesql.EvaluationError(kind="functionEvaluation", message=message, position=0),)


def test_an_expression_keeps_the_functions_that_it_was_parsed_with() -> None:
    functions = cesql.Functions()
    before = cesql.parse("MY_F()", functions=functions)
    functions.register("MY_F", lambda: 1, returns=int)
    assert before.evaluate(new())[1][0].kind == "missingFunction"
    assert cesql.parse("MY_F()", functions=functions).evaluate(new()) == (1, ())
    assert said("MY_F()") == (False, "missingFunction")


@pytest.mark.parametrize("name", ["", "_F", "F1", "Ä", "A-B", "not", "TRUE", "a b"])
def test_a_name_that_no_expression_could_call_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^name: must be letters and underscores and no keyword"):
        cesql.Functions().register(name, len, arguments=[str], returns=int)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("MY_F", {"arguments": [str]}),
        ("my_f", {"arguments": [int]}),
        ("MY_F", {"arguments": [], "rest": str}),
        ("MY_F", {"arguments": [str, str, str]}),
        ("MY_F", {"arguments": [str] * 4}),
        ("MY_F", {"arguments": [str] * 4, "rest": str}),
        ("CONCAT", {"arguments": [str] * 9}),
        ("LEFT", {"arguments": [str, int]}),
        ("LEFT", {"arguments": [str], "rest": str}),
    ],
)
def test_a_function_that_could_be_taken_for_another_is_refused(name: str, options: dict[str, Any]) -> None:
    """CQ-19."""
    functions = with_function(len, str)
    functions.register("MY_F", max, arguments=[str, str, str], rest=str, returns=str)
    with pytest.raises(ValueError, match=rf"{name.upper()} "):
        functions.register(name, len, returns=int, **options)
    functions.register("MY_F", max, arguments=[str, str], returns=str)
    functions.register("LEFT", len, arguments=[str], returns=int)
    assert cesql.parse("LEFT('abc') + LENGTH(LEFT('abc', 2))", functions=functions).evaluate(new()) == (5, ())


async def later(text: str) -> int:
    return 1


@pytest.mark.parametrize(
    ("name", "function", "options"),
    [
        (1, len, {"returns": int}),
        ("F", "len", {"returns": int}),
        ("F", str, {"returns": str}),
        ("F", later, {"returns": int}),
        ("F", len, {"returns": float}),
        ("F", len, {"returns": object}),
        ("F", len, {"returns": int, "arguments": [float]}),
        ("F", len, {"returns": int, "arguments": "s"}),
        ("F", len, {"returns": int, "rest": list}),
    ],
)
def test_a_registration_of_wrong_types_is_refused(name: Any, function: Any, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        cesql.Functions().register(name, function, **options)


def test_an_event_of_a_subclass_is_taken() -> None:
    class Special(Event):
        __slots__ = ()

    assert cesql.parse("type = 't'").matches(Special(type="t", source="/s"))


@pytest.mark.parametrize(
    ("text", "value"),
    [("n + 1 + n", 11), ("n + 1 + nothing", 0), ("n + nothing + 1", 0), ("nothing + n + 1", 0), ("n + 1 + n / 0", 0)],
)
def test_many_operators_of_one_level_end_at_the_first_error(text: str, value: int) -> None:
    found, errors = cesql.parse(text).evaluate(new(n=5))
    assert found == value
    assert [error.kind for error in errors] == ([] if value else ["math" if "/" in text else "missingAttribute"])
