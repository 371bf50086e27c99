"""Settings of the service, from environment variables named `SUPPLE_` and the setting's name in capitals."""

import ipaddress
import re
from pathlib import Path
from urllib.parse import quote

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.logs import LogFormat, LogLevel

OWN_PATHS = ("v1", "static", "docs", "searches", "fronts", "login", "logout")


class Settings(BaseSettings):
    """The settings of one process. The defaults work on one machine."""

    model_config = SettingsConfigDict(env_prefix="SUPPLE_", extra="forbid", frozen=True, str_strip_whitespace=True)

    data_directory: Path = Field(
        default=Path("supple-data"),
        description="Directory of the SQLite file and the artifact store, unless `database_url` or `store` is set.",
    )
    database_url: str = Field(
        default="",
        description="sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME; empty: a file in the data directory.",
    )
    store: str = Field(
        default="",
        description="The artifact store: a directory, or an address such as s3://bucket/supple; empty: `store` in the "
        "data directory.",
    )
    store_cache_gib: float = Field(
        default=20.0,
        gt=0,
        description="How large `store-cache` in the data directory may grow, which keeps copies from an address, GiB.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on. Off loopback, requests need a key.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on.")
    root_path: str = Field(
        default="", description="Path prefix under which a reverse proxy offers the service, such as /supple."
    )
    trusted_proxies: str = Field(
        default="127.0.0.1,::1",
        description="Addresses or networks of reverse proxies, with commas between them. X-Forwarded-For and "
        "X-Forwarded-Proto count from these alone.",
    )
    api_key: SecretStr = Field(
        default=SecretStr(""),
        description="A key for everything, beside those in the database. If set, requests need a key on any address.",
    )
    rate_limit: str = Field(
        default="1200/minute",
        description="Requests that one key may send to one process of the API, such as 20/second; empty: no limit.",
    )
    insecure: bool = Field(default=False, description="Serve any address without keys.")
    worker_id: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._-]{0,64}$",
        description="Name of this worker, unique among living workers; empty: host and process id.",
    )
    log_format: LogFormat = Field(
        default="plain", description="plain: lines for people. json: one JSON object a record, for machines."
    )
    log_level: LogLevel = Field(default="info", description="Log Supple's records from this level on.")

    @field_validator("log_format", "log_level", mode="before")
    @classmethod
    def _in_lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("root_path")
    @classmethod
    def _is_prefix(cls, path: str) -> str:
        path = path.rstrip("/")
        if not re.fullmatch(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*", path):
            raise ValueError("write a path such as /supple or /tools/supple")
        if path and path.split("/")[1] in OWN_PATHS:
            raise ValueError("paths of the service itself begin so; choose another prefix")
        return path

    @field_validator("api_key")
    @classmethod
    def _cannot_be_guessed(cls, key: SecretStr) -> SecretStr:
        text = key.get_secret_value()
        if text and not re.fullmatch(r"[!-~]{20,200}", text):
            raise ValueError("use 20 to 200 letters, digits and signs; `openssl rand -hex 32` prints some")
        return key

    @field_validator("rate_limit")
    @classmethod
    def _is_rate(cls, limit: str) -> str:
        if limit and not re.fullmatch(r"[1-9][0-9]{0,8}/(second|minute|hour|day)", limit):
            raise ValueError("write a number of requests and a time, such as 1200/minute or 20/second")
        return limit

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, proxies: str) -> str:
        for proxy in filter(None, map(str.strip, proxies.split(","))):
            ipaddress.ip_network(proxy)  # its ValueError names the text
        return proxies

    @property
    def database(self) -> str:
        """The database's URL: `database_url` or its default."""
        return self.database_url or sqlite_url(self.data_directory / "supple.db")

    @property
    def store_location(self) -> str:
        """The artifact store's directory or address: `store` or its default."""
        return self.store or str(self.data_directory / "store")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach `host`."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def needs_key(self) -> bool:
        """Whether requests must carry a key."""
        return not self.insecure and not (self.loopback and not self.api_key.get_secret_value())


def sqlite_url(file: Path) -> str:
    """The address of a SQLite file, with `?`, `%` and other signs that mean something in an address as escapes."""
    return f"sqlite:///{quote(str(file), safe=' +/')}"
