"""Which events pass: subscription filters and CloudEvents SQL, on a handful of events.

uv run python examples/filters.py
"""

from cloudevents_kit import Event, cesql, filters

EVENTS = {
    "new order": Event(type="com.example.order.created", source="/shop/berlin", priority="high", total=120),
    "small order": Event(type="com.example.order.created", source="/shop/paris", total=3),
    "test order": Event(type="com.example.order.created", source="/test", priority="high", total=999),
    "cancelled": Event(type="com.example.order.cancelled", source="/shop/berlin"),
    "stock": Event(type="com.example.stock.counted", source="/warehouse", total=12),
}

# As a subscription has them: an array all of which must pass, here from Python and from JSON.
BY_FILTER = {
    "orders, but no tests": filters.all_of(
        filters.prefix(type="com.example.order."),
        filters.not_(filters.exact(source="/test")),
    ),
    "shops or warehouses": filters.from_json(
        [{"any": [{"prefix": {"source": "/shop/"}}, {"exact": {"source": "/warehouse"}}]}]
    ),
    "everything": filters.from_json([]),
}

# Functions of your own stand beside the built-in ones.
functions = cesql.Functions()
functions.register("CITY", lambda source: source.rpartition("/")[2], arguments=[str], returns=str)

BY_SQL = [
    "type LIKE '%.created' AND priority = 'high'",
    "EXISTS total AND total > 100 AND source <> '/test'",
    "source LIKE '/shop/%' AND UPPER(CITY(source)) IN ('BERLIN', 'ROME')",
    "total * 2 < 10",
]


def main() -> None:
    for name, accepts in BY_FILTER.items():
        print(f"{name}: {', '.join(each for each in EVENTS if accepts(EVENTS[each]))}")

    for text in BY_SQL:
        expression = cesql.parse(text, functions=functions)
        print(f"\n{text}\n  {', '.join(each for each in EVENTS if expression.matches(EVENTS[each]))}")

    # Why did the cancelled order not match the last one? An expression says what went wrong.
    value, errors = cesql.parse(BY_SQL[-1]).evaluate(EVENTS["cancelled"])
    print(f"  cancelled: {value}, {errors[0]}")

    try:
        cesql.parse("type = 'com.example.order.created' AND priority == 'high'")
    except cesql.ParseError as error:
        print(f"\n{error}")


if __name__ == "__main__":
    main()
