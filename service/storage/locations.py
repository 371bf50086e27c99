"""Which store a setting names."""

import re
from pathlib import Path
from typing import Any

import fsspec

from service.errors import InvalidError, without_password
from service.storage.directory import DirectoryStore
from service.storage.remote import RemoteStore
from service.storage.store import Store

PACKAGES = {"s3": "pip install 'supple[s3]'", "s3a": "pip install 'supple[s3]'"}
OPTIONS: dict[str, dict[str, Any]] = {  # a store that is away should say so within seconds, not minutes
    scheme: {"config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 2}}}
    for scheme in ("s3", "s3a")
}


def store_folder(location: str) -> Path | None:
    """The folder of a store; None if the store lies behind an address."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", location)
    if match is None:
        return Path(location)
    return Path(match[2]) if match[1] in ("file", "local") else None


def open_store(location: str, cache: Path, cache_gib: float) -> Store:
    """The store at a location: a directory, or an address such as s3://bucket/supple that fsspec knows.

    cache: the directory for copies of what lies behind an address. cache_gib: how large it may grow.

    Raises:
        InvalidError: the address cannot be used, or the package that reaches it is not installed.
        OSError: the directory cannot be made.
    """
    folder = store_folder(location)
    if folder is not None:
        return DirectoryStore(folder)
    scheme, _, place = location.partition("://")
    shown = without_password(location)
    if "@" in place:
        raise InvalidError(
            f"SUPPLE_STORE is {shown}, which holds a user or a password; give them to its library in the environment, "
            "such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if not place.strip("/"):
        raise InvalidError(f"SUPPLE_STORE is {shown}; name a bucket or a folder, such as {scheme}://bucket/supple")
    try:
        files, root = fsspec.core.url_to_fs(location, use_listings_cache=False, **OPTIONS.get(scheme, {}))
    except ImportError as error:
        how = PACKAGES.get(scheme, f"install what fsspec needs for {scheme}://")
        raise InvalidError(f"SUPPLE_STORE is {shown}, and what reaches it is not installed: {how}") from error
    except ValueError as error:
        raise InvalidError(f"SUPPLE_STORE is {shown}: {error}") from error
    return RemoteStore(files, root, shown, cache, int(cache_gib * 2**30))
