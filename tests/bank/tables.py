"""What the bank keeps: accounts, and a ledger of the transfers between them."""

from collections.abc import Iterable

from sqlalchemy import String, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from bank.judge import Books, Transfer
from fastdb import Database


class Base(DeclarativeBase):
    """The tables of the bank."""


class Account(Base):
    """Who has how much."""

    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    balance: Mapped[int]


class Entry(Base):
    """One transfer. Nothing forbids it to be there twice: the judge is to see it."""

    __tablename__ = "ledger"

    id: Mapped[int] = mapped_column(primary_key=True)
    transfer: Mapped[str] = mapped_column(String(50), index=True)
    source: Mapped[int]
    target: Mapped[int]
    amount: Mapped[int]


def open_accounts(url: str, accounts: Iterable[int], balance: int) -> None:
    """Make the tables, and the accounts with this balance each."""
    with Database(url).sync as db:
        db.create_all(Base.metadata)
        with db.session() as session:
            session.add_all(Account(id=account, balance=balance) for account in accounts)


def read_books(url: str) -> Books:
    """Return what is in the tables, as the synchronous twin sees it."""
    with Database(url).sync as db, db.read_session(snapshot=True) as session:
        return Books(
            balances={account.id: account.balance for account in session.scalars(select(Account))},
            ledger=[
                Transfer(entry.transfer, entry.source, entry.target, entry.amount)
                for entry in session.scalars(select(Entry))
            ],
        )
