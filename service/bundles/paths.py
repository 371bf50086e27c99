"""Checks of paths that a user names."""

import os
import tempfile
from pathlib import Path

from service.errors import InputError


def check_input(option: str, path: Path) -> None:
    """Find out that a file can be read.

    Raises:
        InputError: naming the option, the path and why not.
    """
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise InputError(f"{option} is {path}: {error.strerror}; name a file that can be read") from error


def check_output(option: str, path: Path) -> None:
    """Find out that a file can be written, before the work whose result it is to hold.

    Raises:
        InputError: naming the option, the path and why not.
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
            f"{option} is {path}, where no file can be written: {path.parent}: {error.strerror}; make the folder or "
            "choose another"
        ) from error


def check_folder(option: str, path: Path) -> None:
    """Find out that a folder is there or can be made.

    Raises:
        InputError: naming the option, the path and why not.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"{option} is {path}, which cannot be a folder to write in: {error.strerror}") from error
