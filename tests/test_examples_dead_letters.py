"""The example of dead letters does what it says."""

from tests.support.programs import run

PRINTED = """\
1. Orders fail: each is acknowledged, because it is stored
     order-1: ack
     order-2: ack
     order-3: ack
2. Nobody listens: the sender's caller is told that, and that the event is kept
     invoice-1: undelivered, dead-lettered: True
3. What there is, and why
     order-1 for orders: 500, 3 attempts
     order-2 for orders: 500, 3 attempts
     order-3 for orders: 422, 1 attempts
     invoice-1 for http://127.0.0.1:9/invoices?token=***: refused, 3 attempts
     forwarded, order-3 would say {'knativeerrordest': 'orders', 'knativeerrorcode': 422, \
'knativeerrordata': 'YW4gb3JkZXIgY29zdHMgc29tZXRoaW5n'}
4. A dry run changes nothing
     order-1: would be sent
     order-2: would be sent
     order-3: would be sent
     dry run: 3 dead letters would be sent again, 0 are quarantined
5. The database is back: what is acknowledged is removed, what fails is quarantined in the end
     saved order-1
     order-1: ack
     saved order-2
     order-2: ack
     order-3: nack
     2 delivered, 1 failed, 0 quarantined
     order-3: nack
     0 delivered, 1 failed, 1 quarantined
6. The rest is thrown away
     2 letters
"""


async def test_the_example_shows_the_way_there_and_back() -> None:
    code, printed = await run("examples/dead_letters.py")
    assert printed == PRINTED
    assert code == 0
