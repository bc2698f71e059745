"""The largest request body that is read: more is answered with 413 before anything is done with it."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import problem


class BodyLimit:
    """Refuses bodies of more than `max_bytes`, whether their length is told or not."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        if length.isdigit():
            messages: list[Message] | None = [] if int(length) <= self._max_bytes else None
        elif b"transfer-encoding" in headers:
            messages = await self._read(receive)
        else:
            messages = []
        if messages is None:
            detail = f"The body is larger than {self._max_bytes} bytes."
            await problem(413, detail, headers={"Connection": "close"})(scope, receive, send)
            return

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, replay if messages else receive, send)

    async def _read(self, receive: Receive) -> list[Message] | None:
        """Read a body of unknown length; return its parts, or None if it is too large."""
        messages: list[Message] = []
        size = 0
        while not messages or messages[-1].get("more_body", False):
            messages.append(await receive())
            size += len(messages[-1].get("body", b""))
            if size > self._max_bytes:
                return None
        return messages
