"""Imports of a worker process: no database, web framework, price list or terminal library."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

import llm_gateway
from llm_gateway.providers.prices import PriceList

SERVES_CALLS = ("llm_gateway.worker",)
FOREIGN = {
    "alembic", "cryptography", "cyclopts", "fastapi", "genai_prices", "prometheus_client", "pydantic", "rich",
    "sqlalchemy",
}  # fmt: skip
IMPORT_ALL = """
import importlib, pkgutil, sys

for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        importlib.import_module(module.name)
print(*{name.partition(".")[0] for name in sys.modules})
"""


def loaded_with(*packages: str, path: Path | None = None) -> set[str]:
    """Return the top-level modules of a fresh interpreter that has imported every module of `packages`."""
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(path), *filter(None, [environment.get("PYTHONPATH")])])
    command = [sys.executable, "-P", "-c", IMPORT_ALL, *packages]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return set(ended.stdout.split())


def test_serving_calls_loads_no_database_web_framework_price_list_or_terminal_library() -> None:
    loaded = loaded_with(*SERVES_CALLS)
    assert loaded & FOREIGN == set()
    assert {"msgspec", "httptools"} <= loaded, "it was imported"


def test_the_check_finds_an_import_of_such_a_library(tmp_path: Path) -> None:
    package = tmp_path / "planted"
    (package / "below").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "below" / "__init__.py").touch()
    (package / "below" / "module.py").write_text("import rich")
    assert loaded_with("planted", path=tmp_path) & FOREIGN == {"rich"}


@pytest.mark.parametrize("library", sorted(FOREIGN))
def test_each_forbidden_library_is_installed_under_this_name(library: str) -> None:
    assert find_spec(library) is not None


def test_reported_models_are_priced_without_the_price_package(tmp_path: Path) -> None:
    price_list = PriceList()
    price_list.vendor_of("openai")
    (tmp_path / "lists").write_bytes(msgspec.msgpack.encode(price_list.public))
    program = (
        "import sys, msgspec, pathlib; import llm_gateway.worker.app\n"
        "from llm_gateway.domain.public_prices import PublicPrices\n"
        "from llm_gateway.providers.price_lookup import PriceLookup\n"
        "lists = msgspec.msgpack.decode(pathlib.Path(sys.argv[1]).read_bytes(), type=PublicPrices)\n"
        "assert PriceLookup(lambda: lists).find('openai', 'gpt-4o-mini-2024-07-18').input == ((0, 150_000_000),)\n"
        "assert not any(name.startswith(('genai_prices', 'llm_gateway.providers.prices')) for name in sys.modules)"
    )
    environment = {"PYTHONPATH": str(Path(llm_gateway.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program, tmp_path / "lists"], check=True, env=environment)
