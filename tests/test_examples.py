"""Each example does what it says: run as its users run it, warnings being errors, and judged by what it prints."""

import re
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from cloudevents_kit import Ack, Event, Nack, Sender
from tests.support.programs import Server, run, serving

QUICKSTART = r"""The receiver listens at (http://127\.0\.0\.1:[0-9]+/)

1\. An event is handled
     receiver: noted order 7, total 19\.50
  -> ack 204: it was handled

2\. A question is answered with an event
  -> ack 200, and the reply is com\.example\.price\.told \{'price': 12\.5\}

3\. The handler refuses
  -> nack 422: order 7 has left the house already \(final, not sent again\)

4\. The data does not fit the handler's type
  -> nack 422: data: does not fit the handler's type .*number.*

5\. The receiver fails at first: backoff, then its own Retry-After
     receiver: the printer is warming up
     receiver: the printer is out of paper
     receiver: printed the invoice
     sender: attempt 1 after a wait of 0\.0 s: 503
     sender: attempt 2 after a wait of 0\.2 s: 503
     sender: attempt 3 after a wait of 1\.0 s: 204
  -> ack 204: it was handled

6\. No answer in time
  -> undelivered, timeout: no answer in time \(it may have arrived\)
     receiver: counted the stock, too late for the sender

7\. Nobody listens any more
     sender: attempt 1 after a wait of 0\.0 s: refused
     sender: attempt 2 after a wait of 0\.2 s: refused
     sender: attempt 3 after a wait of 0\.4 s: refused
     sender: attempt 4 after a wait of 0\.8 s: refused
  -> undelivered, refused: .* \(it did not arrive\)
"""


async def test_the_quickstart_shows_every_outcome_and_ends_by_itself_in_ten_seconds() -> None:
    began = time.monotonic()
    code, printed = await run("examples/quickstart.py")
    assert time.monotonic() - began < 10
    assert re.fullmatch(QUICKSTART, printed), printed
    assert code == 0


@pytest.fixture
async def receiver() -> AsyncIterator[Server]:
    async with serving("examples/receive.py", "0") as server:
        yield server


async def test_the_sender_and_the_receiver_work_together(receiver: Server) -> None:
    code, printed = await run("examples/send.py", receiver.url + "/")
    assert printed.splitlines() == [
        "com.example.order.created: acknowledged with 204",
        "com.example.order.created: refused with 422, an order has at least one item",
        "com.example.price.asked: answered, {'price': 12.5}",
    ]
    assert code == 0

    assert await receiver.stop() == 0
    refused = "id=... source='/orders' type='com.example.order.created'"
    lines = [re.sub(r"id='\w+'", "id=...", line) for line in receiver.printed.splitlines()]
    assert lines == [
        f"receiving at {receiver.url}/",
        "order 1 from /orders: lamp, chair",
        f"event refused by its handler: {refused}: 422 an order has at least one item",
        "/orders asks for the price of a lamp",
        "stopping on SIGTERM",
        "receiver stopped, 0 requests cut off",
    ]


async def test_the_receiver_refuses_what_it_does_not_know(receiver: Server) -> None:
    async with Sender(receiver.url) as sender:
        unknown_item = await sender.request(
            Event(type="com.example.price.asked", source="/test", data={"item": "unicorn"})
        )
        unknown_type = await sender.send(Event(type="com.example.unheard.of", source="/test"))
    assert unknown_item == Nack(
        status=422, reason="no such item", attempts=unknown_item.attempts, elapsed=unknown_item.elapsed
    )
    assert unknown_type.is_nack
    assert await receiver.stop() == 0


async def test_the_sender_says_that_nobody_listens() -> None:
    async with serving("examples/receive.py", "0") as server:
        await server.stop()
    code, printed = await run("examples/send.py", server.url + "/")
    lines = printed.splitlines()
    assert len(lines) == 3
    assert all("no answer after 3 attempts" in line and "may have arrived: False" in line for line in lines)
    assert code == 1


async def test_request_reply_shows_both_forms() -> None:
    code, printed = await run("examples/request_reply.py")
    assert printed.splitlines() == [
        "The answer comes at once:",
        "  com.example.price.told: {'item': 'lamp', 'price': 12.5}",
        "The answers come later:",
        "  com.example.price.told: {'item': 'lamp', 'price': 40.0}",
        "  com.example.price.told: {'item': 'chair', 'price': 50.0}",
    ]
    assert code == 0


async def test_the_fastapi_application_takes_events_beside_its_routes() -> None:
    command = ("-m", "uvicorn", "--app-dir", "examples", "fastapi_app:app", "--port", "0")
    order = Event(type="com.example.order.created", source="/test", data={"number": 7, "items": ["lamp"]})
    async with serving(*command, strict=False) as server:
        async with Sender(f"{server.url}/events/") as sender, aiohttp.ClientSession() as session:
            taken = await sender.request(order, strict=True)
            refused = await sender.send(order.evolve(data={"number": -7, "items": ["lamp"]}))
            async with session.get(f"{server.url}/orders/7") as answer:
                shown = await answer.json()
        await server.stop()
    assert "Application shutdown complete" in server.printed
    assert isinstance(taken, Ack)
    assert taken.reply is not None
    assert (taken.reply.type, taken.reply.data) == ("com.example.order.accepted", {"number": 7})
    assert isinstance(refused, Nack)
    assert refused.status == 422
    assert "number" in refused.reason
    assert shown == {"number": 7, "items": ["lamp"]}
