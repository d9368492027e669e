"""The specification table says what the tests say: no number is missing, unknown or claimed in vain."""

from __future__ import annotations

import pytest

from tests.spec.checklist import DECIDED, LATER, NUMBERS
from tests.spec.index import carried_elsewhere, carried_here
from tests.spec.table import TESTED

HERE = carried_here()
CARRIED = {**HERE, **carried_elsewhere()}


def test_every_number_is_tested_or_comes_later() -> None:
    assert sorted(NUMBERS - TESTED.keys() - LATER.keys()) == []
    assert sorted((TESTED.keys() | LATER.keys()) - NUMBERS) == []


def test_no_number_is_both_tested_and_left_for_later() -> None:
    assert sorted(TESTED.keys() & LATER.keys()) == []
    assert {node: numbers & LATER.keys() for node, numbers in CARRIED.items() if numbers & LATER.keys()} == {}


def test_no_test_carries_a_number_that_does_not_exist() -> None:
    assert {node: numbers - NUMBERS for node, numbers in CARRIED.items() if numbers - NUMBERS} == {}


def test_what_was_decided_is_tested() -> None:
    assert sorted(DECIDED.keys() - TESTED.keys()) == []


@pytest.mark.parametrize("number", TESTED)
def test_the_tests_in_the_table_exist_and_carry_its_number(number: str) -> None:
    listed = TESTED[number]
    assert listed
    assert len(set(listed)) == len(listed)
    assert [node for node in listed if number not in CARRIED.get(node, ())] == []
    assert sorted(node for node, numbers in HERE.items() if number in numbers and node not in listed) == []
