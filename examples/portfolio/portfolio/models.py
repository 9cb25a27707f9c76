"""The tables."""

from datetime import date
from decimal import Decimal

from sqlalchemy import ForeignKey, MetaData, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from portfolio.amounts import Exact


class Base(DeclarativeBase):
    """What all tables have in common: constraints with names, which migrations need."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Broker(Base):
    """Who keeps assets."""

    __tablename__ = "brokers"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)


class Asset(Base):
    """How much of something is kept by a broker, and what a piece of it is worth."""

    __tablename__ = "assets"
    __table_args__ = (UniqueConstraint("broker_id", "symbol"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    # Without ON DELETE: a broker with assets cannot be deleted, on SQLite as little as elsewhere.
    broker_id: Mapped[int] = mapped_column(ForeignKey("brokers.id"))
    symbol: Mapped[str] = mapped_column(String(20))
    currency: Mapped[str] = mapped_column(String(3))
    price: Mapped[Decimal] = mapped_column(Exact)
    quantity: Mapped[Decimal] = mapped_column(Exact)


class Rate(Base):
    """How many of a currency one euro bought on a day."""

    __tablename__ = "rates"

    currency: Mapped[str] = mapped_column(String(3), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    per_euro: Mapped[Decimal] = mapped_column(Exact)
