"""Whatever a client sends: the answer is 4xx, or the value is kept as it came. Never a 500.

The values are those at which types end: of Python, of JSON, of each database. First each of them in
each place, one at a time; then Hypothesis puts them together, with others of its own.
"""

import json
import sys
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends import Backend
from hostile_app import ItemIn, ItemOut
from hostile_client import Client, Request, calling

pytestmark = pytest.mark.backends("sqlite-file", "postgresql", "mysql")

INTS = [
    *(
        sign * 2**bits + near
        for bits in (31, 32, 63, 64)
        for sign in (1, -1)
        for near in (-1, 0, 1)
    ),
    0,
    -1,
    10**400,
    -(10**400),
]
TEXTS = [
    "",
    "\0",
    "a\0b",
    "\ud800",
    "\udfff",
    "\udc80",
    "\udcc3\udca9",  # MySQL's drivers take them for the bytes of é
    "\ud83d\ude00",  # two halves, which JSON puts together
    "\U0001f600",  # four bytes in UTF-8
    "\U0010ffff",
    "\u202e\u05d0\u05d1",  # from right to left
    "e\u0301",
    "\x1a\\'\"`;--%_\r\n",
    "%s %(a)s {a} :a ? $1",
    " a ",
    "x" * 51,
    "\U0001f600" * 50,
    "id; DROP TABLE hostile_items",
    "code DESC",
    "nope",
    "NaN",
    "null",
    "9" * 5000,  # more digits than Python reads
]
FLOATS = [
    float("nan"), float("inf"), float("-inf"), 5e-324, -5e-324, 1.7976931348623157e308, -0.0,
    0.1 + 0.2, 2.0**53 + 2, 1e400, 1e22, 1e-7,
]  # fmt: skip
DECIMALS = [
    "NaN", "sNaN", "-Infinity", "1e400", "-1e100000", "1e400000000", "1e-400000000", "1e-50", "-0",
    "0.005", "0.015", "1.005", "-0.005", "99999999.99", "99999999.994", "99999999.995",
    "-99999999.99", "1" * 60, "0." + "1" * 60, "1e7", "12345678.9",
]  # fmt: skip
MOMENTS = [
    "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "0001-01-01T00:00:00-23:59",
    "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999-23:59", "0001-01-01", "9999-12-31",
    "9999-12-31T23:59:59.999999+23:59", "2020-02-30", "2020-02-29T12:00:00.999999+01:00",
    "0000-00-00", "1000-01-01T00:00:00Z", "2038-01-19T03:14:08Z", "0001-01-01T00:00:00",
    "10000-01-01T00:00:00Z", "-1", "1e400", "99999999999999999999",
]  # fmt: skip
# MariaDB takes 31; around 255 is pydantic's limit, and near the last that Python's encoder has.
DEPTHS = [
    30, 31, 32, 100, 200, *range(246, 262),
    *range(sys.getrecursionlimit() - 200, sys.getrecursionlimit() + 600, 20), 100_000,
]  # fmt: skip


def each_in_each_place() -> Iterator[Request]:
    """List requests that are ordinary but for one value."""
    for number in INTS:
        yield Request("GET", "/items", {"limit": number})
        yield Request("GET", "/items", {"limit": 1, "offset": number})
        yield Request("GET", "/items/found", {"max_views": number})
        yield Request("GET", "/items/found", {"ids": [1, number]})
        yield Request("GET", "/items", last=number)
        yield Request("PATCH", "/items/1", {"by": number})
    for text in TEXTS:
        yield Request("GET", "/items", {"order_by": text})
        yield Request("GET", "/items/sorted", {"by": text})
        yield Request("GET", "/items/found", {"q": text, "limit": text})
        yield Request("GET", "/items/by-code", last=text)
        yield Request("GET", "/items", last=text)
        header = text.encode(errors="surrogatepass")
        yield Request("GET", "/items/found", code_header=header)
    for name, values in (
        ("max_weight", FLOATS),
        ("max_price", DECIMALS),
        ("due_before", MOMENTS),
        ("day", MOMENTS),
        ("token", TEXTS),
    ):
        for value in values:
            yield Request("GET", "/items/found", {name: value})
    yield Request("GET", "/items/found", {"q": ["a", "\0"], "ids": list(range(21)), "x": ["", ""]})
    yield Request("GET", "/items/found", {"q": "x" * 60_000})  # SQLite's limit is 50000


def bodies() -> Iterator[dict[str, Any]]:
    """List items that are ordinary but for one value, of the right type or of another."""
    for name, values in (
        ("code", TEXTS),
        ("note", TEXTS),
        ("stock", [*INTS, *FLOATS, True, "1"]),
        ("views", INTS),
        ("weight", [*FLOATS, *INTS]),
        ("price", [*DECIMALS, *FLOATS, 10**400]),
        ("due", [*MOMENTS, *INTS, *FLOATS]),
        ("day", [*MOMENTS, *INTS, *FLOATS]),
        ("token", [*TEXTS, "0" * 32, "f" * 32]),
        ("labels", [{text: text} for text in TEXTS]),
        ("labels", [{"number": number} for number in (*INTS, *FLOATS)]),
        ("labels", [{"nested": {"again": {}}}, {"": []}, [], None]),
        ("active", [*TEXTS, 2, None]),
        ("size", [*TEXTS, "large", None]),
    ):
        for place, value in enumerate(values):
            yield {"code": f"{name} {place} {type(value).__name__}", name: value}


def nested(depth: int) -> str:
    return '{"a":' + "[" * depth + "]" * depth + "}"


# --- What is kept -------------------------------------------------------------------------------


def as_kept(body: dict[str, Any], item_id: int, backend: Backend) -> Any:
    """Say what is to be read back: the same, but for what a database rounds."""
    # By way of JSON, which puts two halves of a character together.
    wanted = ItemIn.model_validate(json.loads(json.dumps(body))).model_dump()
    if backend.name == "mysql":
        for name in ("code", "note"):
            # Its drivers write half of a character as the byte that Python has it stand for.
            wanted[name] = wanted[name].encode(errors="surrogateescape").decode()
    return ItemOut(id=item_id, **wanted).model_dump(mode="json") | {
        "price": rounded(wanted["price"], backend)
    }


def rounded(price: Decimal, backend: Backend) -> Decimal:
    if backend.name == "sqlite":  # has floats only
        return Decimal(f"{float(price):.2f}")
    return price.quantize(Decimal("0.01"), ROUND_HALF_UP)


def create(client: Client, body: dict[str, Any], backend: Backend) -> None:
    """Send an item; if it is taken, it can be read, and is what was sent."""
    answer = client.send(Request("POST", "/items", body=body))
    if answer.status_code != 201:
        return
    item_id = answer.json()["id"]
    read = client.send(Request("GET", "/items", last=item_id))
    assert read.status_code == 200
    assert read.json() == answer.json()
    found = read.json() | {"price": Decimal(read.json()["price"])}
    assert found == as_kept(body, item_id, backend)


def keep(client: Client, payload: str) -> None:
    """Send an event, of which the app looks at nothing; if it is taken, it is there."""
    answer = client.send_raw("POST", "/events", payload)
    if answer.status_code == 201:
        kept = client.payload_of(answer.json()["id"])
        assert json.dumps(kept) == json.dumps(json.loads(payload))  # NaN equals nothing


# --- One value at a time ------------------------------------------------------------------------


def test_each_value_in_each_place(backend: Backend) -> None:
    """Where databases differ, the answers may, but none is a 500."""
    with calling(backend) as client:
        create(client, {"code": "first"}, backend)
        for body in bodies():
            create(client, body, backend)
            client.send(Request("PUT", "/items/1", body=body))
        for request in each_in_each_place():
            client.send(request)
        assert {200, 201, 404, 409, 422} <= set(client.statuses)


def test_payloads_that_nobody_looks_at(backend: Backend) -> None:
    """Numbers and texts that JSON has not, and what is nested too deeply for one or another."""
    with calling(backend) as client:
        for value in (*INTS, *TEXTS, *FLOATS):
            keep(client, json.dumps({"a": value, str(value): [value]}))
        for depth in DEPTHS:
            keep(client, nested(depth))
            labels = f'{{"code": "nested {depth}", "labels": {nested(depth)}}}'
            client.send_raw("POST", "/items", labels)
        for raw in (
            b"\xff",
            b"\xed\xa0\x80",
            b'{"a": "\xed\xa0\x80"}',
            b"",
            b"NaN",
            b'["\\ud800"]',
        ):
            client.send_raw("POST", "/events", raw)
            client.send_raw("POST", "/items", raw)
        assert {201, 400, 422} <= set(client.statuses)


def test_a_megabyte(backend: Backend) -> None:
    """Is kept, or is too long; what looks for it is answered, too."""
    long = "\U0001f600" * 250_000
    with calling(backend) as client:
        create(client, {"code": "long note", "note": long}, backend)
        create(client, {"code": long}, backend)
        create(client, {"code": "long label", "labels": {long: long}}, backend)
        keep(client, json.dumps({"a": long}))
        client.send(Request("GET", "/items/found", {"q": "x" * 60_000}))
        client.send(Request("GET", "/items/found", code_header=long.encode()))


# --- Many at once -------------------------------------------------------------------------------

ints = st.sampled_from(INTS) | st.integers()
texts = st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=()), max_size=60)
floats = st.sampled_from(FLOATS) | st.floats()
decimals = st.sampled_from(DECIMALS) | st.decimals(
    min_value=-(10**8), max_value=10**8, places=5
).map(str)
moments = st.sampled_from(MOMENTS) | st.datetimes(timezones=st.timezones()).map(
    lambda moment: moment.isoformat()
)
days = st.sampled_from(MOMENTS) | st.dates().map(str)
json_values = st.recursive(
    st.none() | st.booleans() | ints | floats | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
objects = st.dictionaries(texts, json_values, max_size=4)
anything = st.one_of(ints, texts, floats, decimals, moments)

items = st.fixed_dictionaries(
    {"code": st.uuids(version=4).map(str) | texts},
    optional={
        "note": texts,
        "stock": st.integers(-(2**31), 2**31 - 1) | ints,
        "views": st.integers(-(2**63), 2**63 - 1) | ints,
        "weight": floats,
        "price": decimals,
        "due": moments,
        "day": days,
        "token": st.uuids().map(str) | texts,
        "labels": objects,
        "active": st.booleans() | texts,
        "size": st.sampled_from(["small", "large", "medium", "\0"]),
    },
)
filters = st.fixed_dictionaries(
    {},
    optional={
        "q": texts,
        "max_views": ints | anything,
        "max_weight": floats | anything,
        "max_price": decimals | anything,
        "due_before": moments | anything,
        "day": days | anything,
        "token": st.uuids() | anything,
        "ids": st.lists(ints | anything, max_size=22),
    },
)
pages = st.fixed_dictionaries(
    {},
    optional={
        "limit": ints | anything,
        "offset": st.lists(ints | anything, min_size=1, max_size=3),
        "order_by": st.sampled_from(["id", "code", "due"]) | texts,
    },
)
requests = st.one_of(
    st.builds(Request, st.just("POST"), st.just("/items"), body=items),
    st.builds(Request, st.just("POST"), st.just("/items"), body=json_values),
    st.builds(Request, st.just("POST"), st.just("/events"), body=objects),
    st.builds(Request, st.just("PUT"), st.just("/items"), body=items, last=ints | st.just(1)),
    st.builds(
        Request,
        st.just("PATCH"),
        st.just("/items"),
        st.fixed_dictionaries({"by": ints}),
        last=st.just(1) | anything,
    ),
    st.builds(Request, st.just("GET"), st.just("/items"), pages),
    st.builds(
        Request,
        st.just("GET"),
        st.just("/items/found"),
        filters,
        code_header=st.none() | st.binary(max_size=60),
    ),
    st.builds(
        Request, st.just("GET"), st.just("/items/sorted"), st.fixed_dictionaries({"by": texts})
    ),
    st.builds(Request, st.just("GET"), st.just("/items/by-code"), last=texts),
    st.builds(Request, st.just("GET"), st.just("/items"), last=anything),
)


def test_many_at_once(backend: Backend) -> None:
    """The same requests in each run: a failure is there again when it is looked for."""
    with calling(backend) as client:
        create(client, {"code": "first"}, backend)

        @settings(
            max_examples=150,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        )
        @given(requests)
        def send(request: Request) -> None:
            if (request.method, request.path) == ("POST", "/events"):
                keep(client, json.dumps(request.body))
            elif request.method == "POST" and isinstance(request.body, dict):
                create(client, request.body, backend)
            else:
                client.send(request)

        send()
        assert {200, 201, 404, 422} <= set(client.statuses)
