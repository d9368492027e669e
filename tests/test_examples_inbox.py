"""The example of the inbox does what it says."""

from tests.support.programs import run

PRINTED = """\
1. Billing stores orders, answers, and ends in the middle of the first
     order-1: 202
     order-2: 202
     order-3: 202
2. The next start works on all of them
     billed: order-1
     not billed: order-2: nobody can pay that
     billed: order-3
"""


async def test_the_example_handles_after_a_restart_what_was_stored_before() -> None:
    code, printed = await run("examples/inbox.py")
    assert printed == PRINTED
    assert code == 0
