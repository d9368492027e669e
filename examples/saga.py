"""An order in three steps, of which the last one fails: what was done before is taken back.

    uv run python examples/saga.py

The shop runs a saga: it reserves stock itself, asks the bank by event and takes the answer from its reply, and sends
the shipper an event which is answered later, by an event of the shipper's own. The journal is a file: run the shop
again after a crash, and it goes on where it was.

At the end the same without a saga: the services react to each other's events, and nobody is in charge.
"""

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from cloudevents_kit import ACCEPTED, Event, Outcome, Receiver, Reject, RetryPolicy, Router, Sender
from cloudevents_kit.saga import Context, Saga, Step, ask, reacts
from cloudevents_kit.stages import deduplicate
from cloudevents_kit.stores import open_store

RETRY = RetryPolicy(attempts=3, initial=0.05, deadline=None)


async def bank(event: Event) -> Event:
    """Take money, or give it back, and say so in the reply."""
    print(f"  bank: {event.type.rpartition('.')[2]} {event.data['amount']}")
    return event.reply(type="com.example.payment.done", source="/bank", data={"receipt": event.data["order"]})


class Shipper:
    """Takes an order now, and tells later whether it can be shipped."""

    def __init__(self) -> None:
        self.orders: asyncio.Queue[Event] = asyncio.Queue()

    async def __call__(self, event: Event) -> Outcome:
        """Take an order."""
        await self.orders.put(event)  # in memory, for the example: a real shipper stores it before it says so
        return ACCEPTED

    async def work(self, shop: Sender) -> None:
        """Answer one order after the other."""
        while True:
            event = await self.orders.get()
            found = "shipped" if event.data["to"] == "Berlin" else "failed"
            print(f"  shipper: {found}, to {event.data['to']}")
            answer = event.reply(type=f"com.example.shipping.{found}", source="/shipper", data={"to": event.data["to"]})
            await shop.send(answer)


async def reserve(step: Context) -> int:
    print(f"  shop: reserves {step.event.data['item']}")
    return 1


async def release(step: Context) -> None:
    print(f"  shop: releases {step.event.data['item']}")


def payment(kind: str) -> Callable[[Context], Event]:
    """Make the event that asks the bank for money, or for giving it back."""

    def build(step: Context) -> Event:
        data = {"order": step.event.id, "amount": step.event.data["price"]}
        return step.make(type=f"com.example.payment.{kind}", source="/shop", data=data)

    return build


def shipping(step: Context) -> Event:
    return step.make(type="com.example.shipping.ask", source="/shop", data={"to": step.event.data["to"]})


def shipped(answer: Event) -> object:
    """Read the shipper's answer: a refusal means that nothing has left the house."""
    if answer.type == "com.example.shipping.failed":
        raise Reject("cannot be shipped")
    return answer.data


async def saga() -> None:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        store = await stack.enter_async_context(open_store(f"sqlite:///{Path(folder) / 'shop.db'}"))
        # The services tell copies by their ids, so that a step that is repeated after a crash is done once.
        shipper = Shipper()
        to_bank, to_shipper = [
            await stack.enter_async_context(
                Sender((await stack.enter_async_context(Receiver(service, deduplicate(), port=0))).url)
            )
            for service in (bank, shipper)
        ]
        order = Saga(
            "order",
            [
                Step("reserve", reserve, release),
                Step("pay", ask(to_bank, payment("charge")), ask(to_bank, payment("refund"))),
                Step("ship", ask(to_shipper, shipping, read=shipped, timeout=5)),
            ],
            journal=store.sagas,
            retry=RETRY,
            deadline=60,
            wait=True,  # the answer tells how it ended; without, it is 202 as soon as the journal has the order
        )
        router = Router()
        router.on("com.example.order.created")(order)
        router.on("com.example.shipping.*")(order.deliver)
        shop = await stack.enter_async_context(Receiver(router, port=0))
        customer = await stack.enter_async_context(Sender(shop.url))
        work = asyncio.create_task(shipper.work(customer))
        for title, town in (("An order to Berlin", "Berlin"), ("One to Atlantis", "Atlantis"), ("Again", "Atlantis")):
            print(f"{title}:")
            data = {"item": "lamp", "price": 12.5, "to": town}
            event = Event(type="com.example.order.created", source="/customer", id=town, data=data)
            result = await customer.send(event)
            report = await order.find(order.id_of(event))
            if report is not None:
                print(f"  {result.outcome}: {report.status}, taken back: {', '.join(report.compensated) or 'nothing'}")
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def choreography() -> None:
    """Hand what each service tells to whoever reacts to it, as a broker does."""

    def charge(event: Event) -> None:
        raise Reject("no money")

    async def give_up(event: Event) -> None:
        print(f"  the customer gets nothing: {event['correlationid']}")

    services = Router()
    services.on("com.example.stock.released")(give_up)
    for kind, react in (
        ("order.created", reacts(lambda _: {"shelf": 7}, source="/stock", done="com.example.stock.reserved")),
        (
            "stock.reserved",
            reacts(charge, source="/bank", done="com.example.payment.done", failed="com.example.payment.failed"),
        ),
        ("payment.failed", reacts(lambda _: None, source="/stock", done="com.example.stock.released")),
    ):
        services.on(f"com.example.{kind}")(react)
    async with Receiver(services, port=0) as there, Sender(there.url) as broker:
        event: Event | None = Event(type="com.example.order.created", source="/customer", correlationid="order 4")
        while event is not None:
            print(f"  {event['correlationid']}: {event.type} of {event.source}")
            event = (await broker.request(event)).raise_for_outcome().reply


async def main() -> None:
    await saga()
    print("Without a saga:")
    await choreography()


if __name__ == "__main__":
    asyncio.run(main())
