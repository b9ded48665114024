"""Addresses that the supervisor takes: those of calls and of the admin port, both or none."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path

import msgspec
import pytest

from llm_gateway.errors import ConfigurationError
from llm_gateway.settings import Settings
from llm_gateway.settings_reader import encode_settings
from llm_gateway.supervisor.claims import Sockets, claim
from llm_gateway.supervisor.settings_file import SupervisorSettings
from tests.e2e.process import free_port


def given(folder: Path, **changed: object) -> SupervisorSettings:
    settings = Settings(port=free_port(), admin_port=free_port(), data_dir=folder / "data")
    return SupervisorSettings(encode_settings(msgspec.structs.replace(settings, **changed)))


def test_an_admin_port_in_use_names_its_setting_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = given(tmp_path, admin_port=taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match="stop the other process or set LLM_GATEWAY_ADMIN_PORT"):
            claim(settings)
    assert list(tmp_path.iterdir()) == []
    with contextlib.closing(Sockets(settings)) as sockets:
        assert sockets.admin is not None
        assert sockets.public.getsockname()[1] == settings.port
    with pytest.raises(ConfigurationError, match="set LLM_GATEWAY_ADMIN_HOST"):
        claim(given(tmp_path, admin_host="203.0.113.9"))


def test_without_an_admin_port_there_is_one_socket(tmp_path: Path) -> None:
    data_dir, sockets = claim(given(tmp_path, admin_port=0))
    with contextlib.closing(data_dir), contextlib.closing(sockets):
        assert sockets.admin is None


def test_settings_of_a_version_before_the_admin_port_have_none(tmp_path: Path) -> None:
    document = json.loads(encode_settings(Settings(data_dir=tmp_path)))
    del document["admin_host"], document["admin_port"]
    before = SupervisorSettings(json.dumps(document).encode())
    assert before.fixed == SupervisorSettings(encode_settings(Settings(data_dir=tmp_path))).fixed
