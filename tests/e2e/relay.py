"""Runs in a pod: passes on to a Service what comes to its loopback, where `kubectl port-forward` ends.

`python3 relay.py HOST PORT`
"""

import asyncio
import sys
from contextlib import suppress

LOOPBACK = "127.0.0.1"
CHUNK_BYTES = 1 << 16


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on until one side ends."""
    with suppress(OSError):
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    writer.close()


async def main(host: str, port: str) -> None:
    """Serve until the pod ends."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pipe(reader, there[1]), pipe(there[0], writer))

    async with await asyncio.start_server(relay, LOOPBACK, int(port)) as server:
        sys.stdout.write("relaying\n")
        sys.stdout.flush()
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
