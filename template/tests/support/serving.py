"""The API in the test's own process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter
from httpx import ASGITransport, AsyncClient
from starlette.types import ASGIApp

from app.factory import create_app
from app.queues.base import TaskQueue
from app.settings import Settings


@asynccontextmanager
async def serving(
    settings: Settings, queue: TaskQueue | None = None, *routers: APIRouter
) -> AsyncIterator[AsyncClient]:
    """Give a client of the API, with these routes beside the service's; without a queue, on the real broker."""
    app = create_app(settings, queue)
    for router in routers:
        app.include_router(router)
    async with app.router.lifespan_context(app), connected(app) as client:
        yield client


@asynccontextmanager
async def connected(app: ASGIApp) -> AsyncIterator[AsyncClient]:
    """Give a client of an application; its unexpected errors are responses, as they are for a real client."""
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
