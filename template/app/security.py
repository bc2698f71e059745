"""Who is calling: API keys, sent as `Authorization: Bearer <key>`."""

import hmac
from collections.abc import Iterable
from hashlib import sha256
from typing import Annotated

from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection

bearer = HTTPBearer(auto_error=False, description="An API key of this service.")


class ApiKeys:
    """The keys that may be used, each with the name of its owner; without any, everybody may call."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._owners = {_digest(key): name for name, key in pairs}

    def owner_of(self, key: str | None) -> str | None:
        """Return whose key it is: "" for anybody where no keys are set, None for a wrong one.

        Every key is compared, and in constant time, so that the time of the answer tells nothing.
        """
        if not self._owners:
            return ""
        given = _digest(key or "")
        found: str | None = None
        for digest, name in self._owners.items():
            if hmac.compare_digest(digest, given):
                found = name
        return found


async def get_caller(
    connection: HTTPConnection, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> str:
    """Return the caller's name. Raises 401 for a missing or wrong key."""
    keys: ApiKeys = connection.app.state.api_keys
    owner = keys.owner_of(credentials.credentials if credentials else None)
    if owner is None:
        raise HTTPException(
            401, "Send an API key of this service: Authorization: Bearer <key>", {"WWW-Authenticate": "Bearer"}
        )
    return owner


Caller = Annotated[str, Depends(get_caller)]
"""The name of who is calling; tasks belong to it."""


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()
