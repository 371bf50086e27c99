import pytest
from pydantic import ValidationError

from service.settings import Settings


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPPLE_DATA_DIRECTORY", "/somewhere")
    monkeypatch.setenv("SUPPLE_PORT", "9000")
    settings = Settings()
    assert settings.port == 9000
    assert settings.database == "sqlite:////somewhere/supple.db"
    assert settings.store_location == "/somewhere/store"
    monkeypatch.setenv("SUPPLE_DATABASE_URL", "postgresql://db/supple")
    monkeypatch.setenv("SUPPLE_STORE", "s3://bucket/elsewhere")
    settings = Settings()
    assert settings.database == "postgresql://db/supple"
    assert settings.store_location == "s3://bucket/elsewhere"


@pytest.mark.parametrize(
    "setting",
    [
        {"port": 70_000},
        {"worker_id": "../other"},
        {"colour": "red"},
        {"root_path": "supple"},
        {"root_path": "/../supple"},
        {"root_path": "//elsewhere"},
        {"root_path": "/v1"},
        {"trusted_proxies": "proxy.example"},
        {"trusted_proxies": "10.0.0.1/8"},
        {"rate_limit": "0/minute"},
        {"rate_limit": "many"},
        {"rate_limit": "10/minute;1/second"},
    ],
)
def test_bad_settings_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(setting))):
        Settings.model_validate(setting)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1


@pytest.mark.parametrize(("root_path", "prefix"), [("", ""), ("/", ""), ("/supple/", "/supple"), ("/a/b", "/a/b")])
def test_a_root_path_ends_without_a_slash(root_path: str, prefix: str) -> None:
    assert Settings(root_path=root_path).root_path == prefix
