"""Run the tests with coding agents where no network but loopback is: `python -m tests.agents.isolated [OPTIONS]`.

The options are pytest's. Its whole process runs in a network namespace of its own, so no agent, vendor or gateway can
reach out. Linux only.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

LEAST_NODE = 20
INSIDE = "AGENTS_NETWORK"
"""Environment variable that names the namespace outside of this one, inside of it."""
NAMESPACE = Path("/proc/self/ns/net")
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
"""ioctl(2) that sets an interface's flags, and the flag: netdevice(7)."""


def missing() -> str | None:
    """Return what the tests lack here and what to do, None if they can run."""
    node = shutil.which("node")
    version = "v0" if node is None else subprocess.check_output([node, "--version"], text=True).strip()
    if int(version.lstrip("v").partition(".")[0]) < LEAST_NODE:
        found = "none" if node is None else version
        return f"The coding agents need Node.js {LEAST_NODE} or newer; here is {found}. See https://nodejs.org"
    if shutil.which("unshare") is None:
        return "The command unshare is missing (Linux only). On Debian or Ubuntu: apt install util-linux"
    if subprocess.run([*namespace(), "true"], check=False, capture_output=True).returncode != 0:
        return f"This system permits no network namespace: `{' '.join(namespace())} true` fails. Try it as root."
    return None


def namespace() -> list[str]:
    """Return the command that runs another one in a network namespace of its own."""
    return ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]


def raise_loopback() -> None:
    """Bring up the interface lo, which is down in a new namespace."""
    from fcntl import ioctl  # not on Windows

    with socket.socket() as any_socket:
        ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))


def main(options: list[str]) -> None:
    """Run the tests in a namespace; this process is replaced."""
    if INSIDE not in os.environ:
        problem = missing()
        if problem is not None:
            sys.exit(problem)
        command = [*namespace(), sys.executable, "-m", "tests.agents.isolated", *options]
        os.execvpe(command[0], command, {**os.environ, INSIDE: str(NAMESPACE.readlink())})
    if os.environ[INSIDE] == str(NAMESPACE.readlink()):
        sys.exit(f"{INSIDE} is set, but this is no namespace of its own. Unset it.")
    raise_loopback()
    tests = str(Path(__file__).parent)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", tests, "-o", "faulthandler_timeout=900", *options])


if __name__ == "__main__":
    main(sys.argv[1:])
