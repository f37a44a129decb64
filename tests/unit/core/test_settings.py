"""Settings are read once, frozen, and a wrong one is told in a sentence that names its variable."""

from __future__ import annotations

from pathlib import Path

import pydantic
import pytest

from esper_core.errors import ConfigurationError, SettingsError
from esper_core.settings import (
    EsperSettings,
    Field,
    SecretStr,
    ServiceSettings,
    SettingsConfigDict,
    load,
    redact_text,
    split_host_port,
    unknown_variables,
)
from esper_core.settings.docs import main, render, resolve

pytestmark = pytest.mark.req("COR-4")


class SampleSettings(ServiceSettings):
    """Settings of a sample service."""

    model_config = SettingsConfigDict(env_prefix="SAMPLE_")
    required_peers = ("oona",)

    step_timeout_ms: float = Field(5.0, gt=0, description="Time budget of a step.")
    redis_url: str = Field("redis://user:hunter2@localhost:6379", description="Where Redis is.")
    api_key: SecretStr = Field(SecretStr("s3cret"), description="Key of the API.")


GOOD = {
    "SAMPLE_LISTEN": "127.0.0.1:50051",
    "SAMPLE_METRICS_LISTEN": "[::1]:9090",
    "SAMPLE_DATA_DIR": "/tmp/sample",
    "ESPER_KEYRING_FILE": "/tmp/keyring.json",
    "ESPER_OONA_ADDRESS": "localhost:50052",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_good_settings_load_and_are_frozen(environment: pytest.MonkeyPatch) -> None:
    settings = load(SampleSettings)
    assert settings.data_dir == Path("/tmp/sample")
    assert settings.peer("oona") == "localhost:50052"
    assert split_host_port(settings.metrics_listen) == ("::1", 9090)
    with pytest.raises(pydantic.ValidationError):
        settings.step_timeout_ms = 1.0


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_missing_variable_is_named(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.delenv(name)
    with pytest.raises(SettingsError, match=f"^{name} is not set") as caught:
        load(SampleSettings)
    assert caught.value.variable == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SAMPLE_LISTEN", "nowhere"),
        ("SAMPLE_LISTEN", "host:70000"),
        ("SAMPLE_STEP_TIMEOUT_MS", "-1"),
        ("SAMPLE_STEP_TIMEOUT_MS", "soon"),
        ("SAMPLE_LOG_LEVEL", "LOUD"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as caught:
        load(SampleSettings)
    assert value in str(caught.value) and "not allowed" in str(caught.value)


def test_several_problems_are_one_sentence_and_a_list(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("SAMPLE_LISTEN")
    environment.delenv("SAMPLE_DATA_DIR")
    with pytest.raises(SettingsError, match="Wrong as well: SAMPLE_DATA_DIR"):
        load(SampleSettings)


def test_a_peer_that_is_not_configured_is_named_when_asked_for(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="ESPER_URZA_ADDRESS"):
        load(SampleSettings).peer("urza")


def test_secrets_are_not_printed(environment: pytest.MonkeyPatch) -> None:
    shown = str(load(SampleSettings).redacted())
    assert "hunter2" not in shown and "s3cret" not in shown
    assert "redis://user:[hidden]@localhost:6379" in shown
    assert redact_text("Bearer esper1.abc.def") == "Bearer [hidden]"


def test_misspelt_variables_are_found(environment: pytest.MonkeyPatch) -> None:
    strays = {"SAMPLE_STEP_TIMOUT_MS": "1", "SAMPLE_PORT": "tcp://1.2.3.4", "SAMPLE_SERVICE_HOST": "1.2.3.4"}
    assert unknown_variables(SampleSettings, {**GOOD, **strays}) == {"SAMPLE_STEP_TIMOUT_MS": "SAMPLE_STEP_TIMEOUT_MS"}


def test_a_field_without_a_description_is_refused() -> None:
    with pytest.raises(TypeError, match="without a description: speed"):

        class Bare(EsperSettings):
            speed: int = 1


def test_the_reference_page(tmp_path: Path) -> None:
    page = render([SampleSettings])
    assert "| `SAMPLE_STEP_TIMEOUT_MS` | float > 0 | `5.0` | Time budget of a step. |" in page
    assert page.count("ESPER_KEYRING_FILE") == 1
    assert "hunter2" not in page and "s3cret" not in page
    target = tmp_path / "docs" / "settings.md"
    assert main(["-o", str(target), "esper_core.settings:ServiceSettings"]) == 0
    assert "ESPER_OONA_ADDRESS" in target.read_text(encoding="utf-8")
    with pytest.raises(ConfigurationError, match="not a settings class"):
        resolve("esper_core.errors:EsperError")
