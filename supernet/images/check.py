"""The check of all images before a run: every file is decoded once, and the results are cached."""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass
from hashlib import sha256
from pathlib import Path

import PIL

from supernet.files import write_atomically
from supernet.images.decode import examine

RULES = f"1, Pillow {PIL.__version__}"  # results of other rules are not used; raise the number when decoding changes
CHUNK = 256  # images between two reports of progress


@dataclass(frozen=True, slots=True)
class Checked:
    """The result for a file. size: bytes; modified: nanoseconds, the file's time of change.

    channels, brightest: as in `decode.Facts`. fault: why the file cannot be decoded, or None.
    """

    size: int
    modified: int
    channels: int
    brightest: int | None
    fault: str | None


class ImageCheck:
    """Which files of a folder can be decoded. A file of the same size and time of change is not decoded again.

    folder: the folder's real path names the results. cache: the folder for results.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        name = sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
        self._file = cache / "checked-images" / f"{name}.json"
        self.results = self._load()

    def run(self, paths: Sequence[str]) -> Iterator[int]:
        """Check files, relative to the folder, in parallel. Yields the number of files checked so far."""
        before = dict(self.results)
        try:
            with ThreadPoolExecutor() as pool:
                for first in range(0, len(paths), CHUNK):
                    chunk = paths[first : first + CHUNK]
                    self.results |= zip(chunk, pool.map(self._check, chunk), strict=True)
                    yield first + len(chunk)
        finally:
            if self.results != before:
                self._save()

    def _check(self, path: str) -> Checked:
        place = self.folder / path
        try:
            status = place.stat()
        except OSError as error:  # a symbolic link that leads nowhere
            return Checked(0, 0, 0, None, error.strerror)
        earlier = self.results.get(path)
        if earlier is not None and (earlier.size, earlier.modified) == (status.st_size, status.st_mtime_ns):
            return earlier
        try:
            return Checked(status.st_size, status.st_mtime_ns, *examine(place), None)
        except Exception as error:  # Pillow raises many kinds of errors for broken files
            fault = getattr(error, "strerror", None) or str(error).replace(str(place), "it") or type(error).__name__
            return Checked(status.st_size, status.st_mtime_ns, 0, None, fault)

    def _load(self) -> dict[str, Checked]:
        try:
            stored = json.loads(self._file.read_text())
            if stored["rules"] == RULES:
                return {path: Checked(*result) for path, result in stored["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or a damaged one
            pass
        return {}

    def _save(self) -> None:
        results = {path: astuple(result) for path, result in self.results.items()}
        with suppress(OSError):  # without the file, the next run checks again
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, json.dumps({"rules": RULES, "files": results}).encode())
