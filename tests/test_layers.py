"""The layers of fastdb: a module imports only from layers below its own."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "fastdb"

# From the bottom up. A package is one module here: inside it, imports are its own affair. Where
# modules of one duty build on each other, the duty has two layers.
LAYERS = (
    ("name", {"errors", "route_names"}),
    ("decide", {"options", "credentials", "callers", "completion", "greenlets"}),
    ("decide: URLs", {"urls"}),
    ("watch: what lies beneath", {"sockets"}),
    ("watch: who waits for it", {"waits"}),
    (
        "watch",
        {
            "blocking",
            "failover",
            "forks",
            "guards",
            "pooling",
            "pools",
            "schema",
            "server",
            "sqlite",
            "stale_plans",
            "tls",
        },
    ),
    ("build", {"engines", "session"}),
    ("build: their users", {"loops", "per_request", "retry", "routes", "sync", "units"}),
    ("own: who serves", {"binding", "supply"}),
    ("own", {"database"}),
    ("integrate", {"dependencies", "handlers", "migrations"}),
    ("integrate: tests", {"testing"}),
    ("offer", {"__init__"}),
    ("show", {"demo"}),
    ("run", {"cli"}),
    ("start", {"__main__"}),
)

# In one file each, so that there is one place where it can be missing. A package that is all about
# one of them, and looks for it when it is imported, is one place too.
OPTIONAL_DEPENDENCIES = (
    "aiomysql",
    "alembic",
    "asyncmy",
    "asyncpg",
    "httpx",
    "psycopg",
    "pymysql",
    "rich",
    "stamina",
    "typer",
    "uvicorn",
)

INTEGRATIONS = {"migrations"}

# It has an extra of its own, beside that of the command, which has a server and a client too.
KIT = "testing"

# Such names say nothing, so that everything ends up in them.
FORBIDDEN_NAMES = {"base", "common", "core", "helpers", "misc", "util", "utils"}

FILES = sorted(PACKAGE.rglob("*.py"))

by_file = pytest.mark.parametrize(
    "path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix()
)


def layer_of(module: str) -> int:
    for number, (_, modules) in enumerate(LAYERS):
        if module in modules:
            return number
    pytest.fail(f"fastdb.{module} is in no layer: add it to LAYERS, after the modules it imports")


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def place_of(path: Path) -> str:
    module = module_of(path)
    return module if module in INTEGRATIONS else path.relative_to(PACKAGE).as_posix()


def imports(path: Path) -> Iterator[str]:
    """List what a file imports, at its top, inside functions and for type checkers."""
    for node in ast.walk(ast.parse(path.read_text(), path)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=None) | ast.ImportFrom(level=1 | 2 | 3):
                pytest.fail(f"{path.name}:{node.lineno}: a relative import")
            case ast.ImportFrom(module="fastdb", names=names):
                yield from (_in_package(alias.name) for alias in names)
            case ast.ImportFrom(module=str(module)):
                yield module
            case ast.Call(
                func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield module


def _in_package(name: str) -> str:
    is_module = (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()
    return f"fastdb.{name}" if is_module else "fastdb.__init__"


def test_there_are_modules() -> None:
    """The other tests look at something."""
    assert len(FILES) > 10


@by_file
def test_imports_only_lower_layers(path: Path) -> None:
    """Neither a layer above nor a neighbour in the same one."""
    module = module_of(path)
    wrong = [
        name
        for name in imports(path)
        if name.startswith("fastdb.")
        and name.split(".")[1] != module
        and layer_of(name.split(".")[1]) >= layer_of(module)
    ]
    assert not wrong, f"fastdb.{module} may not import {wrong}"


@by_file
def test_file_has_a_telling_name(path: Path) -> None:
    """A module is called after its duty."""
    assert FORBIDDEN_NAMES.isdisjoint(path.relative_to(PACKAGE).with_suffix("").parts)


@pytest.mark.parametrize("dependency", OPTIONAL_DEPENDENCIES)
def test_optional_dependency_is_imported_in_one_file(dependency: str) -> None:
    """What may be missing is missed in one place, with one message."""
    importers = {
        place_of(path)
        for path in FILES
        if any(name.split(".")[0] == dependency for name in imports(path))
    }
    of_the_kit = {place for place in importers if place.startswith(f"{KIT}/")}
    assert len(of_the_kit) <= 1
    assert len(importers - of_the_kit) <= 1
