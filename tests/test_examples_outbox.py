"""The example of the outbox does what it says."""

from tests.support.programs import run

PRINTED = """\
1. The shop saves orders; nobody needs to listen yet
     order 2 is rolled back, and so is its event: too expensive
     waiting: 3
2. The relay sends what is there, and keeps what is refused for good apart
     not delivered: order-3: an order costs something
     sent: 2, dead letters: 1
     billed: order-1, order-4
"""


async def test_the_example_saves_and_sends_each_order() -> None:
    code, printed = await run("examples/outbox.py")
    assert printed == PRINTED
    assert code == 0
