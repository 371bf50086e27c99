"""Checks of paths that a user gives. option: how messages name the argument."""

import errno
import os
import tempfile
from pathlib import Path

from service.errors import InputError
from supernet.files import is_stream, real


def check_input(option: str, path: Path) -> None:
    """Check that a file can be read.

    Raises:
        InputError: it cannot be read; the message says why.
    """
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise InputError(f"{option} is {path}: {error.strerror}; name a file that can be read") from error


def check_output(option: str, path: Path) -> None:
    """Check, before the work, that its result can be written to a file.

    Raises:
        InputError: it cannot be written; the message says why.
    """
    target = real(path)
    try:
        if path.is_dir():
            raise InputError(f"{option} is {path}, a folder; name a file in it")
        if path.is_socket() or path.is_block_device():
            raise InputError(f"{option} is {path}, a {'socket' if path.is_socket() else 'disk'}; name a file")
        if not is_stream(path):
            with tempfile.TemporaryFile(dir=target.parent):
                pass
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "no permission to write it")
    except OSError as error:
        raise InputError(
            f"{option} is {path}, where no file can be written: {target.parent}: {error.strerror}; create the folder "
            "or choose another"
        ) from error


def check_folder(option: str, path: Path) -> None:
    """Create a folder if it is missing, and check that files can be written there.

    Raises:
        InputError: the folder cannot be used; the message says why.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"{option} is {path}, which cannot be a folder to write in: {error.strerror}") from error
