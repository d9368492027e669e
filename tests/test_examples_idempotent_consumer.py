"""The example of the idempotent consumer does what it says, processes that die included."""

from tests.support.programs import run

PRINTED = """\
1. Nothing in front of the handler: the event comes three times
     charged: 3, told: 0
2. With deduplicate: three times, and twice more after a restart
     charged: 1, told: 0
3. With deduplicate, in a process that died after the handler's commit: the sender comes again
     charged: 2, told: 0
4. The same, but the handler notes in its own transaction what it has handled
     charged: 1, told: 1
5. The same with an inbox: the sender was answered before, and does not come again
     charged: 1, told: 1
"""


async def test_the_example_charges_as_often_as_it_says() -> None:
    code, printed = await run("examples/idempotent_consumer.py")
    assert printed == PRINTED
    assert code == 0
