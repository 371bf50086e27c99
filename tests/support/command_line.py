"""The command line for tests."""

import re
from collections.abc import Callable
from typing import NamedTuple


class Ran(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    stdout: str
    stderr: str


Run = Callable[..., Ran]


def refused(ran: Ran, code: int, message: str) -> None:
    assert ran.code == code, ran.stderr
    assert re.search(message, ran.stderr), ran.stderr
    assert ran.stderr.count("\n") == 1, ran.stderr
    assert ran.stderr.startswith("error: ")
