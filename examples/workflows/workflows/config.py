"""What the environment says: `WORKFLOWS_DATABASE_URL` and so on."""

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of the app.

    Attributes:
        ai_url: Of any service that speaks OpenAI's language.
        ai_seconds: How long an answer may take.
        lease_seconds: After so long without a sign of life, a run counts as interrupted.
        parallel: How many answers one process waits for at the same time.
    """

    model_config = SettingsConfigDict(env_prefix="WORKFLOWS_")

    database_url: SecretStr = SecretStr("postgresql://localhost/workflows")
    ai_url: str = "https://api.openai.com/v1"
    ai_key: SecretStr = SecretStr("none")
    ai_model: str = "gpt-5-mini"
    ai_seconds: float = 60.0
    lease_seconds: float = 30.0
    parallel: int = 8


settings = Settings()
