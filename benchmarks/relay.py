"""Passes connections on to a server that must not be harmed: stop this process, and the server seems to stand still.

python benchmarks/relay.py PORT HOST:PORT
"""

import asyncio
import sys


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction of a connection until its end."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def main(port: int, host: str, server_port: int) -> None:
    """Listen, and connect each client to the server."""

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(host, server_port)
        await asyncio.gather(pump(reader, to_server), pump(from_server, writer), return_exceptions=True)

    server = await asyncio.start_server(connect, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    host, _, server_port = sys.argv[2].rpartition(":")
    asyncio.run(main(int(sys.argv[1]), host, int(server_port)))
