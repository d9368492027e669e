"""Section 12 of the checklist, its first row: every case of the public conformance kit of CloudEvents SQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cloudevents_kit import cesql
from tests.support.events import new

#: The kit wants an Integer not to be a Boolean here, against section 3.7 of the specification and its own BOOL(100).
CONTRADICTS_THE_SPECIFICATION = "NOT 10"


class Case(NamedTuple):
    """One expression, and what it must come to."""

    name: str
    expression: str
    value: Any
    """... if the kit does not say."""
    kind: str
    attributes: dict[str, Any]


def _cases() -> Iterator[Case]:
    theme, count = "", 0
    for line in Path(__file__).with_name("cesql_cases.txt").read_text("utf-8").splitlines():
        if line.startswith("# "):
            theme, count = line[2:], 0
        elif line:
            count += 1
            expression, value, kind, attributes = [*line.split(" | "), "", "", ""][:4]
            yield Case(
                f"{theme} {count}",
                expression,
                json.loads(value) if value else ...,
                kind.strip(),
                json.loads(attributes or "{}"),
            )


CASES = list(_cases())


def outcome(case: Case) -> tuple[Any, list[str]]:
    try:
        value, errors = cesql.parse(case.expression).evaluate(new(**case.attributes))
    except cesql.ParseError as error:
        return ..., [error.kind]
    return value, [error.kind for error in errors]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_of_the_conformance_kit_comes_out_as_it_says(case: Case) -> None:
    """CQ-01, decision 0.6."""
    value, kinds = outcome(case)
    if case.expression == CONTRADICTS_THE_SPECIFICATION:
        assert (value, kinds) == (False, [])
        return
    assert kinds == ([case.kind] if case.kind else [])
    if case.value is not ... and case.kind != "parse":
        assert value == case.value
        assert type(value) is type(case.value)


def test_the_whole_kit_is_here() -> None:
    """CQ-01."""
    assert len(CASES) == 275
    assert [case.expression for case in CASES].count(CONTRADICTS_THE_SPECIFICATION) == 1
    kinds = {case.kind for case in CASES}
    assert kinds == {"", "parse", "math", "cast", "missingAttribute", "missingFunction", "functionEvaluation"}
