"""The example of commands, queries and views does what it says."""

from tests.support.programs import run

PRINTED = """\
1. Commands
     place 1: {'position': 1}
     place 2: {'position': 2}
     another order 2: 422 order order-2 is placed
     cancel 1: {'position': 3}
     place 1 once more: {'position': 1}
2. A query that sees all of it
     orders of lamps: {'orders': 1}
"""


async def test_the_example_commands_and_asks() -> None:
    code, printed = await run("examples/cqrs.py")
    assert printed == PRINTED
    assert code == 0
