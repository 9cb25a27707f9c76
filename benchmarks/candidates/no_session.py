"""The floor: what FastAPI itself costs, without any session."""

from fastapi import FastAPI


def make_app(_url: str) -> FastAPI:
    app = FastAPI()

    @app.get("/nothing")
    async def nothing() -> None:
        pass

    return app
