"""Settings, from the environment."""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class DatabaseSettings(BaseSettings):
    """`REPORTS_DATABASE_URL`, `REPORTS_DATABASE_POOL_SIZE` and so on."""

    model_config = SettingsConfigDict(env_prefix="REPORTS_DATABASE_")

    url: SecretStr = SecretStr("mysql://reports@127.0.0.1/reports")
    pool_size: int = Field(default=10, ge=1)
    warn_after: float = Field(default=5, gt=0)  # seconds that a request may hold a connection


class LLMSettings(BaseSettings):
    """`REPORTS_LLM_URL`, `REPORTS_LLM_API_KEY` and so on: any OpenAI-compatible endpoint."""

    model_config = SettingsConfigDict(env_prefix="REPORTS_LLM_")

    url: str = "https://api.openai.com/v1"
    api_key: SecretStr = SecretStr("none")  # servers of one's own ask for none
    model: str = "gpt-4.1-mini"
    timeout: float = Field(default=60, gt=0)  # seconds, for each attempt
    parallel: int = Field(default=100, ge=1)  # calls at the same time, of all requests together
