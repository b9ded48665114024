"""Supervisor: the small parent process that starts the gateway's other processes, restarts and stops them.

It holds the locks of the data directory, the TCP socket and the settings, which its children inherit. Control and
workers start side by side; each writes a line to its leash, a socket to the supervisor, once it is ready.

    starting ── all ready ──▶ serving ── SIGTERM, SIGINT ──▶ workers stop ── all ended ──▶ control stops ──▶ ended
       │                      │     ▲                             ▲
       │                      ├─────┘ a child ended: restart it   │
       │                      └─ SIGHUP: new code, new children   │
       └── a child ended before it was ready, or a signal ────────┘

`renewal.py` takes the new code, `rolling_restart.py` replaces the children. The package imports neither asyncio nor a
library, so that it needs little memory and can hardly fail.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from llm_gateway.configuration_error import ConfigurationError
from llm_gateway.host_memory import create, has_this_layout
from llm_gateway.supervisor.claims import claim
from llm_gateway.supervisor.generation import Generation
from llm_gateway.supervisor.launcher import Launch, keep_descriptors_private
from llm_gateway.supervisor.loop import Supervisor
from llm_gateway.supervisor.renewal import REHEARSE, RESUME
from llm_gateway.supervisor.saved_state import State, UnreadableState, restore
from llm_gateway.supervisor.settings_file import (
    LEAVING_S,
    SettingsRefused,
    SupervisorSettings,
    read_settings_in_child,
    store_settings,
)


def run_supervisor(
    launch: Launch, leaving_s: float = LEAVING_S, *, command: Sequence[str] = (), arguments: Sequence[str] = ()
) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code.

    Args:
        launch: starts a child.
        leaving_s: seconds after its time to accept and drain at which a child that has not stopped is killed.
        command: program and arguments that call this function again with more `arguments`, so that a reload takes the
            supervisor's new code, too. If it is empty, the supervisor keeps its code.
        arguments: arguments of this process.

    Raises:
        ConfigurationError: the data directory or the address cannot be used; the message says what to set. Or there are
            arguments, of a command that this is not.
    """
    is_resumed = arguments[:1] in ([REHEARSE], [RESUME])
    if arguments and not is_resumed:
        raise ConfigurationError(
            f"python -m llm_gateway takes no arguments, but got {arguments[0]!r}: run the command llm-gateway."
        )
    keep_descriptors_private()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, the system tells no exit code
    if is_resumed:
        return _resume(launch, leaving_s, command, arguments)
    try:
        document = read_settings_in_child(launch)
    except SettingsRefused as refused:
        return refused.code
    settings = SupervisorSettings(document, leaving_s)
    data_dir, sockets = claim(settings)
    memory = _create_memory(settings.workers)
    current = Generation.new(settings, store_settings(document))
    state = State(current, data_dir, sockets.public, memory, sockets.admin)
    return _run(Supervisor(launch, state, command=command), state)


def _resume(launch: Launch, leaving_s: float, command: Sequence[str], arguments: Sequence[str]) -> int:
    """Go on in the place of the code before, or only try whether that is possible.

    Raises:
        ConfigurationError: the state does not fit to this code, or the system refuses memory.
    """
    document = int(arguments[1])
    try:
        state = restore(document, leaving_s)
    except UnreadableState as problem:
        raise ConfigurationError(str(problem)) from None
    os.close(document)
    unfit = state.memory if state.memory is not None and not has_this_layout(state.memory) else None
    if unfit is not None:
        os.close(unfit)  # the children that use it have descriptors of their own
    if state.memory in (None, unfit):
        state.memory = _create_memory(state.current.settings.workers)
    supervisor = Supervisor(launch, state, command=command, is_resumed=True)
    if arguments[0] == REHEARSE:
        return 0
    if unfit is not None:
        supervisor.log("new processes share new memory, since its layout has changed", level="warning")
    return _run(supervisor, state)


def _run(supervisor: Supervisor, state: State) -> int:
    try:
        return supervisor.run()
    finally:
        state.close_listeners()
        state.data_dir.close()


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
