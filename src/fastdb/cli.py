"""The command `fastdb`: arguments in, exit code out.

0: all of it held; 1: something did not, or could not be tried; 2: what was asked for is wrong.
"""

import signal
import sys
from typing import TYPE_CHECKING, Annotated

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from fastdb import ConfigurationError, FastdbError, __version__

if TYPE_CHECKING:
    import typer


def main() -> None:
    """Run the command; a missing extra is named in one line."""
    try:
        command = _command()
    except ImportError as missing:
        sys.exit(f'fastdb: {missing}; the command needs: pip install "fastapi-fastdb[cli]"')
    _end_as_by_ctrl_c()
    command(prog_name="fastdb")


def _command() -> "typer.Typer":
    # Not at the top of the module, so that `main` can say what is missing.
    import typer

    from fastdb.demo.plan import FEWEST_REQUESTS
    from fastdb.demo.run import run

    command = typer.Typer(
        add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"fastdb {__version__}")
            raise typer.Exit

    @command.callback()
    def fastdb(
        version: Annotated[
            bool,
            typer.Option(
                "--version", callback=show_version, is_eager=True, help="Show the version."
            ),
        ] = False,
    ) -> None:
        """Database sessions for FastAPI on SQLAlchemy."""

    @command.command()
    def demo(
        url: Annotated[
            str | None,
            typer.Option(
                envvar="FASTDB_URL",
                help="PostgreSQL, MySQL or SQLite. Its tables fastdb_demo_* are dropped before and"
                " afterwards. Default: a new SQLite file.",
            ),
        ] = None,
        requests: Annotated[
            int, typer.Option(min=FEWEST_REQUESTS, help="How many are sent.")
        ] = 400,
        concurrency: Annotated[int, typer.Option(min=1, max=500, help="How many at a time.")] = 50,
        port: Annotated[
            int, typer.Option(min=0, max=65535, help="Of the app; 0 for one that is free.")
        ] = 0,
        serve: Annotated[bool, typer.Option("--serve", help="Leave the app running.")] = False,
    ) -> None:
        """Run a real app, send it requests, some to fail on purpose, and check its data."""
        try:
            held = run(url, requests=requests, concurrency=concurrency, port=port, serve=serve)
        except (FastdbError, SQLAlchemyError, OSError) as error:
            typer.echo(f"fastdb: {_words(error)}", err=True)
            raise typer.Exit(2 if isinstance(error, ConfigurationError) else 1) from None
        raise typer.Exit(0 if held else 1)

    @command.command()
    def init(
        database: Annotated[
            str, typer.Argument(metavar="PACKAGE.MODULE:DB", help="The Database of the app.")
        ],
        metadata: Annotated[
            str, typer.Option(metavar="PACKAGE.MODULE:BASE.METADATA", help="The models' tables.")
        ],
        folder: Annotated[str, typer.Option(help="Of the revisions.")] = "migrations",
        name: Annotated[
            str | None,
            typer.Option(
                help="Of a second database: its section in alembic.ini, for `alembic --name`."
            ),
        ] = None,
    ) -> None:
        """Make a folder for migrations, and Alembic's configuration in pyproject.toml."""
        try:
            from fastdb.migrations.scaffold import init as write
        except ImportError as error:
            typer.echo(f"fastdb: {error}", err=True)
            raise typer.Exit(1) from None
        try:
            written = write(database, metadata, folder=folder, name=name)
        except (FastdbError, OSError) as error:
            typer.echo(f"fastdb: {error}", err=True)
            raise typer.Exit(2) from None
        for path in written:
            typer.echo(f"wrote {path}")
        alembic = "alembic" if name is None else f"alembic --name {name}"
        typer.echo(f'next: {alembic} revision --autogenerate -m "tables"; {alembic} upgrade head')

    return command


def _words(error: Exception) -> str:
    """Say what went wrong, without SQL, and in one line where the error is not our own."""
    if isinstance(error, FastdbError):
        return str(error)
    cause = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(cause).split()) or type(cause).__name__


def _end_as_by_ctrl_c() -> None:
    """Let what else ends a program from outside clean up too: the server, the tables.

    As the signal itself, not as an exception of its own: `asyncio.run` answers Ctrl-C by cancelling
    the main task. A `KeyboardInterrupt` raised wherever the loop happens to be loses wake-ups.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(
                getattr(signal, name), lambda _number, _frame: signal.raise_signal(signal.SIGINT)
            )
