"""Writing files so that a crash or a full disk leaves the old file or the new one, never a half-written one."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

NAME_LENGTH = 40  # of a temporary file's name, which must fit where the final name fits


def sha256(path: Path) -> str:
    """64 hexadecimal digits: the SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and flush it to disk.

    Raises:
        OSError: naming the file and what to do.
    """
    _write(path, data, "wb")


def _write(path: Path, data: bytes, mode: Literal["wb", "ab"]) -> None:
    try:
        with open(path, mode) as file:
            file.write(data)
            file.flush()
            if path.is_file():  # devices and pipes cannot be flushed to a disk
                os.fsync(file.fileno())
    except OSError as error:  # Python names no file when writing or flushing fails
        advice = "nothing is left half-written; make room or choose another folder, then run again"
        raise OSError(error.errno, f"{error.strerror}; {advice}", str(path)) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, flush it to disk, then rename it into place.

    A symbolic link stays; the file that it leads to is replaced. A device or a pipe stays, too, and takes the bytes.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    if is_stream(path):
        write_synced(path, data)
        return
    path = real(path)
    temporary = path.with_name(f".{path.name[:NAME_LENGTH]}.{os.getpid()}.tmp")
    try:
        write_synced(temporary, data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def is_stream(path: Path) -> bool:
    """Whether a path leads to a device, a pipe or a socket, in whose place no file must ever appear."""
    return path.exists() and not path.is_file() and not path.is_dir()


def real(path: Path) -> Path:
    """The path without symbolic links, `.` and `..`, whether or not a file is there."""
    return Path(os.path.realpath(path))


def sync(path: Path) -> None:
    """Make a file, or the renames in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Journal:
    """A file of JSON values, one per line, to append results to. A crash loses at most the last line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text() if path.is_file() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # the last line was cut short
            write_atomically(path, whole.encode())
        self.lines: list[Any] = [json.loads(line) for line in whole.splitlines()]

    def add(self, line: Any) -> None:
        """Append a result.

        Raises:
            OSError: naming the file and what to do; earlier results are intact.
        """
        _write(self.path, (json.dumps(line) + "\n").encode(), "ab")
        self.lines.append(line)
