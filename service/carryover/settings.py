"""The service's settings: environment variables, validated once at startup."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from carryover.errors import ConfigurationError

_LAST_PORT = 65535
_TEN_YEARS = 315_360_000
_Bytes = Annotated[int, Field(gt=0, le=2**50)]


class Settings(BaseSettings):
    """Every setting, named like its environment variable in lower case; an empty variable counts as unset."""

    model_config = SettingsConfigDict(env_ignore_empty=True)

    redis_url: str | None = Field(
        default=None, description="The Redis or Valkey server; without it the service runs an embedded Valkey"
    )
    redis_timeout: float = Field(default=2.0, gt=0, le=3600, description="Seconds that Redis has to reply")
    redis_min_replicas: NonNegativeInt = Field(
        default=0, le=100, description="How many replicas of Redis must have a step before it is acknowledged"
    )
    redis_replicas_timeout: float = Field(
        default=0.5, ge=0.001, le=3600, description="Seconds that the replicas have to confirm; below REDIS_TIMEOUT"
    )
    redis_prefix: str = Field(
        default="carryover",
        pattern=r"^[A-Za-z0-9._:-]{1,64}$",
        description="What all keys in Redis start with: a server can be shared",
    )
    data_dir: Path = Field(default=Path("data"), description="Folder of the embedded Valkey's data")
    model_repository: str = Field(default="checkpoints", description="Folder of models, or several separated by :")
    trust_pt2: bool = Field(
        default=False, description="Whether to load programs (model.pt2), which can run arbitrary code when loaded"
    )
    max_state_bytes: _Bytes = Field(default=16 * 2**20, description="Largest state of a session")
    bind: str = Field(default="127.0.0.1:8000", description="Address and port to listen on")
    workers: PositiveInt | None = Field(default=None, description="Worker processes; by default one per CPU")
    session_ttl: PositiveInt = Field(
        default=3600, le=_TEN_YEARS, description="Default seconds from a session's last step until it expires"
    )
    idempotency_ttl: PositiveInt = Field(
        default=3600, le=_TEN_YEARS, description="Seconds that a response is stored for retries"
    )
    max_batch: PositiveInt = Field(default=128, le=100_000, description="Most requests in one forward")
    max_queue: PositiveInt = Field(
        default=4096, le=2**31, description="Most requests that may wait for one model in one worker"
    )
    max_body_bytes: _Bytes = Field(default=16 * 2**20, description="Largest body, and longest line of a stream")
    max_inflight_bytes: _Bytes = Field(
        default=128 * 2**20, description="Most bytes of bodies that one worker holds at a time; at least MAX_BODY_BYTES"
    )
    body_timeout: float = Field(
        default=30.0, gt=0, le=3600, description="Seconds that a body, or each 256 KiB of a larger one, has to arrive"
    )
    send_timeout: float = Field(
        default=60.0, gt=0, le=3600, description="Seconds that a client has to read some more of a response"
    )
    max_streams: PositiveInt = Field(default=4096, le=2**31, description="Most streams of one worker at a time")
    max_stream_buffer: _Bytes = Field(
        default=4 * 2**20, description="Most bytes of responses that a stream keeps until its client reads them"
    )
    max_stream_idle: PositiveInt = Field(default=3600, le=_TEN_YEARS, description="Seconds that a stream may be idle")
    max_stream_seconds: PositiveInt = Field(default=86400, le=_TEN_YEARS, description="Seconds that a stream may last")
    graceful_timeout: PositiveInt = Field(
        default=30, le=_TEN_YEARS, description="Seconds that requests have to finish when a worker stops"
    )
    max_elements: PositiveInt = Field(
        default=4 * 2**20, le=2**40, description="Most elements in the inputs of a request, and in its outputs"
    )
    max_keyed_elements: PositiveInt = Field(
        default=128 * 1024, description="Most elements in the outputs of a step whose response is stored for retries"
    )
    max_sessions: PositiveInt = Field(
        default=1000, le=2**31, description="Most sessions in one request that steps several"
    )
    request_timeout: float = Field(
        default=75.0, gt=0, le=86400, description="Seconds that a model has for a request; then the response is 504"
    )
    log_format: Literal["text", "json"] = Field(default="text", description="Format of log lines")
    otel_exporter_otlp_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://.+",
        description="OpenTelemetry collector, OTLP over HTTP; without it, no spans",
    )
    triton_metrics: bool = Field(
        default=False, description="Whether /metrics also has Triton's names of metrics, nv_inference_*"
    )
    request_log: Literal["off", "errors", "all"] = Field(
        default="off", description="Which requests are logged: none, those of status 400 and up, or all"
    )

    api_keys: Path | None = Field(
        default=None, description="TOML file of API keys; without it anyone may call the service"
    )
    api_keys_exempt: Literal["none", "health", "health,metrics"] = Field(
        default="health", description="Routes that need no API key: none, the health routes, or those and /metrics"
    )
    cors_origins: str | None = Field(
        default=None,
        pattern=r"^(\*|https?://[A-Za-z0-9.:\[\]-]+)(,\s*(\*|https?://[A-Za-z0-9.:\[\]-]+))*$",
        description="Origins whose pages may use the service, separated by commas, or *; without it none",
    )

    @property
    def origins(self) -> frozenset[str]:
        """The origins in `cors_origins`."""
        return frozenset(origin.strip() for origin in (self.cors_origins or "").split(",") if origin)

    @property
    def exempt(self) -> frozenset[str]:
        """The scopes of routes that need no API key."""
        return frozenset(("open", *self.api_keys_exempt.split(",")))

    @property
    def model_folders(self) -> list[Path]:
        """The folders in `model_repository`."""
        return [Path(folder) for folder in self.model_repository.split(os.pathsep) if folder]

    @field_validator("bind")
    @classmethod
    def _port_exists(cls, value: str) -> str:
        port = value.rpartition(":")[2]
        if port.isdecimal() and int(port) > _LAST_PORT:
            raise ValueError(f"A port is at most {_LAST_PORT}")
        return value


def read() -> Settings:
    """Read the settings from the environment.

    Raises:
        ConfigurationError: names the variable, its value and what was expected.

    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = str(first["loc"][0]).upper()
        raise ConfigurationError(f"{variable}={first['input']}: {first['msg']}") from None
