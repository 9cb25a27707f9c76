"""Tables that tests of several modules use."""

from sqlalchemy import ForeignKey, ForeignKeyConstraint, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    """The tables of the tests."""


class Team(Base):
    """A parent."""

    __tablename__ = "team"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    heroes: Mapped[list["Hero"]] = relationship(back_populates="team")


class Hero(Base):
    """A child, whose foreign key is checked at once."""

    __tablename__ = "hero"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    team_id: Mapped[int | None] = mapped_column(ForeignKey("team.id"))
    team: Mapped[Team | None] = relationship(back_populates="heroes")


class Counter(Base):
    """A number to be read, changed and written."""

    __tablename__ = "counter"

    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int]


class Late(Base):
    """A child whose foreign key is checked at COMMIT; MySQL cannot do that and checks nothing."""

    __tablename__ = "late"
    __table_args__ = (
        ForeignKeyConstraint(
            ["team_id"], ["team.id"], deferrable=True, initially="DEFERRED"
        ).ddl_if(callable_=lambda *_, dialect, **__: dialect.name in {"sqlite", "postgresql"}),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    team_id: Mapped[int]
