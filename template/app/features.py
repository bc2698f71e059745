"""Finding features by name: a folder in app/ with a router.py, tasks.py or models.py is one, with nothing to edit."""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from types import ModuleType

from fastapi import APIRouter, Depends, FastAPI

import app as package
from app.security import get_caller


class FeatureError(Exception):
    """A feature's file does not hold what its name promises; the message says which and what to do."""


def load(kind: str) -> Iterator[ModuleType]:
    """Import `kind`.py of every feature that has one, in the order of their names, and yield the modules."""
    for feature in sorted(iter_modules(package.__path__), key=lambda module: module.name):
        name = f"{package.__name__}.{feature.name}.{kind}"
        if feature.ispkg and find_spec(name) is not None:
            yield import_module(name)


def load_models() -> None:
    """Import every feature's models, so that the metadata holds all tables."""
    for _ in load("models"):
        pass


def load_tasks() -> None:
    """Import every feature's tasks, so that the registry holds them. Raises TaskDefinitionError for a wrong one."""
    for _ in load("tasks"):
        pass


def mount_routers(app: FastAPI) -> None:
    """Add every feature's routes, for callers with an API key. Raises FeatureError if a router.py has no `router`."""
    for module in load("router"):
        router = getattr(module, "router", None)
        if not isinstance(router, APIRouter):
            raise FeatureError(f"{module.__name__} has no `router`: add router = APIRouter(prefix=...)")
        app.include_router(router, dependencies=[Depends(get_caller)])
