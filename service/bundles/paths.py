"""Checks of paths that a user gives. option: how messages name the argument."""

import os
import tempfile
from pathlib import Path

from service.errors import InputError


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
    if path.is_dir():
        raise InputError(f"{option} is {path}, a folder; name a file in it")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(13, "no permission to write it")
    except OSError as error:
        raise InputError(
            f"{option} is {path}, where no file can be written: {path.parent}: {error.strerror}; create the folder or "
            "choose another"
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
