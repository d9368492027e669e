"""A receiver inside a FastAPI application, beside its ordinary routes.

    uv run uvicorn --app-dir examples fastapi_app:app --port 8080

Events go to http://localhost:8080/events/ (with the slash at the end: a sender follows no redirect).
"""

from fastapi import FastAPI
from pydantic import BaseModel, PositiveInt

from cloudevents_kit import Event, Router
from cloudevents_kit.asgi import asgi_app


class Order(BaseModel):
    """What the data of an order must look like; data that does not fit is answered 422."""

    number: PositiveInt
    items: list[str]


orders: dict[int, Order] = {}
router = Router()


@router.on("com.example.order.created")
async def created(event: Event, order: Order) -> Event:
    orders[order.number] = order
    return event.reply(type="com.example.order.accepted", source="/shop", data={"number": order.number})


app = FastAPI()
app.mount("/events", asgi_app(router))


@app.get("/orders/{number}")
async def show(number: int) -> Order | None:
    return orders.get(number)
