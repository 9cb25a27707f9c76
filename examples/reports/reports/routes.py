"""The endpoints, asynchronous. The same ones, synchronous, are in `sync_routes.py`."""

from collections.abc import Sequence

from fastapi import APIRouter, HTTPException
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncSession

from fastdb import DatabaseDep, ReadSessionDep, SessionDep
from fastdb.handlers import error_responses
from reports import statements
from reports.dependencies import SummarizerDep
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

router = APIRouter(prefix="/reports", tags=["reports"], responses=error_responses(503, 504))


@router.post("", status_code=201)
async def create_report(report_in: ReportIn, session: SessionDep) -> ReportOut:
    report = Report(title=report_in.title)
    session.add(report)
    await session.flush()
    return ReportOut.model_validate(report)


@router.get("")
async def list_reports(
    session: ReadSessionDep, after: After = 0, limit: Limit = 50
) -> list[ReportOut]:
    reports = await session.scalars(statements.reports_after(after, limit))
    return [ReportOut.model_validate(report) for report in reports]


@router.get("/{report_id}", responses={404: {}})
async def read_report(report_id: ReportId, session: ReadSessionDep) -> ReportOut:
    return ReportOut.model_validate(await find(session, report_id))


@router.delete("/{report_id}", status_code=204, responses={404: {}})
async def delete_report(report_id: ReportId, session: SessionDep) -> None:
    await session.delete(await find(session, report_id))


@router.post("/{report_id}/articles", status_code=201, responses={404: {}, **error_responses(409)})
async def add_articles(report_id: ReportId, articles: ArticlesIn, session: SessionDep) -> Added:
    await find(session, report_id)
    await session.execute(insert(Article), statements.article_rows(report_id, articles))
    return Added(added=len(articles))


@router.get("/{report_id}/articles", responses={404: {}})
async def list_articles(
    report_id: ReportId, session: ReadSessionDep, after: After = 0, limit: Limit = 50
) -> list[ArticleOut]:
    await find(session, report_id)
    articles = await session.scalars(statements.articles_after(report_id, after, limit))
    return [ArticleOut.model_validate(article) for article in articles]


@router.post("/{report_id}/summaries", responses={404: {}, 502: {}})
async def summarize(report_id: ReportId, db: DatabaseDep, summarizer: SummarizerDep) -> Summarized:
    """Sum up the next articles that have no summary yet, at most twenty, all at once."""
    async with db.read_session() as session:
        articles = (await session.execute(statements.open_articles(report_id))).all()
        if not articles:
            await find(session, report_id)
            return Summarized(summarized=0, failed=0)

    summaries = await summarizer.summarize(articles)  # no session is open: no connection is held

    if not summaries:
        raise HTTPException(502, "The language model does not answer.")
    # Paid for by now: `run` saves them again where MySQL reports a deadlock.
    saved = await db.run(save, report_id, summaries)
    return Summarized(summarized=saved, failed=len(articles) - len(summaries))


async def save(session: AsyncSession, report_id: int, summaries: Sequence[Summary]) -> int:
    """Return how many articles have got their summary.

    Some may be gone meanwhile, or have one already. Whoever writes locks the report first and its
    articles after it, so that no two wait for each other.
    """
    tokens = sum(summary.tokens for summary in summaries)
    await session.execute(statements.add_tokens(report_id, tokens))
    ids = [summary.article_id for summary in summaries]
    still_open = await session.scalars(statements.lock_open_articles(ids))
    if rows := statements.summary_rows(summaries, still_open):
        await session.execute(update(Article), rows)
    return len(rows)


async def find(session: AsyncSession, report_id: int) -> Report:
    if report := await session.get(Report, report_id):
        return report
    raise HTTPException(404, "There is no such report.")
