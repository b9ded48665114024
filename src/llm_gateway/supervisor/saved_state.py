"""State of the supervisor as a JSON document, which a later version of its code in the same process takes over.

It is saved only while there is one generation of children and nothing is under way. Descriptors are saved by their
numbers, which stay the same over `execve`.
"""

from __future__ import annotations

import json
import os
import socket

from llm_gateway.data_dir import DataDir
from llm_gateway.model_hand_over import ModelHandOver
from llm_gateway.supervisor.child import Child
from llm_gateway.supervisor.generation import Generation
from llm_gateway.supervisor.settings_file import SupervisorSettings

TYPE_CHECKING = False  # as typing's, which takes half a megabyte of the supervisor's memory to import
if TYPE_CHECKING:
    from typing import Any

VERSION = 1
"""Version of the document. Raise it with a change that the code before cannot read; a reload is refused then."""


class UnreadableState(Exception):
    """The state was saved by another version of the code: the gateway must be restarted."""


class State:
    """The supervisor's children, and the resources that it holds for them.

    Attributes:
        current: the children that serve.
        data_dir: the data directory, whose lock the children keep; how replacements ended is written there.
        listener: the TCP socket of the workers.
        admin: the TCP socket of control; None without an admin port.
        model: what one control process hands over to the next of the embedded model.
        memory: descriptor of the memory that several workers share (host_memory); None for a single one.
        rolls: number of replacements that have begun.
        is_roll_due: a SIGHUP waits for its replacement.
    """

    def __init__(
        self,
        current: Generation,
        data_dir: DataDir,
        listener: socket.socket,
        memory: int | None,
        admin: socket.socket | None = None,
        model: ModelHandOver | None = None,
    ) -> None:
        self.current = current
        self.data_dir = data_dir
        self.listener = listener
        self.admin = admin
        self.memory = memory
        self.model = model or ModelHandOver.create()
        self.rolls = 0
        self.is_roll_due = False

    @property
    def descriptors(self) -> list[int]:
        """All open descriptors that belong to the state."""
        leashes = [child.leash for child in self.current.children]
        sockets = (self.listener.fileno(), self.admin.fileno() if self.admin is not None else None)
        found = (
            self.current.settings_file,
            *sockets,
            self.memory,
            *self.model.descriptors,
            *self.data_dir.locks,
            self.data_dir.directory_lock,
            *leashes,
        )
        return [descriptor for descriptor in found if descriptor is not None]

    def close_listeners(self) -> None:
        """Close the TCP sockets, so that the children's copies are the last."""
        self.listener.close()
        if self.admin is not None:
            self.admin.close()

    def save(self) -> bytes:
        """Return the state as a document for `restore`."""
        return json.dumps(
            {
                "version": VERSION,
                "settings_file": self.current.settings_file,
                "children": [child.save() for child in self.current.children],
                "path": self.data_dir.path,
                "locks": self.data_dir.locks,
                "directory_lock": self.data_dir.directory_lock,
                "listener": self.listener.fileno(),
                "admin": self.admin.fileno() if self.admin is not None else None,
                "memory": self.memory,
                "model": self.model.descriptors,
                "rolls": self.rolls,
                "is_roll_due": self.is_roll_due,
            }
        ).encode()


def restore(descriptor: int, leaving_s: float) -> State:
    """Return the state whose document is in an open file. All descriptors of the state must be open.

    Raises:
        UnreadableState: another version of the code has saved it.
        OSError: a descriptor is not open.
    """
    values: dict[str, Any] = json.loads(_contents(descriptor))
    if values["version"] != VERSION:
        raise UnreadableState(
            f"The running supervisor saves its state in version {values['version']}, and the new code reads version "
            f"{VERSION}: restart the gateway."
        )
    settings_file = values["settings_file"]
    settings = SupervisorSettings(_contents(settings_file), leaving_s)
    admin, model = values.get("admin"), values.get("model")  # earlier versions do not save them
    control, *workers = [Child.restore(saved, settings_file) for saved in values["children"]]
    state = State(
        Generation(settings, settings_file, control, workers),
        DataDir.inherited(values["path"], values["locks"], values.get("directory_lock")),
        socket.socket(fileno=values["listener"]),
        values["memory"],
        socket.socket(fileno=admin) if admin is not None else None,
        ModelHandOver(*model) if model is not None else None,
    )
    state.rolls, state.is_roll_due = values["rolls"], values["is_roll_due"]
    return state


def _contents(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
