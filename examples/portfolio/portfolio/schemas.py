"""What clients send and what they are answered."""

from datetime import date
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from portfolio.amounts import Amount, Number, Positive
from portfolio.rates import Way

Name = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[^\x00]{1,100}$")]
Symbol = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9.-]{1,20}$")]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]


class FromORM(BaseModel):
    """An answer that is read from an object of the ORM."""

    model_config = ConfigDict(from_attributes=True)


class BrokerIn(BaseModel):
    """A new broker."""

    name: Name


class BrokerOut(FromORM):
    """A broker."""

    id: int
    name: str


class AssetIn(BaseModel):
    """A new asset, of which there is nothing yet."""

    symbol: Symbol
    currency: Currency
    price: Positive = Field(description="Of one piece, in that currency.")


class AssetOut(FromORM):
    """An asset."""

    id: int
    broker_id: int
    symbol: str
    currency: str
    price: Number
    quantity: Number


class Trade(BaseModel):
    """How much is bought, or sold where it is negative."""

    quantity: Amount


class CurrencyOut(BaseModel):
    """A currency, and the last day of which there is a rate."""

    currency: str
    day: date


class Synced(BaseModel):
    """What was fetched."""

    rates: int


class ConversionOut(FromORM):
    """An amount in another currency, with four places; and how it was found."""

    amount: Number
    rate: Number
    way: Way
    day: date | None


class Value(BaseModel):
    """What all assets are worth."""

    currency: str
    value: Number
