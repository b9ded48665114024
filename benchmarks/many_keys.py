"""Store thousands of service keys in a data directory, and make one each second at a running gateway."""

from __future__ import annotations

import http.client
import json
import threading
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.targets import KEY, TargetFailed
from llm_gateway.store.database import Database
from llm_gateway.store.keys import KeyDraft, KeyStore
from llm_gateway.store.one_transaction import OneTransaction
from llm_gateway.store.peppers import open_peppers

EVERY_S = 1.0
PATIENCE_S = 30.0


class KeyMaker:
    """Thread that makes a key each second within its block; one that is not at work does nothing.

    Leaving the block raises TargetFailed if a key was not made, or none at all.
    """

    _names = count()

    def __init__(self, port: int, *, at_work: bool) -> None:
        self._port = port
        self._ended = threading.Event()
        self._failure = "the block was shorter than a second" if at_work else ""
        self._thread = threading.Thread(target=self._run) if at_work else None

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self._failure and error is None:
            raise TargetFailed(f"A key was not made: {self._failure}")

    def _run(self) -> None:
        failed = False
        while not failed and not self._ended.wait(EVERY_S):
            try:
                self._failure = self._make()
            except OSError as error:
                self._failure = str(error)
            failed = bool(self._failure)

    def _make(self) -> str:
        """Make a key. Returns what the gateway says against it."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        body = json.dumps({"name": f"made-{next(self._names)}"})
        headers = {"Content-Type": "application/json", "X-Service-Key": KEY}
        try:
            connection.request("POST", "/api/v1/keys", body, headers)
            response = connection.getresponse()
            answer = response.read().decode()
        finally:
            connection.close()
        return "" if response.status == 201 else f"{response.status} {answer}"


def store_keys(data_dir: Path, number: int) -> None:
    """Store service keys in the database of a stopped gateway, in one transaction."""
    database = Database.open(f"sqlite:///{data_dir / 'gateway.db'}")
    try:
        store = KeyStore(database, open_peppers(None, data_dir))
        with database.write() as connection:
            keys = store.within(OneTransaction(connection))
            for place in range(number):
                keys.create(KeyDraft(name=f"stored-{place}"))
    finally:
        database.close()
