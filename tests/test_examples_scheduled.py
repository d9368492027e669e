"""The example of events for later does what it says."""

from tests.support.programs import run

PRINTED = """\
1. Stored: 3 reminders for later, 0 to be sent now
2. After a restart, order 2 is paid
     its reminder is cancelled: True
     and a second time: False
3. After another restart, the others are sent when they are due
     reminded: order-1
     reminded: order-3
"""


async def test_the_example_sends_each_reminder_when_it_is_due_unless_it_was_cancelled() -> None:
    """K-D11."""
    code, printed = await run("examples/scheduled.py")
    assert printed == PRINTED
    assert code == 0
