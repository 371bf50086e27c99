"""Writing files so that a crash or a full disk leaves the old one or the new one, never half of one."""

import hashlib
import os
from pathlib import Path


def sha256(path: Path) -> str:
    """64 hexadecimal digits: the SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and flush it to disk.

    Raises:
        OSError: naming the file, and what to do.
    """
    try:
        with open(path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # Python names no file when writing or flushing fails
        advice = "nothing is left half-written; make room or choose another folder, then run again"
        raise OSError(error.errno, f"{error.strerror}; {advice}", str(path)) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, flush it to disk, then rename it into place.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_synced(temporary, data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file, or the renames in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
