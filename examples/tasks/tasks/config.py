"""What the environment says."""

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of the app: `TASKS_DATABASE_URL` and so on."""

    model_config = SettingsConfigDict(env_prefix="TASKS_")

    database_url: SecretStr = SecretStr("postgresql://localhost/tasks")
