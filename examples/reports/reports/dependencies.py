"""What the lifespan has made, for endpoints."""

from typing import Annotated

from fastapi import Depends, Request

from reports.llm import Summarizer, SyncSummarizer


def get_summarizer(request: Request) -> Summarizer:
    summarizer: Summarizer = request.state.summarizer
    return summarizer


def get_sync_summarizer(request: Request) -> SyncSummarizer:
    summarizer: SyncSummarizer = request.state.sync_summarizer
    return summarizer


SummarizerDep = Annotated[Summarizer, Depends(get_summarizer)]
SyncSummarizerDep = Annotated[SyncSummarizer, Depends(get_sync_summarizer)]
