"""Checks of the size limits and the import layers. Each check is also shown a violation, to prove that it can fail."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

from tests.parsed_source import PACKAGE, parsed_files, sources
from tests.sound_package import SOUND_PACKAGE

REPOSITORY = Path(__file__).parents[1]

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_PARAMETERS = 7
FORBIDDEN_NAMES = {"utils", "helpers", "common", "core", "manager", "service", "misc"}
BLIND = {"Exception", "BaseException"}
EDGE = "# edge: "
DOMAIN_MAY_IMPORT = sys.stdlib_module_names | {"llm_gateway", "msgspec"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Check = Callable[[Path], list[str]]


def nodes(root: Path) -> Iterator[tuple[str, ast.AST]]:
    for file in parsed_files(root):
        for node in file.nodes:
            yield file.place, node


def functions(root: Path) -> Iterator[tuple[str, Function]]:
    for place, node in nodes(root):
        if isinstance(node, Function):
            yield f"{place}:{node.lineno} {node.name}", node


def long_files(root: Path) -> list[str]:
    counted = ((place, len(text.splitlines())) for place, text in sources(root))
    return [f"{place}: {lines} lines" for place, lines in counted if lines > MAX_FILE_LINES]


def long_functions(root: Path) -> list[str]:
    counted = ((place, (node.end_lineno or 0) - node.lineno + 1) for place, node in functions(root))
    return [f"{place}: {lines} lines" for place, lines in counted if lines > MAX_FUNCTION_LINES]


def many_parameters(root: Path) -> list[str]:
    counted = ((place, parameters(node.args)) for place, node in functions(root))
    return [f"{place}: {count} parameters" for place, count in counted if count > MAX_PARAMETERS]


def parameters(arguments: ast.arguments) -> int:
    """Count the parameters that a caller can pass, without self and cls."""
    positional = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    if positional[:1] in (["self"], ["cls"]):
        positional = positional[1:]
    return len(positional) + len(arguments.kwonlyargs) + sum(a is not None for a in (arguments.vararg, arguments.kwarg))


def blind_excepts(root: Path) -> list[str]:
    """Find `except:`, `except Exception` and `suppress(Exception)` without a reason on the same line."""
    return [
        f"{file.place}:{number}: {line.strip()}"
        for file in parsed_files(root)
        for number in sorted(blind_lines(file.nodes))
        if not (line := file.text.splitlines()[number - 1]).partition(EDGE)[2].strip()
    ]


def blind_lines(found: list[ast.AST]) -> Iterator[int]:
    for node in found:
        match node:
            case ast.ExceptHandler(type=None):
                yield node.lineno
            case ast.ExceptHandler(type=ast.expr() as caught) if names(caught) & BLIND:
                yield node.lineno
            case ast.Call(func=called) if "suppress" in names(called):
                if any(names(argument) & BLIND for argument in node.args):
                    yield node.lineno


def names(expression: ast.expr) -> set[str]:
    """Return the names in an expression: b for `a.b`, those of all elements for a tuple."""
    match expression:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return {name}
        case ast.Tuple(elts=elements):
            return set().union(*map(names, elements))
    return set()


def forbidden_names(root: Path) -> list[str]:
    """Find modules and packages with a name that says nothing about their content."""
    return [place for place, _ in sources(root) if FORBIDDEN_NAMES & set(Path(place).with_suffix("").parts)]


def foreign_imports_in_domain(root: Path) -> list[str]:
    """Find imports of `domain/` other than the standard library, msgspec and the package itself."""
    return [
        f"{place}:{node.lineno}: {module}"
        for place, node in nodes(root)
        if isinstance(node, ast.Import | ast.ImportFrom) and place.startswith("domain/")
        for module in imported(node)
        if module.partition(".")[0] not in DOMAIN_MAY_IMPORT
    ]


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or "."]


def import_cycle(root: Path) -> list[str]:
    """Find a cycle of modules that import each other. `root` must be the package that Python imports by this name."""
    graph = grimp.build_graph(root.name, cache_dir=None)
    sorter = TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules})
    try:
        sorter.prepare()
    except CycleError as error:
        return [" → ".join(reversed(error.args[1]))]
    return []


LINT_EACH = """
import contextlib, importlib, io, json, os, sys
from importlinter.cli import lint_imports

for folder in sys.argv[1:]:
    os.chdir(folder)
    sys.path[0] = os.path.join(folder, "src")
    importlib.invalidate_caches()
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = lint_imports(no_cache=True, no_logo=True)
    print(json.dumps([code, output.getvalue()]))
"""
"""Program that runs import-linter in each given folder; one process, since its imports take longer than its work."""


def broken_contracts(*folders: Path) -> Iterator[list[str]]:
    """Yield for each folder the import-linter contracts of its pyproject.toml that its src/llm_gateway breaks."""
    run = subprocess.run(
        [sys.executable, "-c", LINT_EACH, *folders],
        env={"COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for code, output in map(json.loads, run.stdout.splitlines()):
        broken = [name for line in output.splitlines() for name, mark, _ in [line.partition(" BROKEN")] if mark]
        assert bool(broken) == bool(code), output
        yield broken


CHECKS: list[Check] = [
    long_files,
    long_functions,
    many_parameters,
    blind_excepts,
    forbidden_names,
    foreign_imports_in_domain,
    import_cycle,
]


@pytest.mark.parametrize("check", CHECKS)
def test_the_package_keeps_the_size_and_naming_limits(check: Check) -> None:
    assert check(PACKAGE) == []


def test_the_package_keeps_the_import_contracts() -> None:
    assert list(broken_contracts(REPOSITORY)) == [[]]


def lines(count: int) -> str:
    return "1\n" * count


def body(count: int) -> str:
    return "    1\n" * count


PLANTED: list[tuple[Check, str, str, list[str]]] = [
    (long_files, "a.py", lines(400), []),
    (long_files, "a.py", lines(401), ["a.py: 401 lines"]),
    (long_functions, "a.py", "def f():\n" + body(49), []),
    (long_functions, "a.py", "def f():\n" + body(50), ["a.py:1 f: 51 lines"]),
    (long_functions, "b/a.py", "class C:\n  async def f():\n" + body(50), ["b/a.py:2 f: 51 lines"]),
    (many_parameters, "a.py", "def f(a, b, /, c, d, *e, f, **g): ...", []),
    (many_parameters, "a.py", "def f(a, b, /, c, d, *e, f, g, **h): ...", ["a.py:1 f: 8 parameters"]),
    (many_parameters, "a.py", "def f(self, a, b, c, d, e, f, g): ...", []),
    (many_parameters, "a.py", "async def f(cls, a, b, c, d, e, f, g, h): ...", ["a.py:1 f: 8 parameters"]),
    (blind_excepts, "a.py", "try: f()\nexcept (ValueError, TypeError): ...", []),
    (blind_excepts, "a.py", "try: f()\nexcept Exception:  # edge: a plugin's\n  ...", []),
    (blind_excepts, "a.py", "try: f()\nexcept Exception:  # edge: \n  ...", ["a.py:2: except Exception:  # edge:"]),
    (blind_excepts, "a.py", "try: f()\nexcept: ...", ["a.py:2: except: ..."]),
    (blind_excepts, "a.py", "try: f()\nexcept (E, BaseException): ...", ["a.py:2: except (E, BaseException): ..."]),
    (blind_excepts, "a.py", "try: f()\nexcept builtins.Exception: ...", ["a.py:2: except builtins.Exception: ..."]),
    (blind_excepts, "a.py", "with a.suppress(Exception): ...", ["a.py:1: with a.suppress(Exception): ..."]),
    (blind_excepts, "a.py", "with suppress(OSError): ...", []),
    (forbidden_names, "store/usage.py", "", []),
    (forbidden_names, "store/utils.py", "", ["store/utils.py"]),
    (forbidden_names, "core/usage.py", "", ["core/usage.py"]),
    (foreign_imports_in_domain, "domain/a.py", "import json, msgspec.json\nfrom llm_gateway.domain import plan", []),
    (foreign_imports_in_domain, "domain/a.py", "import json, yaml.nodes", ["domain/a.py:1: yaml.nodes"]),
    (foreign_imports_in_domain, "domain/a.py", "def f():\n  from rich import print", ["domain/a.py:2: rich"]),
    (foreign_imports_in_domain, "store/a.py", "import sqlalchemy", []),
]


@pytest.mark.parametrize(("check", "place", "text", "found"), PLANTED)
def test_a_violated_limit_is_found(tmp_path: Path, check: Check, place: str, text: str, found: list[str]) -> None:
    plant(tmp_path, {place: text})

    assert check(tmp_path) == found


def test_an_import_cycle_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "planted_package"
    plant(package, {"__init__.py": "", "a.py": "from planted_package.b import x", "b.py": "import planted_package.c"})
    plant(package, {"c.py": "def later():\n    from planted_package import a"})
    monkeypatch.syspath_prepend(tmp_path)

    [cycle] = import_cycle(package)

    assert {module.rpartition(".")[2] for module in cycle.split(" → ")} == {"a", "b", "c"}


FLAWS = [
    ("worker/gateway.py", "import llm_gateway.control.app", "Layers"),
    ("control/app.py", "import llm_gateway.worker.gateway", "Layers"),
    ("forwarding.py", "import llm_gateway.control.app", "Layers"),
    ("channel.py", "import llm_gateway.worker.gateway", "Layers"),
    ("routing/__init__.py", "import llm_gateway.worker.pipeline.transport", "Layers"),
    ("cache/__init__.py", "import llm_gateway.journal", "Layers"),
    ("domain/__init__.py", "import llm_gateway.store", "Layers"),
    ("host_memory/__init__.py", "import llm_gateway.limiter", "Layers"),
    ("stowaway.py", "", "Layers"),
    ("worker/stowaway.py", "", "The data plane's imports"),
    ("worker/gateway.py", "import llm_gateway.worker.endpoints", "The data plane's imports"),
    ("worker/pipeline/transport.py", "import llm_gateway.worker.pipeline.attempt", "A step of the pipeline"),
    ("worker/pipeline/caching.py", "import llm_gateway.worker.pipeline.failover", "A step of the pipeline"),
    ("worker/pipeline/refusals.py", "import llm_gateway.worker.pipeline.attempt", "A step of the pipeline"),
    ("store/__init__.py", "import llm_gateway.settings", "Settings"),
    ("worker/app.py", "import llm_gateway.settings_reader", "The reader of settings"),
    ("cli/__init__.py", "import llm_gateway.local_model", "The embedded model"),
    ("cli/__init__.py", "import pyreqwest", "One home: the command line's HTTP client"),
    ("settings.py", "import cyclopts", "One home: the command line's libraries"),
    ("telemetry.py", "import rich", "One home: the command line's libraries"),
    ("__main__.py", "def f():\n    import llm_gateway.cli.client", "The server takes nothing"),
    ("supervisor/__init__.py", "import llm_gateway.worker.gateway", "The supervisor knows nothing"),
    ("journal/__init__.py", "import starlette", "One home: ASGI"),
    ("worker/gateway.py", "import fastapi", "One home: the web framework"),
    ("control/app.py", "import uvicorn", "One home: the ASGI server"),
    ("routing/__init__.py", "def f():\n    import llm_gateway.upstream", "One home: the upstream HTTP client"),
    ("worker/gateway.py", "import aiohappyeyeballs", "One home: the upstream HTTP client"),
    ("journal/__init__.py", "import sqlalchemy", "One home: SQL"),
    ("settings.py", "import cryptography", "One home: encryption"),
    ("settings.py", "import argon2", "One home: SQL"),
    ("dashboard.py", "import joserfc", "One home: identity providers' tokens"),
    ("worker/gateway.py", "import llm_gateway.identity", "Calls are served without the libraries of identity"),
    ("settings.py", "import dotenv", "One home: the parser of .env"),
    ("limiter/__init__.py", "import hiredis", "One home: the protocol of Redis"),
    ("cli/__init__.py", "import yaml", "One home: the parser of YAML"),
    ("control/management/__init__.py", "import prometheus_client", "One home: metrics"),
    ("routing/__init__.py", "import genai_prices", "One home: public prices"),
    ("worker/gateway.py", "import llm_gateway.providers.prices", "Calls are served without the package of prices"),
]


@pytest.fixture(scope="module")
def broken_by_flaw(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """Return the contracts that a sound package breaks, then those that it breaks with each of FLAWS."""
    added = [{}, *({place: f"{SOUND_PACKAGE.get(place, '')}\n{flaw}\n"} for place, flaw, _ in FLAWS)]
    folders = [tmp_path_factory.mktemp("package") for _ in added]
    for folder, flaw in zip(folders, added, strict=True):
        (folder / "pyproject.toml").symlink_to(REPOSITORY / "pyproject.toml")
        plant(folder / "src" / "llm_gateway", SOUND_PACKAGE | flaw)
    return list(broken_contracts(*folders))


def test_a_sound_package_breaks_no_contract(broken_by_flaw: list[list[str]]) -> None:
    assert broken_by_flaw[0] == []


@pytest.mark.parametrize(("number", "contract"), [(number, flaw[2]) for number, flaw in enumerate(FLAWS, start=1)])
def test_a_flaw_breaks_its_contract(broken_by_flaw: list[list[str]], number: int, contract: str) -> None:
    assert [name for name in broken_by_flaw[number] if name.startswith(contract)]


def plant(root: Path, texts: dict[str, str]) -> None:
    for place, text in texts.items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
