"""The example of the audit log does what it says."""

from tests.support.programs import run

PRINTED = """\
1. Payments come; one of them twice
     payment-1: 204, handled: 1
     payment-2: 422, handled: 1
     payment-3: 500, handled: 1
     payment-1: 204, handled: 2
2. After a restart, the log has all of them, in their order, each once
     1: payment-1 {'total': 12.5} at UTC time
     2: payment-2 {'total': -1.0} at UTC time
     3: payment-3 {'total': 99.0} at UTC time
3. It takes no changes
     UPDATE: append only
     DELETE: append only
4. Without the log nothing is handled: the sender is to come again
     payment-1: 500, handled: 0
5. What a stricter rule would have said to them
     payment-1: 422
     payment-2: 422
"""


async def test_the_example_keeps_whatever_came() -> None:
    code, printed = await run("examples/audit_log.py")
    assert printed == PRINTED
    assert code == 0
