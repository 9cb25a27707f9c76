"""What the environment says: `REALTIME_DATABASE_URL` and so on."""

from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of the app.

    Attributes:
        files: The directory of the files that operations look at.
        parallel: How many files are looked at at the same time.
        per_minute: How many operations one user may start in a minute.
        demo_token: Lets a user "demo" in.
    """

    model_config = SettingsConfigDict(env_prefix="REALTIME_")

    database_url: SecretStr = SecretStr("sqlite:///realtime.db")
    files: Path = Path("realtime")
    parallel: int = 4
    per_minute: int = 10
    demo_token: SecretStr | None = None


settings = Settings()
