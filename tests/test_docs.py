"""The documentation: every Python block is run, every message has its heading, nothing dangles.

A page is one test and one module: its blocks run from top to bottom and share their names, in an
empty directory. `await`, `async with` and `async for` are allowed at the top of a block. A block
in an HTML comment, `<!-- invisible-code-block: python … -->`, is run like the others; it is where
a page proves what its visible blocks claim. A block whose first line names a file in a directory,
`# migrations/env.py`, is saved there instead. Shell commands stand in `sh` blocks, which are not
run.
"""

import ast
import asyncio
import inspect
import re
import sys
import tomllib
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from blockbuster import BlockBuster
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

from asgi import Client
from backends import Backend
from fastdb import errors
from pytest_runs import WITHOUT_OURS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would rather have another client than httpx
    import fastapi.testclient  # noqa: F401

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"

# `text` is output, a drawing or a tree; what is in braces belongs to Sphinx.
LANGUAGES = {"python", "sh", "text", "ini", "{toctree}", "{eval-rst}"}

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


# --- Code blocks ------------------------------------------------------------------------------


def run(example: Example, runner: asyncio.Runner) -> None:
    """Run a block with the line numbers of its page, so that tracebacks point into it."""
    source = str(example.parsed)
    if saved := re.match(r"# (\w+/[\w/]+\.py)\n", source):
        path = Path(saved[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        return
    padding = "\n" * (example.line + example.parsed.line_offset)
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(padding + source, example.path, "exec", flags=flags, dont_inherit=True)
    result = eval(code, example.namespace)  # noqa: S307 - what is in our own pages
    if inspect.iscoroutine(result):
        runner.run(result)


def fenced(page: Path, language: str) -> list[str]:
    """Return the visible blocks in a language, found in the simplest way."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@by_page
@pytest.mark.timeout(180)  # a page may run pytest, or start servers
def test_blocks_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_blocking_calls: BlockBuster
) -> None:
    """A reader who copies a block gets what the page says."""
    # SQLAlchemy asks for it, for paths that are relative as in these pages: it touches no disk.
    no_blocking_calls.functions["os.getcwd"].deactivate()
    if page.stem == "alembic" and find_spec("alembic") is None:
        pytest.skip("alembic is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTEST_ADDOPTS", WITHOUT_OURS)  # for the pages that run pytest
    module = ModuleType(f"page_{page.stem.lower().replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    visible = 0
    with asyncio.Runner() as runner:
        sybil = Sybil([CodeBlockParser("python", lambda example: run(example, runner))])
        document = sybil.parse(page)
        document.namespace = vars(module)
        for example in document.examples():
            example.evaluate()
            visible += "invisible-code-block" not in document.text[example.start :][:40]
        vars(module).clear()
    assert visible == len(fenced(page, "python")), "a block was not found, so not run"


def test_there_are_blocks() -> None:
    """The test above looks at something; a page that loses its blocks is noticed."""
    assert sum(len(fenced(page, "python")) for page in PAGES) >= 50


def test_readme_shows_the_quickstart() -> None:
    """The first app that a reader sees is the one in examples/."""
    _docstring, app = (ROOT / "examples" / "quickstart.py").read_text().split('"""\n\n', 1)
    assert fenced(ROOT / "README.md", "python")[0] == app


@pytest.fixture
def quickstart(backend: Backend) -> dict[str, Any]:
    """The names of the page's `main.py`, with another URL in it."""
    written = "\n".join(fenced(ROOT / "docs" / "quickstart.md", "python"))
    source = written.replace("sqlite:///heroes.db", backend.url)
    assert source != written
    names: dict[str, Any] = {"__name__": "main"}
    exec(source, names)  # noqa: S102 - ours
    return names


async def test_quickstart_needs_only_another_url(quickstart: dict[str, Any]) -> None:
    """As its page says: the app that it builds takes a row, and not twice."""
    async with quickstart["lifespan"](quickstart["app"]):
        client = Client(quickstart["app"])
        answers = [await client.post("/heroes", json={"name": "Deadpond"}) for _ in range(2)]
        assert [answer.status for answer in answers] == [201, 409]
        assert len((await client.get("/heroes")).json()) == 1


@by_page
def test_blocks_have_a_language(page: Path) -> None:
    """No Python hides in a block that says nothing of its language, or something else."""
    fences = re.findall(r"^ *```(.*)$", page.read_text(), re.MULTILINE)
    assert len(fences) % 2 == 0
    assert set(fences[::2]) <= LANGUAGES
    assert set(fences[1::2]) <= {""}


@by_page
def test_commands_exist(page: Path) -> None:
    """Extras and sessions in shell commands are those of pyproject.toml and noxfile.py."""
    commands = "".join(fenced(page, "sh"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r"fastapi-fastdb\[([\w,]+)\]", commands):
        assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    sessions = re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
    for name in re.findall(r"nox -s ([a-z]+)", commands):
        assert name in sessions


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    """A relative link names a file and, where it says so, a heading in it."""
    for target in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        if anchor:
            assert anchor in {slug(heading) for heading in headings(file)}, target


def headings(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


def slug(heading: str) -> str:
    """Return a heading's anchor, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# --- Messages ---------------------------------------------------------------------------------


def messages() -> Iterator[str]:
    """List what fastdb raises or warns of, from its source; "…" stands for what varies.

    A message that is made apart, in a variable or by a function, is looked for in the same file.
    """
    raisers = {"_fail", "warn"} | {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, (errors.FastdbError, Warning))
    }
    for path in sorted((ROOT / "src" / "fastdb").rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            if name_of(node.func) in raisers:
                yield from fixed_parts(node.args[0], tree)


def fixed_parts(message: ast.expr, tree: ast.Module) -> list[str]:
    text = fixed_part(message)
    if text != "…":
        return [text]
    name = name_of(message.func if isinstance(message, ast.Call) else message)
    found: list[str] = []
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=variable)], value=value) if variable == name:
                found.append(fixed_part(value))
            case ast.FunctionDef(name=function) if function == name:
                found += [
                    fixed_part(part.value)
                    for part in ast.walk(node)
                    if isinstance(part, ast.Return) and part.value is not None
                ]
    return found


def name_of(node: ast.expr) -> str | None:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return None


def fixed_part(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(map(fixed_part, values))
        case ast.BinOp(left=left, right=right):
            return fixed_part(left) + fixed_part(right)
        case _:
            return "…"


def plain(text: str) -> str:
    """Leave out what is not the same in a message and in a heading."""
    return re.sub(r"…[…\s.]*…|…", "…", text.replace("`", "")).strip("… .")


def documented() -> list[str]:
    """List the headings of troubleshooting.md that stand for messages of fastdb."""
    ours = TROUBLESHOOTING.read_text().partition("\n## Messages of others\n")[0]
    return [plain(heading) for heading in re.findall(r"^### (.+)$", ours, re.MULTILINE)]


def test_every_message_has_a_heading() -> None:
    """Whoever searches for the words on the screen finds what to do."""
    found = documented()
    assert len(list(messages())) > 50
    missing = [
        message for message in messages() if not any(heading in plain(message) for heading in found)
    ]
    assert not missing, "\n".join(missing)


def test_every_heading_has_a_message() -> None:
    """The page does not explain what is no longer said."""
    said = [plain(message) for message in messages()]
    stale = [heading for heading in documented() if not any(heading in text for text in said)]
    assert not stale, "\n".join(stale)


def test_headings_are_telling() -> None:
    """A heading of two words would fit any message."""
    assert all(len(heading.replace("…", "")) >= 15 for heading in documented())


# --- The drawing of the layers ----------------------------------------------------------------


def test_architecture_names_every_module() -> None:
    """The table of layers is the one that tests/test_layers.py holds."""
    from test_layers import LAYERS

    text = (ROOT / "docs" / "architecture.md").read_text()
    existing = {
        path.stem for path in (ROOT / "src" / "fastdb").glob("*") if path.suffix in (".py", "")
    }
    rows = dict(re.findall(r"^\| ([a-z][\w:, ]*?) \| (.*?) \|", text, re.MULTILINE))
    for name, modules in LAYERS:
        here = modules & existing
        if here:
            assert set(re.findall(r"`(\w+)`", rows[name])) == here, name
