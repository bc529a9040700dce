"""The web process: its routes."""

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from pacs_core.web.health import Health, PartHealth


def create_app(health: Health) -> FastAPI:
    """The application; everything it serves comes in through its arguments."""
    app = FastAPI(title="pacs", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/live")
    async def live() -> dict[str, str]:
        """This process runs."""
        return {"status": "live"}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """PostgreSQL and the landing storage answer: instances can be taken and queries answered."""
        return _report(await health.ready())

    @app.get("/health")
    async def whole() -> JSONResponse:
        """Every part of the archive."""
        return _report(await health.all())

    return app


def _report(parts: dict[str, PartHealth]) -> JSONResponse:
    well = all(part.ok for part in parts.values())
    content = {"status": "ok" if well else "down", "parts": {name: part.as_json() for name, part in parts.items()}}
    return JSONResponse(content, status_code=200 if well else 503)
