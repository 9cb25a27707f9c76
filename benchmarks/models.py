"""The tables that all candidates read and write, and what requests carry."""

from pydantic import BaseModel, ConfigDict
from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    pass


# Names that nobody else has: the benchmark drops these tables, in a database that may be yours.
class Team(Base):
    __tablename__ = "fastdb_benchmark_team"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))


class Hero(Base):
    __tablename__ = "fastdb_benchmark_hero"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    age: Mapped[int]
    team_id: Mapped[int | None] = mapped_column(ForeignKey(Team.id))

    team: Mapped[Team | None] = relationship()


class Counter(Base):
    __tablename__ = "fastdb_benchmark_counter"

    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int]


class HeroIn(BaseModel):
    name: str
    age: int


class HeroOut(HeroIn):
    model_config = ConfigDict(from_attributes=True)

    id: int


class TeamOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str


class HeroWithTeam(HeroOut):
    team: TeamOut | None
