"""A test application served by `Server` in a child process: `python -m tests.server.served <port> <behaviour> …`.

Requests take 20 ms; /hang never ends, /stream sends some data first. Logged events go to stdout, one per line.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from functools import partial
from tempfile import TemporaryFile
from typing import Any

from llm_gateway.child_process import ChildServer, run_child
from llm_gateway.errors import ConfigurationError
from llm_gateway.inherited import STOP, Inherited
from llm_gateway.server import Server, bind, url_of
from llm_gateway.server.shared_state import Log
from llm_gateway.settings import Settings
from llm_gateway.settings_reader import encode_settings
from llm_gateway.telemetry.process_log import ProcessLog
from tests.server.harness import Message, answer, read_body


class Application:
    def __init__(self, behaviour: str, log: Log) -> None:
        self._behaviour = behaviour
        self._log = log

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        await read_body(receive)
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"hello", "more_body": True})
        await asyncio.sleep(3600 if scope["path"] in ("/hang", "/stream") else 0.02)
        await answer(send, b"done")

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        try:
            if self._behaviour == "slow":
                self._log("starting")
                await asyncio.sleep(3600)
            elif self._behaviour == "refuses":
                raise ConfigurationError("Set LLM_GATEWAY_X.")
            elif self._behaviour == "fails":
                await send({"type": "lifespan.startup.failed", "message": "no luck"})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
            if self._behaviour == "stops-badly":
                raise ValueError("cannot stop")
        finally:
            self._log("application stopped")
        await send({"type": "lifespan.shutdown.complete"})


def main(port: str, behaviour: str, accept_s: str, drain_s: str) -> int:
    """Run the child in the supervisor's place. Returns the exit code."""

    def build(_: Settings, output: ProcessLog, __: Inherited) -> ChildServer:
        log = output.log
        server = Server(
            Application(behaviour, log),
            accept_s=float(accept_s),
            drain_s=float(drain_s),
            on_stopping=lambda: log("on_stopping"),
            log=log,
        )

        async def start() -> None:
            await server.start(sock)
            log("ready", url=url_of(sock))

        stop_now = partial(server.stop, accepting=False)
        return ChildServer(
            start, server.run, stop=server.stop, interrupt=stop_now, retire=server.retire, orphaned=stop_now
        )

    supervisor, leash = socket.socketpair()
    supervisor.send(STOP)  # every signal stops the whole gateway
    try:
        with bind("127.0.0.1", int(port)) as sock, supervisor, TemporaryFile() as settings:
            settings.write(encode_settings(Settings()))
            settings.flush()
            return run_child(Inherited(settings=settings.fileno(), leash=leash.detach()), build)
    except ConfigurationError as error:
        sys.stdout.write(f"refused: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
