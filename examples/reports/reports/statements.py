"""The SQL of both versions: a statement is neither synchronous nor asynchronous."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Select, Update, select, update

from reports.llm import Summary
from reports.models import Article, Report
from reports.schemas import ArticleIn

BATCH = 20


def reports_after(report_id: int, limit: int) -> Select[Report]:
    return select(Report).where(Report.id > report_id).order_by(Report.id).limit(limit)


def articles_after(report_id: int, article_id: int, limit: int) -> Select[Article]:
    return (
        select(Article)
        .where(Article.report_id == report_id, Article.id > article_id)
        .order_by(Article.id)
        .limit(limit)
    )


def open_articles(report_id: int) -> Select[int, str]:
    """Return the query for the next articles without a summary: ids and bodies."""
    return (
        select(Article.id, Article.body)
        .where(Article.report_id == report_id, Article.summary.is_(None))
        .order_by(Article.id)
        .limit(BATCH)
    )


def lock_open_articles(article_ids: Iterable[int]) -> Select[int]:
    """Return the query for those that still have no summary, and lock them.

    A plain SELECT would show the transaction's snapshot; FOR UPDATE reads what is committed.
    """
    return (
        select(Article.id)
        .where(Article.id.in_(article_ids), Article.summary.is_(None))
        .order_by(Article.id)
        .with_for_update()
    )


def add_tokens(report_id: int, tokens: int) -> Update:
    """Return an UPDATE that adds in the database.

    `report.tokens_used += tokens` would read, add and write: of two requests at the same time,
    MySQL's default isolation would lose one, without an error.
    """
    return (
        update(Report)
        .where(Report.id == report_id)
        .values(tokens_used=Report.tokens_used + tokens)
        .execution_options(synchronize_session=False)
    )


def article_rows(report_id: int, articles: Sequence[ArticleIn]) -> list[dict[str, Any]]:
    """Return the parameters of a bulk insert."""
    return [{"report_id": report_id, **article.model_dump()} for article in articles]


def summary_rows(summaries: Sequence[Summary], still_open: Iterable[int]) -> list[dict[str, Any]]:
    """Return the parameters of a bulk update: the primary key, and what is to be set."""
    wanted = set(still_open)
    return [
        {"id": summary.article_id, "summary": summary.text}
        for summary in summaries
        if summary.article_id in wanted
    ]
