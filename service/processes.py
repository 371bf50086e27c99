"""Child processes, and a check of the port that one of them listens on.

A child runs a `supple` command with `--child`, or a module that trains. It never outlives its parent: its standard
input is a pipe to which the parent never writes. When the parent ends, for whatever reason, the operating system closes
the pipe. The child waits for that and then stops as it does on SIGTERM.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping

from pydantic import SecretStr

from service.errors import UnavailableError
from service.settings import Settings


def start(command: str, settings: Settings, more: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
    """Run `supple COMMAND --child` with exactly these settings, whatever the environment says.

    The child and its own children import nothing from the working directory: a `queue.py` there would replace Python's.

    more: further environment variables.
    """
    environment = _environment()
    for name, value in settings:
        if value is not None:
            text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            environment[f"SUPPLE_{name.upper()}"] = text
    environment |= more or {}
    arguments = [sys.executable, "-P", "-m", "service.cli", command, "--child"]
    return subprocess.Popen(arguments, env=environment, stdin=subprocess.PIPE)


def start_module(module: str, argument: str) -> "subprocess.Popen[bytes]":
    """Run a module with one argument, without settings. The parent reads what the child prints from `stdout`."""
    arguments = [sys.executable, "-P", "-m", module, argument]
    return subprocess.Popen(arguments, env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _environment() -> dict[str, str]:
    """This process's environment without settings, and such that nothing is imported from the working directory."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("SUPPLE_")}
    return {**kept, "PYTHONSAFEPATH": "1"}


def stop(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Send SIGTERM, and SIGKILL if the process is still there after `seconds`. Returns when it has ended."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def end_with_parent() -> None:
    """Call it in a child: once the parent has ended, the child sends itself SIGTERM."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def check_port(host: str, port: int) -> None:
    """Check that this machine can listen on a port.

    Raises:
        UnavailableError: another program listens on it, or `host` is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        raise UnavailableError(
            f"cannot listen on {host}, port {port}: {error.strerror}; choose another with --port, or 0 for a free one"
        ) from error


def free_port() -> int:
    """A port on which no program listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
