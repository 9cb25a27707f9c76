"""What the candidates read and write, and the file that each of them gets for itself."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import create_engine, insert

from models import Base, Counter, Hero, HeroIn, HeroOut

__all__ = ["Counter", "Hero", "HeroIn", "HeroOut", "counted", "file_of", "make_file"]

_HEROES = 1000


def file_of(directory: Path, name: str) -> Path:
    """Return the path of a candidate's own file: the journal's mode belongs to the file."""
    return directory / f"{name.replace(' ', '-').replace(',', '')}.db"


def make_file(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        heroes = [{"name": f"Hero {number}", "age": number % 90} for number in range(_HEROES)]
        connection.execute(insert(Hero), heroes)
        connection.execute(insert(Counter), {"id": 1, "value": 0})
    engine.dispose()


def counted(path: Path) -> int:
    """Return how far the counter has come."""
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        (value,) = connection.execute("SELECT value FROM fastdb_benchmark_counter").fetchone()
    return int(value)
