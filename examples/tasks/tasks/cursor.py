"""Where a page ends: an opaque string to clients."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Self

from pydantic import AwareDatetime, BaseModel, Field

from tasks.models import Task


class Cursor(BaseModel):
    """The last task of a page, by what the pages are ordered by."""

    created_at: AwareDatetime
    id: Annotated[int, Field(ge=1, le=2**31 - 1)]

    @classmethod
    def of(cls, task: Task) -> Self:
        """Return the cursor of a page that ends with `task`."""
        return cls(created_at=task.created_at, id=task.id)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what a client has been given.

        Raises:
            ValueError: It is not base64, not JSON, or not what we have written.
        """
        return cls.model_validate_json(urlsafe_b64decode(text))

    def __str__(self) -> str:
        return urlsafe_b64encode(self.model_dump_json().encode()).decode()
