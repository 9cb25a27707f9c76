"""An app as a careful user writes one, for clients who send whatever they like.

Most values go to the database as they came: it is the database that refuses them. What the app
looks at itself is what no answer could hold, or what databases take and cannot give back; each
says why.
"""

import enum
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
)
from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Date,
    DateTime,
    Double,
    Enum,
    Numeric,
    String,
    Text,
    select,
)
from sqlalchemy.dialects.mysql import DATETIME
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from fastdb import Database, ReadSessionDep, SessionDep, install_error_handlers
from fastdb.handlers import error_responses


class Size(enum.Enum):
    """A value of a few."""

    SMALL = "small"
    LARGE = "large"


class Base(DeclarativeBase):
    """The tables of this app."""


class Item(Base):
    """A row with a column of each type."""

    __tablename__ = "hostile_items"
    # SQLite turns an integer that has grown too large into a float, which the answer cannot hold.
    __table_args__ = (CheckConstraint("stock BETWEEN -2147483648 AND 2147483647"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(String(50), unique=True)
    note: Mapped[str] = mapped_column(Text)
    stock: Mapped[int]
    views: Mapped[int] = mapped_column(BigInteger)
    weight: Mapped[float] = mapped_column(Double)
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    due: Mapped[datetime] = mapped_column(DateTime().with_variant(DATETIME(fsp=6), "mysql"))
    day: Mapped[date] = mapped_column(Date)
    token: Mapped[UUID]
    labels: Mapped[dict[str, Any]] = mapped_column(JSON)
    active: Mapped[bool]
    size: Mapped[Size] = mapped_column(Enum(Size, length=20))


class Event(Base):
    """What somebody else's server has sent, kept as it came."""

    __tablename__ = "hostile_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)


# --- What the app looks at itself ---------------------------------------------------------------


def in_utc(moment: datetime) -> datetime:
    """Turn it into UTC here: PostgreSQL keeps years that psycopg cannot read, MySQL no zones."""
    try:
        return moment.astimezone(UTC).replace(tzinfo=None)
    except OverflowError:
        raise ValueError("not within the years 1 to 9999") from None


def as_json(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse what Python takes for JSON and no answer may hold: NaN, half of a character."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def finite_or_text(number: float) -> float | str:
    """Write NaN and infinity as strings: JSON has no numbers for them."""
    return number if abs(number) < float("inf") else str(number)


Moment = Annotated[datetime, PlainSerializer(lambda moment: f"{moment.isoformat()}Z")]


# SQLite would keep any number; what has more than two places is rounded, by each database. MySQL's
# drivers write numbers out: 1e-400000000 has as many digits.
Price = Annotated[
    Decimal, Field(max_digits=100, ge=Decimal("-99999999.99"), le=Decimal("99999999.99"))
]


class ItemIn(BaseModel):
    """What clients send."""

    code: str
    note: str = ""
    stock: int = 0
    views: int = 0
    weight: float = 0
    price: Price = Decimal(0)
    due: Annotated[AwareDatetime, AfterValidator(in_utc)] = datetime(2020, 1, 1)  # noqa: DTZ001
    day: date = date(2020, 1, 1)
    token: UUID = UUID(int=0)
    labels: Annotated[dict[str, JsonValue], AfterValidator(as_json)] = {}
    active: bool = True
    size: Size = Size.SMALL


class ItemOut(BaseModel):
    """What clients get."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    code: str
    note: str
    stock: int
    views: int
    weight: Annotated[float, PlainSerializer(finite_or_text)]
    price: Decimal
    due: Moment
    day: date
    token: UUID
    labels: dict[str, Any]
    active: bool
    size: Size


class EventOut(BaseModel):
    """The number under which an event is kept."""

    id: int


async def tell_what_was_wrong(_request: Request, error: Exception) -> Response:
    """Leave out the value: FastAPI's own answer repeats it, which fails for NaN and surrogates."""
    assert isinstance(error, RequestValidationError)
    told = [{name: each[name] for name in ("type", "loc", "msg")} for each in error.errors()]
    return Response(json.dumps({"detail": told}), 422, media_type="application/json")


# --- Endpoints ----------------------------------------------------------------------------------


def responses() -> dict[int | str, dict[str, Any]]:
    """Tell of the answers of both: of fastdb's handlers, and of FastAPI and this app."""
    told = error_responses(409, 422, 503, 504)
    one = {"type": "object", "required": ["detail"], "properties": {"detail": {"type": "string"}}}
    many = {"type": "object", "required": ["detail"], "properties": {"detail": {"type": "array"}}}
    told[422]["content"]["application/json"] = {"schema": many}
    for status, meaning in ((400, "The body cannot be read."), (404, "There is none.")):
        told[status] = {"description": meaning, "content": {"application/json": {"schema": one}}}
    return told


router = APIRouter(responses=responses())
SORTABLE = {name: Item.__table__.columns[name] for name in ("id", "code", "stock", "due")}


@router.post("/items", status_code=201, response_model=ItemOut)
async def create(session: SessionDep, wanted: ItemIn) -> Item:
    """Take an item."""
    item = Item(**wanted.model_dump())
    session.add(item)
    await session.flush()
    await session.refresh(item)  # as the database has rounded it
    return item


@router.get("/items", response_model=list[ItemOut])
async def list_items(
    session: ReadSessionDep, limit: int = 10, offset: int = 0, order_by: str = "id"
) -> list[Item]:
    """List a page of them; what is sorted by is looked up, never put into SQL."""
    if order_by not in SORTABLE:
        raise HTTPException(422, [{"type": "enum", "loc": ["query", "order_by"], "msg": "unknown"}])
    page = select(Item).order_by(SORTABLE[order_by], Item.id).limit(limit).offset(offset)
    return list(await session.scalars(page))


@router.get("/items/sorted", response_model=list[ItemOut])
async def sort_items(session: ReadSessionDep, by: str = "id") -> list[Item]:
    """Leave it to SQLAlchemy, which knows the names of columns, and takes nothing else."""
    return list(await session.scalars(select(Item).order_by(by).limit(3)))


@router.get("/items/found", response_model=list[ItemOut])
async def find_items(
    session: ReadSessionDep,
    q: str = "",
    max_views: int | None = None,
    max_weight: float | None = None,
    max_price: Annotated[Decimal | None, Query(max_digits=100)] = None,
    due_before: datetime | None = None,
    day: date | None = None,
    token: UUID | None = None,
    ids: Annotated[list[int] | None, Query(max_length=20)] = None,
    x_code: Annotated[str | None, Header()] = None,
) -> list[Item]:
    """Find those that have this in their note, and more."""
    found = select(Item).where(Item.note.contains(q, autoescape=True))
    if ids is not None:
        found = found.where(Item.id.in_(ids))
    for condition, wanted in (
        (Item.views.__le__, max_views),
        (Item.weight.__le__, max_weight),
        (Item.price.__le__, max_price),
        (Item.due.__lt__, due_before),
        (Item.day.__eq__, day),
        (Item.token.__eq__, token),
        (Item.code.__eq__, x_code),
    ):
        if wanted is not None:
            found = found.where(condition(wanted))
    return list(await session.scalars(found.order_by(Item.id).limit(3)))


@router.get("/items/by-code/{code}", response_model=ItemOut)
async def read_by_code(session: ReadSessionDep, code: str) -> Item:
    """Read the one with this code."""
    return existing(await session.scalar(select(Item).where(Item.code == code)))


@router.get("/items/{item_id}", response_model=ItemOut)
async def read(session: ReadSessionDep, item_id: int) -> Item:
    """Read one."""
    return existing(await session.get(Item, item_id))


@router.put("/items/{item_id}", response_model=ItemOut)
async def replace(session: SessionDep, item_id: int, wanted: ItemIn) -> Item:
    """Change all of it."""
    item = existing(await session.get(Item, item_id, with_for_update=True))
    for name, value in wanted.model_dump().items():
        setattr(item, name, value)
    await session.flush()
    await session.refresh(item)
    return item


@router.patch("/items/{item_id}", response_model=ItemOut)
async def restock(session: SessionDep, item_id: int, by: int) -> Item:
    """Let the database add."""
    item = existing(await session.get(Item, item_id))
    item.stock = Item.stock + by
    await session.flush()
    await session.refresh(item)
    return item


@router.post("/events", status_code=201)
async def keep_event(session: SessionDep, payload: dict[str, Any]) -> EventOut:
    """Keep what has come, which nobody has looked at."""
    event = Event(payload=payload)
    session.add(event)
    await session.flush()
    return EventOut(id=event.id)


def existing(item: Item | None) -> Item:
    """Answer 404 where there is none."""
    if item is None:
        raise HTTPException(404, "There is none")
    return item


def make_app(db: Database) -> FastAPI:
    """Make the app on a database that has its tables."""
    app = FastAPI(lifespan=db.lifespan)
    app.include_router(router)
    app.add_exception_handler(RequestValidationError, tell_what_was_wrong)
    install_error_handlers(app)
    return app
