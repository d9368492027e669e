"""The example of the event log does what it says."""

from tests.support.programs import run

PRINTED = """\
1. The first program appends what it knows: version 1
     the same event once more: repeated=True, version 2
2. The second one goes on, and sees only version 2
     two withdrawals of 20.00 at once: no: there are 10.50; yes, as version 3
     1: Moved(cents=1050, why='unknown')
     2: Moved(cents=2000, why='unknown')
     3: Moved(cents=-2000, why='withdrawal')
3. The view has the same, also when it is made anew
     ann 10.50, bob 5.00; again: ann 10.50, bob 5.00
4. A replay hands the past to somebody new
     2 planned, 2 handed over: deposit, withdrawal
"""


async def test_the_example_appends_folds_projects_and_replays() -> None:
    code, printed = await run("examples/event_log.py")
    assert printed == PRINTED
    assert code == 0
