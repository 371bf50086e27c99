from pathlib import Path

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
    assert settings.store_directory == Path("/somewhere/store")
    monkeypatch.setenv("SUPPLE_DATABASE_URL", "postgresql://db/supple")
    monkeypatch.setenv("SUPPLE_STORE", "/elsewhere")
    settings = Settings()
    assert settings.database == "postgresql://db/supple"
    assert settings.store_directory == Path("/elsewhere")


@pytest.mark.parametrize("setting", [{"port": 70_000}, {"worker_id": "../other"}, {"colour": "red"}])
def test_bad_settings_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(setting))):
        Settings.model_validate(setting)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1
