"""The settings, read once from environment variables `CHAT_…`."""

import hmac
import os
import secrets
import tempfile
from contextlib import suppress
from functools import cache
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from phonenumbers import SUPPORTED_REGIONS
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from chat_app import addresses

LOCAL_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _check_region(region: str) -> str:
    if region not in SUPPORTED_REGIONS:
        raise ValueError("must be the code of a country in capital letters, such as RU")
    return region


def _check_proxy(proxy: str) -> str:
    if proxy != "*":
        # uvicorn would take anything else for a name that no address ever has.
        ip_network(proxy)
    return proxy


def _is_wide(proxy: str) -> bool:
    """Whether it stands for more addresses than the proxies of one installation have."""
    network = ip_network("0.0.0.0/0" if proxy == "*" else proxy)
    return network.prefixlen < (16 if network.version == 4 else 48)


# In the environment, values are separated by commas.
Listed = Annotated[list[str], NoDecode, BeforeValidator(_split)]
Proxies = Annotated[list[Annotated[str, AfterValidator(_check_proxy)]], NoDecode, BeforeValidator(_split)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(addresses.check_database)]
BusUrl = Annotated[SecretStr, AfterValidator(addresses.check_bus)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="CHAT_", extra="forbid", hide_input_in_errors=True)

    env: Literal["development", "production"] = "development"
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    data_dir: Path = Path(".data")
    database_url: DatabaseUrl | None = None
    database_pool: int = 10
    bus_url: BusUrl | None = None
    media_url: str | None = None
    public_url: str | None = None
    secret: SecretStr | None = None
    access_seconds: int = Field(default=900, ge=1, le=31_536_000)
    cors_origins: Listed = []
    phone_region: Annotated[str, AfterValidator(_check_region)] = "RU"
    sms_url: SecretStr | None = None
    phone_verification: Literal["optional", "required"] = "optional"
    rate_limits: Literal["on", "off", "load-test"] = "on"
    trusted_proxies: Proxies = []
    log_format: Literal["console", "json"] | None = None
    log_lines: Literal["stages", "requests"] = "stages"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    revision: str = "unknown"

    def unsafe(self) -> list[str]:
        """The settings that production refuses, explained for the operator."""
        if self.is_development:
            return []
        secret = self.secret.get_secret_value() if self.secret else ""
        found = {
            "CHAT_SECRET must be set to 32 bytes or more": len(secret.encode()) < 32,
            "CHAT_SECRET must be random": len(set(secret)) < 10,
            "CHAT_CORS_ORIGINS must name the origins of your pages, not *": "*" in self.cors_origins,
            "CHAT_LOG_LEVEL must not be DEBUG": self.log_level == "DEBUG",
            "CHAT_DATABASE_URL must be set": self.database_url is None,
            "CHAT_ACCESS_SECONDS is for development only": "access_seconds" in self.model_fields_set,
            "CHAT_RATE_LIMITS must not be off; use load-test for load tests": self.rate_limits == "off",
            "CHAT_TRUSTED_PROXIES must not be * or wider than /16, IPv6 /48": any(map(_is_wide, self.trusted_proxies)),
        }
        return [text for text, is_so in found.items() if is_so]

    @property
    def is_development(self) -> bool:
        return self.env == "development"

    @property
    def signing_secret(self) -> bytes:
        """The key for tokens and URLs. In development it is generated once and kept in the data directory."""
        if self.secret:
            return self.secret.get_secret_value().encode()
        if not self.is_development:
            raise ValueError("CHAT_SECRET is required in production")
        return _development_secret(self.data_dir.resolve())

    @property
    def asyncpg_url(self) -> str:
        """The database URL for SQLAlchemy, with any driver suffix replaced."""
        assert self.database_url, "CHAT_DATABASE_URL is not set and no embedded database was started"
        return f"postgresql+asyncpg://{self.database_url.get_secret_value().partition('://')[2]}"

    @property
    def media_location(self) -> str:
        """The URL of the file storage."""
        return self.media_url or (self.data_dir.resolve() / "media").as_uri()

    @property
    def base_url(self) -> str:
        """The start of URLs in answers. In production without `CHAT_PUBLIC_URL` it is empty, and they are paths."""
        return self.any_host or (self.public_url or "").rstrip("/")

    @property
    def any_host(self) -> str | None:
        """In development, unless `CHAT_PUBLIC_URL` is set, the mark for the host of each client: see `media/links.py`.

        Nobody can guess it, so no text contains it.
        """
        if not self.is_development or self.public_url is not None:
            return None
        return f"http://{hmac.digest(self.signing_secret, b'any host', 'sha256').hex()}"


@cache
def _development_secret(data_dir: Path) -> bytes:
    path = data_dir / "secret"
    data_dir.mkdir(parents=True, exist_ok=True)
    # Several servers that share the folder may start at once, so the complete file is linked to its name.
    with tempfile.NamedTemporaryFile("w", dir=data_dir, prefix="secret-") as draft, suppress(FileExistsError):
        draft.write(secrets.token_hex(32))
        draft.flush()
        os.link(draft.name, path)
    return path.read_bytes().strip()


_settings: Settings | None = None


def get_settings() -> Settings:
    """The settings of this process."""
    return _settings or use_settings(Settings())


def use_settings(settings: Settings) -> Settings:
    """Replace the settings of this process, for example to add the URL of the embedded database."""
    global _settings
    _settings = settings
    return settings
