"""All settings in one value, read from `PIXELMILL_*`; the same in the local stack, in compose and in a fleet."""

import os
import re
import ssl
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import UsageError

DEVICE_NAME = re.compile(r"cpu|mps|cuda(:\d+)?")
INPUT_PREFIX = re.compile(r"s3://[^/\s]+/(?:.*/)?")


class Settings(BaseSettings):
    """Secrets are `SecretStr`: a printed or logged `Settings` does not show them."""

    model_config = SettingsConfigDict(env_prefix="PIXELMILL_", env_ignore_empty=True, frozen=True, extra="ignore")

    redis_url: SecretStr = SecretStr("")  # redis://user:password@host:port/db
    redis_ca: Path | None = None  # certificates (PEM) that sign the broker's own; None: those of the system
    s3_endpoint: str = ""  # empty: AWS
    s3_region: str = "us-east-1"
    s3_bucket: str = "pixelmill"
    s3_access_key: SecretStr = SecretStr("")  # empty: boto3's own search for credentials
    s3_secret_key: SecretStr = SecretStr("")
    s3_ca: Path | None = None  # as redis_ca, of the storage; None: those that boto3 brings

    models: Path | None = None  # a models.toml laid over the built-in catalog
    model_cache: Path | None = None  # a folder for models from the storage; None: see `model_folder`
    devices: str = ""  # "cuda:0,cuda:2" or "cpu"; empty: every CUDA device, else the CPU
    threads: int = Field(0, ge=0)  # CPU threads per worker; 0: cores / workers
    batch_images: int = Field(8, ge=1, le=256)  # images in one model call, at most
    compile_models: Literal["", "regional", "graphs"] = ""  # torch.compile; a CUDA device draws faster, after minutes
    models_bytes: int = Field(8 << 30, ge=1)  # resident models per worker, least recently used go first

    shard_rows: int = Field(64, ge=1, le=1024)
    lease_s: float = Field(60.0, gt=0, le=86_400)
    heartbeat_s: float = Field(1.0, gt=0, le=86_400)  # a canceled run stops within it, and a step
    hang_s: float = Field(900.0, gt=0, le=86_400)  # without a step of the model; then its process is ended
    grace_s: float = Field(25.0, gt=0, le=86_400)  # between SIGTERM and SIGKILL for the workers of a supervisor
    tick_s: float = Field(5.0, gt=0, le=86_400)  # dispatch in each supervisor
    redeliver_s: float = Field(10.0, gt=0, le=86_400)  # a sent shard that nobody claimed goes out again

    max_rows: int = Field(10_000_000, ge=1)
    max_row_bytes: int = Field(1 << 20, ge=1, le=1 << 28)
    max_prompt_chars: int = Field(10_000, ge=1)
    max_images_per_row: int = Field(64, ge=1)
    input_prefixes: str = ""  # "s3://bucket/prefix/,s3://..." that image cells may name; empty: the run's own bucket
    max_input_bytes: int = Field(256 << 20, ge=1)  # of a picture's file
    max_input_pixels: int = Field(100_000_000, ge=1)  # of a picture, or of the canvas that it is extended to

    @field_validator("devices")
    @classmethod
    def _names_devices(cls, value: str) -> str:
        for name in value.split(",") if value else ():
            if not DEVICE_NAME.fullmatch(name.strip()):
                raise ValueError(f"{name!r} is no device; expected names such as cuda:0, mps or cpu")
        return value

    @field_validator("redis_ca", "s3_ca")
    @classmethod
    def _holds_certificates(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                ssl.create_default_context(cafile=value)
            except OSError as error:  # SSLError is one
                raise ValueError(f"cannot be read as certificates ({error.strerror}); expected a PEM file") from error
        return value

    @field_validator("input_prefixes")
    @classmethod
    def _names_prefixes(cls, value: str) -> str:
        for prefix in value.split(",") if value else ():
            if not INPUT_PREFIX.fullmatch(prefix.strip()):
                raise ValueError(f"{prefix!r} is no prefix; expected names such as s3://bucket/ or s3://bucket/photos/")
        return value

    @model_validator(mode="after")
    def _encrypts_where_a_ca_is_named(self) -> Self:
        if self.redis_ca and not self.redis_tls:
            raise ValueError("redis_ca is set; expected a redis_url of rediss://, which encrypts")
        if self.s3_ca and self.s3_endpoint.startswith("http://"):
            raise ValueError("s3_ca is set; expected an s3_endpoint of https://, which encrypts")
        return self

    @property
    def model_folder(self) -> Path:
        """Where this host keeps the models that it fetched from the storage."""
        user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        return self.model_cache or Path(user) / "pixelmill" / "models"

    @property
    def redis_tls(self) -> bool:
        return self.redis_url.get_secret_value().startswith("rediss://")

    @model_validator(mode="after")
    def _beats_before_the_lease_ends(self) -> Self:
        if self.heartbeat_s * 2 > self.lease_s:
            raise ValueError(
                f"heartbeat_s is {self.heartbeat_s:g}; expected at most half of lease_s ({self.lease_s:g})"
            )
        return self


def load() -> Settings:
    """Settings from the environment. Raises UsageError that names the variable at fault."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # several settings together; the input would show all of them
            raise UsageError(f"settings PIXELMILL_*: {first['msg']}") from None
        name = "PIXELMILL_" + "_".join(str(part) for part in first["loc"]).upper()
        raise UsageError(f"setting {name}: found {first['input']!r}: {first['msg']}") from error
