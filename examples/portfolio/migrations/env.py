"""What Alembic runs: fastdb connects, locks and checks; more of Alembic's options go into run()."""

from fastdb.migrations import run
from portfolio.database import db
from portfolio.models import Base

run(db, Base.metadata)
