"""Fill an empty database with something to look at: `python -m portfolio.populate`.

A script without an event loop: it works on `db.sync`, the synchronous twin of the same database.
"""

from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.orm import Session

from fastdb import Database
from fastdb.migrations import upgrade_sync
from portfolio.database import db
from portfolio.models import Asset, Broker

ASSETS = {
    "First Bank": [("ACME", "USD", "12.5", "40"), ("GLOBEX", "CHF", "101.25", "8")],
    "Second Bank": [("INITECH", "GBP", "3.75", "1000")],
}


def populate(database: Database) -> int:
    """Migrate, and add the brokers that are not there; return how many were added."""
    upgrade_sync(database)
    with database.sync.session() as session:
        known = set(session.scalars(select(Broker.name)))
        new = [name for name in ASSETS if name not in known]
        for name in new:
            _add(session, name)
    return len(new)


def _add(session: Session, name: str) -> None:
    broker = Broker(name=name)
    session.add(broker)
    session.flush()
    session.add_all(
        Asset(
            broker_id=broker.id,
            symbol=symbol,
            currency=currency,
            price=Decimal(price),
            quantity=Decimal(quantity),
        )
        for symbol, currency, price, quantity in ASSETS[name]
    )


if __name__ == "__main__":
    with db.sync:
        print(f"{populate(db)} brokers added")
