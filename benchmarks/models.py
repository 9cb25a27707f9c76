"""The one table that all candidates read and write, and what requests carry."""

from pydantic import BaseModel, ConfigDict
from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Hero(Base):
    # A name that nobody else has: the benchmark drops this table, in a database that may be yours.
    __tablename__ = "fastdb_benchmark_hero"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    age: Mapped[int]


class HeroIn(BaseModel):
    name: str
    age: int


class HeroOut(HeroIn):
    model_config = ConfigDict(from_attributes=True)

    id: int
