"""What the environment says: `PORTFOLIO_DATABASE_URL` and so on."""

from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of the app."""

    model_config = SettingsConfigDict(env_prefix="PORTFOLIO_")

    database_url: SecretStr = SecretStr("sqlite:///portfolio.db")
    ecb_url: str = "https://data-api.ecb.europa.eu"
    currencies: Annotated[list[str], Field(min_length=1)] = ["CHF", "GBP", "JPY", "SEK", "USD"]


settings = Settings()
