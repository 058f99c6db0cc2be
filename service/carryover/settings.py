"""The service's settings: environment variables, checked once at the start."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from carryover.errors import ConfigurationError

_LAST_PORT = 65535
_TEN_YEARS = 315_360_000
_Bytes = Annotated[int, Field(gt=0, le=2**50)]


class Settings(BaseSettings):
    """Every setting by the name of its environment variable, in lower case; one that is empty is not set."""

    model_config = SettingsConfigDict(env_ignore_empty=True)

    redis_url: str | None = Field(
        default=None, description="The Redis or Valkey server; without it the service starts its own"
    )
    redis_timeout: float = Field(default=2.0, gt=0, le=3600, description="Seconds that Redis has for an answer")
    data_dir: Path = Field(default=Path("data"), description="Where the service's own Valkey keeps its data")
    model_repository: str = Field(default="checkpoints", description="The folder of models, or several with : between")
    trust_pt2: bool = Field(
        default=False, description="Whether to load programs (model.pt2), which can run any code when they are loaded"
    )
    max_state_bytes: _Bytes = Field(default=16 * 2**20, description="The largest state that a session may grow to")
    bind: str = Field(default="127.0.0.1:8000", description="Address and port to listen on")
    workers: PositiveInt | None = Field(default=None, description="Worker processes; without it one for each CPU")
    session_ttl: PositiveInt = Field(
        default=3600, le=_TEN_YEARS, description="Seconds that a session lives after its last use"
    )
    idempotency_ttl: PositiveInt = Field(
        default=3600, le=_TEN_YEARS, description="Seconds that an answer is kept for repeats"
    )
    max_batch: PositiveInt = Field(default=128, le=100_000, description="The most requests that one forward takes")
    max_queue: PositiveInt = Field(
        default=4096, le=2**31, description="The most requests that may wait for one model in one worker"
    )
    max_body_bytes: _Bytes = Field(default=16 * 2**20, description="The largest body, and the longest line of a stream")
    graceful_timeout: PositiveInt = Field(
        default=30, le=_TEN_YEARS, description="Seconds that requests have to finish when a worker is stopped"
    )
    log_format: Literal["text", "json"] = Field(default="text", description="How log lines look")

    @property
    def model_folders(self) -> list[Path]:
        """The folders that `model_repository` names."""
        return [Path(folder) for folder in self.model_repository.split(os.pathsep) if folder]

    @field_validator("bind")
    @classmethod
    def _port_exists(cls, value: str) -> str:
        port = value.rpartition(":")[2]
        if port.isdecimal() and int(port) > _LAST_PORT:
            raise ValueError(f"A port is at most {_LAST_PORT}")
        return value


def read() -> Settings:
    """Read the environment.

    Raises:
        ConfigurationError: with the variable, its value and what was expected.

    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = str(first["loc"][0]).upper()
        raise ConfigurationError(f"{variable}={first['input']}: {first['msg']}") from None
