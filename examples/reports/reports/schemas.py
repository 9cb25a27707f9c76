"""What the API takes and gives. Whatever fits in here fits into the tables."""

from typing import Annotated

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from reports.models import TEXT_LENGTH, TITLE_LENGTH, URL_LENGTH

LARGEST_ID = 2**31 - 1

ReportId = Annotated[int, Path(ge=1, le=LARGEST_ID)]
After = Annotated[int, Query(ge=0, le=LARGEST_ID, description="The last id of the page before.")]
Limit = Annotated[int, Query(ge=1, le=100)]
Title = Annotated[str, Field(min_length=1, max_length=TITLE_LENGTH)]


class ReportIn(BaseModel):
    title: Title


class ReportOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    title: str
    tokens_used: int


class ArticleIn(BaseModel):
    url: Annotated[str, Field(max_length=URL_LENGTH, pattern=r"^https?://\S+$")]
    title: Title
    body: Annotated[str, Field(min_length=1, max_length=TEXT_LENGTH)]


# 100 bodies of four-byte characters are 6.4 MB; a packet of MySQL's has 16 MB, unless it is told
# otherwise (`max_allowed_packet`).
ArticlesIn = Annotated[list[ArticleIn], Field(min_length=1, max_length=100)]


class ArticleOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    url: str
    title: str
    summary: str | None


class Added(BaseModel):
    added: int


class Summarized(BaseModel):
    """`failed` were not summed up, and will be tried again by the next request."""

    summarized: int
    failed: int
