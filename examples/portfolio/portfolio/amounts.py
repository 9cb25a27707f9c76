"""Numbers of which nothing may be lost: `Decimal`, from the request to the disk and back."""

from decimal import Context, Decimal
from typing import Annotated, Any

from pydantic import Field, PlainSerializer
from sqlalchemy import Dialect, Numeric, String
from sqlalchemy.types import TypeDecorator, TypeEngine

PLACES = 10
DIGITS = 28
_SMALLEST = Decimal(1).scaleb(-PLACES)

# Clients send ten digits before the point and eight after it; what is kept stays below this.
LIMIT = Decimal(10) ** 10

# What is reckoned needs more digits than Python's 28: a quantity times a price has 36 already.
WIDE = Context(prec=60)


class Exact(TypeDecorator[Decimal]):
    """A decimal number with ten places, on any database.

    SQLite has no decimal numbers: what it calls NUMERIC is binary, and loses digits. There it is
    text, so do not compare it or add it up in SQL.
    """

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the type of the column."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(DIGITS + 2))
        return dialect.type_descriptor(Numeric(DIGITS, PLACES))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        """Return what is stored."""
        if value is None or dialect.name != "sqlite":
            return value
        return f"{value.quantize(_SMALLEST):f}"

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """Return what was stored."""
        return None if value is None else Decimal(value)


def rounded(value: Decimal, places: int) -> Decimal:
    """Round to so many places, however large the value is."""
    return value.quantize(Decimal(1).scaleb(-places), context=WIDE)


def _as_text(value: Decimal) -> str:
    return f"{value.normalize(WIDE):f}"


# In JSON, numbers are strings: a client that reads them as binary numbers would lose digits.
Number = Annotated[Decimal, PlainSerializer(_as_text, return_type=str, when_used="json")]

# What clients send has bounds. What is reckoned from it has not: it is answered as a Number.
Amount = Annotated[Number, Field(max_digits=18, decimal_places=8, allow_inf_nan=False)]
Positive = Annotated[Amount, Field(gt=0)]
