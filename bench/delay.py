"""A TCP proxy that makes every byte late: `python -m bench.delay --to PORT --seconds 0.025` prints its own port.

Each way takes so long, whatever the amount; the order of the bytes is kept and the bandwidth is not limited.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

_BLOCK = 1 << 20


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """Pass on what comes, late; what comes meanwhile is on its way too."""
    loop = asyncio.get_running_loop()
    on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            due, data = await on_the_way.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not data:
                break
            writer.write(data)
        with contextlib.suppress(OSError):
            writer.write_eof()

    delivering = asyncio.create_task(deliver())
    data = b"x"
    while data:
        try:
            data = await reader.read(_BLOCK)
        except OSError:
            data = b""
        on_the_way.put_nowait((loop.time() + seconds, data))
    await delivering


async def _serve(to: int, seconds: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2 * seconds)  # the handshake's round trip
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", to)
        ways = (_carry(reader, upstream_writer, seconds), _carry(upstream_reader, writer, seconds))
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, upstream_writer):
            end.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.delay", description=__doc__)
    parser.add_argument("--to", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=0.025)
    options = parser.parse_args()
    asyncio.run(_serve(options.to, options.seconds))


if __name__ == "__main__":
    main()
