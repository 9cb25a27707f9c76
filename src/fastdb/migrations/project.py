"""A project's migrations: where they are, how env.py wants them, and where a database stands."""

import copy
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Lock
from typing import Any, Self

from alembic import command
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from fastdb.database import Database
from fastdb.errors import ConfigurationError, NotAtHead
from fastdb.migrations.changing import alone, connected
from fastdb.migrations.environment import current_heads, names_of
from fastdb.migrations.requests import (
    ATTRIBUTE,
    Order,
    Question,
    Settings,
    Stopped,
    inside,
    refuse_inside,
)

logger = logging.getLogger("fastdb.migrations")

ConfigSource = Config | str | os.PathLike[str]

# `alembic.context` and `alembic.op`, which env.py and the revisions import, belong to the process:
# in two threads at a time, one would write into the other's database.
_alembic_is_free = Lock()

_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Project:
    """The migrations of one database.

    Attributes:
        config: Alembic's configuration: a copy, which may be added to.
        script: The folder of the revisions.
        settings: How env.py calls `run()`.
    """

    config: Config
    script: ScriptDirectory
    settings: Settings

    @classmethod
    def load(cls, config: ConfigSource | None, location: str | None, stop: Event) -> Self:
        """Read the configuration and the revisions, and ask env.py for its options.

        Args:
            config: The configuration or its file; None for what Alembic's command would read.
            location: Of the folder, if it is to be another than the configuration's, or if there is
                none.
            stop: Ends the waiting for other threads.

        Raises:
            ConfigurationError: There are no migrations, or env.py does not call `run()`.
        """
        found = _find_config(config, location)
        if location is not None:
            found.set_main_option("script_location", location.replace("%", "%%"))
        question = Question()
        found.attributes[ATTRIBUTE] = question
        with _alembic_alone(stop):
            script = _read_folder(found)
            with EnvironmentContext(found, script, fn=lambda *_: (), as_sql=False):
                script.run_env()
            script.get_heads()  # reads the revisions' files, which an event loop should not do
        if question.answer is None:
            raise ConfigurationError(
                f"{script.dir}/env.py does not call `run(db, metadata)` of fastdb.migrations. Write"
                " it there, in the place of Alembic's own lines."
            )
        return cls(found, script, question.answer)

    @property
    def heads(self) -> tuple[str, ...]:
        """The newest revisions: one, unless there are branches."""
        return tuple(self.script.get_heads())

    def current(self, connection: Connection) -> tuple[str, ...]:
        """Return the revisions that the database is at, and leave it in no transaction."""
        return current_heads(connection, self.settings.options)

    def is_at(self, current: tuple[str, ...], revision: str) -> bool:
        """Return whether nothing is to be done to bring a database from `current` to `revision`.

        Raises:
            NotAtHead: This code does not know where the database is.
        """
        self.refuse_unknown(current)
        try:
            wanted = names_of(self.script.as_revision_number(revision))
        except CommandError:  # Alembic says what is wrong with it, or it is a relative one
            return False
        return set(current) == set(wanted)

    def pending(self, current: tuple[str, ...]) -> tuple[str, ...]:
        """Return the revisions that a database at `current` has not had, oldest first.

        Raises:
            NotAtHead: This code does not know where the database is.
        """
        self.refuse_unknown(current)
        had = {
            revision.revision
            for revision in self.script.iterate_revisions(current, "base")
        } if current else set()  # fmt: skip
        newest_first = [revision.revision for revision in self.script.walk_revisions()]
        return tuple(name for name in reversed(newest_first) if name not in had)

    def refuse_unknown(self, current: tuple[str, ...]) -> None:
        """Raise where the database is at a revision that is not in the folder.

        Raises:
            NotAtHead: It is.
        """
        known = {revision.revision for revision in self.script.walk_revisions()}
        unknown = set(current) - known
        if unknown:
            raise NotAtHead(
                f"The database is at revision {', '.join(sorted(unknown))}, which is not in"
                f" {self.script.dir}: a newer version of this code has migrated it, or another"
                " folder's migrations were run. Deploy the newer version, or add the file.",
                current=current,
                heads=self.heads,
            )

    def check(self, current: tuple[str, ...]) -> None:
        """Raise unless a database at `current` has had all revisions.

        Raises:
            NotAtHead: It has not.
        """
        missing = self.pending(current)
        if missing:
            raise NotAtHead(
                f"The database is at {', '.join(current) or 'no revision'}, and this code needs"
                f" {', '.join(self.heads)}: {len(missing)} revision(s) are pending. Run"
                " `alembic upgrade head`, or `await upgrade(db)` before the app serves.",
                current=current,
                heads=self.heads,
            )

    def upgrade(self, order: Order, revision: str) -> None:
        """Run `alembic upgrade`, unless the database is there."""
        self._change(command.upgrade, order, revision)

    def downgrade(self, order: Order, revision: str) -> None:
        """Run `alembic downgrade`, unless the database is there."""
        self._change(command.downgrade, order, revision)

    def compare(self, order: Order) -> None:
        """Run `alembic check`."""
        self._run(command.check, order)

    def _change(self, run: Any, order: Order, revision: str) -> None:
        if self.config.attributes.get("connection") is not None:
            self._run(run, order, revision)
            return
        # The lock is waited for before Alembic is taken, which other databases may need meanwhile.
        with (
            connected(order.db, self.settings) as connection,
            alone(
                connection,
                order,
                self.settings,
                lambda: not self.is_at(self.current(connection), revision),
            ) as must_change,
        ):
            if must_change:
                self._run(run, replace(order, connection=connection), revision)

    def _run(self, run: Any, order: Order, *arguments: str) -> None:
        self.config.attributes[ATTRIBUTE] = order
        with _alembic_alone(order.stop):
            run(self.config, *arguments)

    def current_of(self, db: Database) -> tuple[str, ...]:
        """Return the revisions that a database is at, through its synchronous twin."""
        with db.sync.engine.connect() as connection:
            return self.current(connection)


@contextmanager
def _alembic_alone(stop: Event) -> Iterator[None]:
    refuse_inside()
    if not _alembic_is_free.acquire(blocking=False):
        logger.info("Another database of this process is migrated: waiting")
        while not _alembic_is_free.acquire(timeout=_PAUSE_SECONDS):
            if stop.is_set():
                raise Stopped
    disabled = {name: each.disabled for name, each in _loggers()}
    path = list(sys.path)
    try:
        with inside():
            yield
    finally:
        # Alembic puts its folders in front each time, and `fileConfig()` in an env.py turns off all
        # loggers that there are.
        sys.path[:] = path
        for name, each in _loggers():
            each.disabled = disabled.get(name, each.disabled)
        _alembic_is_free.release()


def _loggers() -> list[tuple[str, logging.Logger]]:
    known = logging.root.manager.loggerDict.items()
    return [(name, each) for name, each in list(known) if isinstance(each, logging.Logger)]


def _find_config(source: ConfigSource | None, location: str | None) -> Config:
    if isinstance(source, Config):
        found = copy.copy(source)
        found.attributes = dict(source.attributes)
        found.file_config = copy.deepcopy(source.file_config)
        return found
    if source is not None:
        return _config_of(Path(source))
    if location is not None:
        return Config()
    # What Alembic's own command reads.
    named = os.environ.get("ALEMBIC_CONFIG")
    ini, toml = Path("alembic.ini"), Path("pyproject.toml")
    if named:
        ini, toml = (ini, Path(named)) if Path(named).name == toml.name else (Path(named), toml)
    return Config(
        file_=str(ini.absolute()) if ini.exists() else None,
        toml_file=str(toml.absolute()) if toml.exists() else None,
    )


def _config_of(path: Path) -> Config:
    if not path.exists():
        raise ConfigurationError(
            f"There is no configuration of Alembic at {path.absolute()}: config=… is the path of a"
            " pyproject.toml or of an alembic.ini."
        )
    return Config(toml_file=path) if path.name == "pyproject.toml" else Config(path)


def _read_folder(config: Config) -> ScriptDirectory:
    if config.get_alembic_option("script_location") is None:
        raise ConfigurationError(
            f"No migrations were found from {Path.cwd()}: neither does pyproject.toml have a table"
            " [tool.alembic] there, nor alembic.ini a script_location. Start the app in the"
            ' project\'s directory; or say where they are, script_location="…" (a path, or'
            ' "package:folder"); or make them with `fastdb init`.'
        )
    try:
        return ScriptDirectory.from_config(config)
    except (CommandError, ImportError) as error:
        raise ConfigurationError(f"The migrations cannot be read: {error}") from error
