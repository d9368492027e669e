"""The example of publish and subscribe tells of every subscriber, and of what nobody waited for."""

from __future__ import annotations

from tests.support.programs import run

PRINTED = """\
Two of three are enough, and nobody waits longer than 5 seconds:
  search service: indexed 1
  mail: order 1 confirmed
  search: ack
  mail: ack
  stock: nack
  in all: ack
The warehouse gets retries, and then dead letters:
  search service: indexed 2
  mail: order 2 confirmed
  search: ack
  mail: ack
  stock: nack
  in all: ack
  dead letters: ['2: stock: nack 500: the handler failed']
Statistics come later, and the publisher does not wait for them:
  subscribers: search, mail, statistics
  queued for search, mail, statistics
  mail: order 3 confirmed
  search service: indexed 3
  statistics: counted 3
  not sent when it was closed: 0
"""


async def test_pubsub_shows_what_became_of_each_event() -> None:
    code, printed = await run("examples/pubsub.py")
    assert printed == PRINTED
    assert code == 0
