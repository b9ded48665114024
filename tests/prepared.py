"""Preparation of processes that are forked: their imports, and what each of them builds when it first needs it.

The gateway is asked for its OpenAPI document here, so that no other process builds it.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

IMPORTED = (
    "llm_gateway.__main__", "llm_gateway.cli", "llm_gateway.control.serve", "llm_gateway.worker.serve",
    "llm_gateway.cli.check", "llm_gateway.cli.client", "llm_gateway.settings_child", "llm_gateway.supervisor",
    "llm_gateway.cli.commands", "llm_gateway.cli.serve", "llm_gateway.local_model", "alembic.command", "alembic.config",
    "anyio._backends._asyncio", "cyclopts.help", "encodings.ascii", "encodings.idna", "importlib.readers",
    "mako.template", "pydantic.v1", "rich.live", "rich.markdown", "rich.progress", "rich.table",
    "sqlalchemy.dialects.sqlite", "uvicorn.lifespan.on",
)  # fmt: skip
KEY = b"dev-gateway-key"
REQUESTS = ("/openapi.json",)


def prepare() -> None:
    """Import what the processes import, and do once what each of them would do when it first needs it."""
    for name in IMPORTED:
        importlib.import_module(name)
    page, prices = sys.modules["llm_gateway.docs_page.page"], sys.modules["llm_gateway.providers.prices"]
    for key in (None, KEY.decode()):
        page.build_page(key)
    prices.PriceList().vendor_of(None)
    sys.modules["llm_gateway.dashboard.page"].Pages()
    sys.modules["llm_gateway.cli.commands"].build_cli()
    with TemporaryDirectory() as folder:
        asyncio.run(start_once(Path(folder)))
        report_once(Path(folder))


def report_once(folder: Path) -> None:
    """Make the usual reports and clean up, in the database that `start_once` left: queries are compiled once."""
    from llm_gateway.store.database import Database
    from llm_gateway.store.retention import Retention
    from llm_gateway.store.usage import UsageStore

    database, now_ms = Database.open(f"sqlite:///{folder / 'data' / 'gateway.db'}"), time.time_ns() // 1_000_000
    usage = UsageStore(database)
    usage.summary(30, now_ms)
    usage.by_provider(30, now_ms)
    usage.by_service(30, now_ms)
    usage.by_customer(30, now_ms, 100)
    while Retention(usage, folder, 90, lambda *_, **__: None).step():
        pass
    database.close()


async def start_once(folder: Path) -> None:
    """Run a gateway in this process: what regular expressions, tables, types and statements compile to is kept."""
    from llm_gateway.settings import Settings
    from tests.in_one_loop import GatewayInOneLoop

    gateway = GatewayInOneLoop(Settings(data_dir=folder / "data", local_model="false", log_level="error"))
    orders: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    orders.put_nowait({"type": "lifespan.startup"})
    started = asyncio.Event()

    async def send(message: Any) -> None:
        assert message["type"].endswith(".complete"), message
        started.set()

    with gateway.log_writer:
        running = asyncio.create_task(gateway({"type": "lifespan"}, orders.get, send))
        await started.wait()
        for path in REQUESTS:
            assert await status_of(gateway, path) == 200, path
        orders.put_nowait({"type": "lifespan.shutdown"})
        await running


async def status_of(gateway: Any, path: str) -> int:
    """Send GET to the gateway. Returns the status of the answer."""
    statuses: list[int] = []
    bodies = [b""]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"host", b"localhost:8200"), (b"x-service-key", KEY)],
        "client": ("127.0.0.1", 50000), "server": ("127.0.0.1", 8200), "state": {},
    }  # fmt: skip

    async def receive() -> Any:
        if not bodies:
            await asyncio.Event().wait()  # the client stays
        return {"type": "http.request", "body": bodies.pop(), "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await gateway(scope, receive, send)
    return statuses[0]
