"""The tables, with MySQL's limits in mind."""

from sqlalchemy import BigInteger, ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

TITLE_LENGTH = 200

# An index entry has at most 3072 bytes, and utf8mb4 counts four for each character: a unique
# VARCHAR ends at 768 characters, less where other columns belong to the index.
URL_LENGTH = 500

# VARCHAR counts characters, TEXT bytes: 65,535, which four-byte characters fill in 16,383.
TEXT_LENGTH = 16_000


class Base(DeclarativeBase): ...


class Report(Base):
    __tablename__ = "reports"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(TITLE_LENGTH))
    tokens_used: Mapped[int] = mapped_column(BigInteger, default=0)


class Article(Base):
    __tablename__ = "articles"
    __table_args__ = (UniqueConstraint("report_id", "url", name="uq_articles_report_id_url"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    report_id: Mapped[int] = mapped_column(ForeignKey("reports.id", ondelete="CASCADE"))
    # MySQL compares "/News" and "/news" as equal, unless the collation is a binary one.
    url: Mapped[str] = mapped_column(String(URL_LENGTH, collation="utf8mb4_bin"))
    title: Mapped[str] = mapped_column(String(TITLE_LENGTH))
    body: Mapped[str] = mapped_column(Text)
    summary: Mapped[str | None] = mapped_column(Text)
