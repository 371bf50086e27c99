"""Processes that we start, and the port that one of them listens on.

Each is a `supple` command with `--child`, and none outlives the process that started it.

The child's standard input is a pipe whose other end we hold and never write to. However we end, the system closes our
end, and the child, which waits for that, stops as it would on SIGTERM.
"""

import os
import signal
import socket
import subprocess
import sys
import threading

from service.errors import UnavailableError
from service.settings import Settings


def start(command: str, settings: Settings) -> "subprocess.Popen[bytes]":
    """Run `supple COMMAND --child` with exactly these settings, whatever the environment says."""
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith("SUPPLE_")}
    environment |= {f"SUPPLE_{name.upper()}": str(value) for name, value in settings if value is not None}
    arguments = [sys.executable, "-m", "service.cli", command, "--child"]
    return subprocess.Popen(arguments, env=environment, stdin=subprocess.PIPE)


def stop(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """SIGTERM; SIGKILL after so many seconds. Returns once the process is gone."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def end_with_parent() -> None:
    """In a child: send ourselves SIGTERM once the process that started us is gone."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def check_port(host: str, port: int) -> None:
    """Find out that a port can be listened on.

    Raises:
        UnavailableError: another program has it, or the host is none of this machine's addresses.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
    except OSError as error:
        raise UnavailableError(
            f"cannot listen on {host}, port {port}: {error.strerror}; choose another with --port, or 0 for a free one"
        ) from error
