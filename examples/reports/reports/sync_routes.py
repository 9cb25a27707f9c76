"""The endpoints of `routes.py`, synchronous: halfway from plain SQLAlchemy, see MIGRATING.md."""

from collections.abc import Sequence

from fastapi import APIRouter, HTTPException
from sqlalchemy import insert, update
from sqlalchemy.orm import Session

from fastdb import SyncSessionDep
from fastdb.handlers import error_responses
from reports import statements
from reports.dependencies import SyncSummarizerDep
from reports.llm import Summary
from reports.models import Article, Report
from reports.schemas import (
    Added,
    After,
    ArticleOut,
    ArticlesIn,
    Limit,
    ReportId,
    ReportIn,
    ReportOut,
    Summarized,
)

router = APIRouter(prefix="/sync/reports", tags=["sync"], responses=error_responses(503, 504))


@router.post("", status_code=201)
def create_report(report_in: ReportIn, session: SyncSessionDep) -> ReportOut:
    report = Report(title=report_in.title)
    session.add(report)
    session.flush()
    return ReportOut.model_validate(report)


@router.get("")
def list_reports(session: SyncSessionDep, after: After = 0, limit: Limit = 50) -> list[ReportOut]:
    reports = session.scalars(statements.reports_after(after, limit))
    return [ReportOut.model_validate(report) for report in reports]


@router.get("/{report_id}", responses={404: {}})
def read_report(report_id: ReportId, session: SyncSessionDep) -> ReportOut:
    return ReportOut.model_validate(find(session, report_id))


@router.delete("/{report_id}", status_code=204, responses={404: {}})
def delete_report(report_id: ReportId, session: SyncSessionDep) -> None:
    session.delete(find(session, report_id))


@router.post("/{report_id}/articles", status_code=201, responses={404: {}, **error_responses(409)})
def add_articles(report_id: ReportId, articles: ArticlesIn, session: SyncSessionDep) -> Added:
    find(session, report_id)
    session.execute(insert(Article), statements.article_rows(report_id, articles))
    return Added(added=len(articles))


@router.get("/{report_id}/articles", responses={404: {}})
def list_articles(
    report_id: ReportId, session: SyncSessionDep, after: After = 0, limit: Limit = 50
) -> list[ArticleOut]:
    find(session, report_id)
    articles = session.scalars(statements.articles_after(report_id, after, limit))
    return [ArticleOut.model_validate(article) for article in articles]


@router.post("/{report_id}/summaries", responses={404: {}, 502: {}})
def summarize(
    report_id: ReportId, session: SyncSessionDep, summarizer: SyncSummarizerDep
) -> Summarized:
    """Sum up the next articles that have no summary yet, at most twenty, one after the other."""
    articles = session.execute(statements.open_articles(report_id)).all()
    if not articles:
        find(session, report_id)
        return Summarized(summarized=0, failed=0)
    session.commit()  # gives the connection back

    summaries = summarizer.summarize(articles)  # nothing is held meanwhile

    if not summaries:
        raise HTTPException(502, "The language model does not answer.")
    saved = save(session, report_id, summaries)  # a new transaction
    return Summarized(summarized=saved, failed=len(articles) - len(summaries))


def save(session: Session, report_id: int, summaries: Sequence[Summary]) -> int:
    """Return how many articles have got their summary.

    Some may be gone meanwhile, or have one already. Whoever writes locks the report first and its
    articles after it, so that no two wait for each other.
    """
    tokens = sum(summary.tokens for summary in summaries)
    session.execute(statements.add_tokens(report_id, tokens))
    ids = [summary.article_id for summary in summaries]
    still_open = session.scalars(statements.lock_open_articles(ids))
    if rows := statements.summary_rows(summaries, still_open):
        session.execute(update(Article), rows)
    return len(rows)


def find(session: Session, report_id: int) -> Report:
    if report := session.get(Report, report_id):
        return report
    raise HTTPException(404, "There is no such report.")
