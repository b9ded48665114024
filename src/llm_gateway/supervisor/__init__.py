"""Supervisor: the small parent process that starts the gateway's other processes, restarts and stops them.

It holds the locks of the data directory, the TCP socket and the settings, which its children inherit. Control and
workers start side by side; each writes a line to its leash, a socket to the supervisor, once it is ready.

    starting ── all ready ──▶ serving ── SIGTERM, SIGINT ──▶ workers stop ── all ended ──▶ control stops ──▶ ended
       │                      │     ▲                             ▲
       │                      ├─────┘ a child ended: restart it   │
       │                      └─ SIGHUP: see `roll.py`            │
       └── a child ended before it was ready, or a signal ────────┘

It imports neither asyncio nor a library, so that it needs little memory and can hardly fail.
"""

from __future__ import annotations

import signal

from llm_gateway.configuration_error import ConfigurationError
from llm_gateway.host_memory import create
from llm_gateway.supervisor.claims import claim
from llm_gateway.supervisor.launcher import Launch, keep_descriptors_private
from llm_gateway.supervisor.loop import Supervisor
from llm_gateway.supervisor.settings_file import (
    LEAVING_S,
    SettingsRefused,
    SupervisorSettings,
    read_settings_in_child,
    store_settings,
)


def run_supervisor(launch: Launch, leaving_s: float = LEAVING_S) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code.

    A child that has not stopped `leaving_s` seconds after its time to accept and drain is killed.

    Raises:
        ConfigurationError: the data directory or the address cannot be used; the message says what to set.
    """
    keep_descriptors_private()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, the system tells no exit code
    try:
        document = read_settings_in_child(launch)
    except SettingsRefused as refused:
        return refused.code
    settings = SupervisorSettings(document, leaving_s)
    data_dir, sock = claim(settings)
    memory = _create_memory(settings.workers)
    supervisor = Supervisor(launch, settings, store_settings(document), data_dir, sock, memory)
    try:
        return supervisor.run()
    finally:
        sock.close()
        data_dir.close()


def _create_memory(workers: int) -> int | None:
    """Create the memory that the workers share. A single one needs none until a reload adds others.

    Raises:
        ConfigurationError: the system refuses it, and there are several workers.
    """
    try:
        return create()
    except ConfigurationError:
        if workers > 1:
            raise
        return None
