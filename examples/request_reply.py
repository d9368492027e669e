"""Ask by event and get the answer by event, at once or later.

    uv run python examples/request_reply.py

Directly, the answer comes back in the HTTP answer. Correlated, the shop takes the question now and sends its answer
later, as an event of its own, to the receiver of the one who asked.
"""

import asyncio

from cloudevents_kit import ACCEPTED, Ack, Event, Outcome, Receiver, Result, Router, Sender, Sink
from cloudevents_kit.request_reply import Requests


def question(item: str) -> Event:
    return Event(type="com.example.price.asked", source="/customer", data={"item": item})


def tell(result: Result) -> None:
    match result:
        case Ack(reply=Event(type=kind, data=data)):
            print(f"  {kind}: {data}")
        case Ack(reply_error=error):
            print(f"  the question arrived, but: {error}")
        case _:
            print(f"  the question was not taken: {result}")


async def direct() -> None:
    """Let the shop's handler return its answer."""

    async def shop(event: Event) -> Event:
        return event.reply(type="com.example.price.told", source="/shop", data={**event.data, "price": 12.5})

    async with Receiver(shop, port=0) as receiver, Sender(receiver.url) as sender:
        tell(await sender.request(question("lamp")))


async def correlated() -> None:
    """Let the shop take two questions, think, and answer the last one first."""
    questions: asyncio.Queue[Event] = asyncio.Queue()

    async def shop(event: Event) -> Outcome:
        await questions.put(event)  # in memory, for the example: a real shop stores it before it says so
        return ACCEPTED

    async def think(customer: Sink) -> None:
        waiting = [await questions.get(), await questions.get()]
        for event in reversed(waiting):
            price = {**event.data, "price": 10.0 * len(event.data["item"])}
            await customer.send(event.reply(type="com.example.price.told", source="/shop", data=price))

    async with Receiver(shop, port=0) as shop_receiver, Sender(shop_receiver.url) as to_shop:
        requests = Requests(to_shop, timeout=5)
        # A stage in front of the customer's own handlers: it keeps the answers that somebody waits for.
        async with Receiver(Router(), requests, port=0) as own_receiver, Sender(own_receiver.url) as to_customer:
            lamp, chair, _ = await asyncio.gather(
                requests.request(question("lamp")),
                requests.request(question("chair")),
                think(to_customer),
            )
    tell(lamp)
    tell(chair)


async def main() -> None:
    print("The answer comes at once:")
    await direct()
    print("The answers come later:")
    await correlated()


if __name__ == "__main__":
    asyncio.run(main())
