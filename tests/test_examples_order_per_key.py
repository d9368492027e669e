"""The example of order per key does what it says."""

from tests.support.programs import run

PRINTED = """\
1. The scanner fails for parcel 7: what follows waits for it, the other parcels do not
     parcel 7: created
     parcel 8: created, packed, shipped
     parcel 9: created, packed, shipped
2. After a restart, parcel 7 goes on where it was
     parcel 7: packed, shipped
"""


async def test_the_example_keeps_the_order_of_each_parcel_across_a_failure_and_a_restart() -> None:
    code, printed = await run("examples/order_per_key.py")
    assert printed == PRINTED
    assert code == 0
