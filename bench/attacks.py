"""Attacks with what strangers have: a connection, one slot, an address.

``python -m bench.attacks`` runs some of them, each from a loopback address of its own, until its standard input ends.
It prints a line when all have begun, and at the end how often each was tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bench.names import signed_path

MIB = 1024 * 1024
#: The first of the addresses that the attacks come from, one each.
_NETWORK = "127.0.66."
#: Between two bytes of what is dribbled: far below any time limit.
_DRIBBLE_SECONDS = 0.9
#: After a connection was refused, and between the requests of a flood on one connection.
_PAUSE_SECONDS = 0.05
_ANSWER_BYTES = 65536


class Target(NamedTuple):
    """A server under attack, on loopback ports."""

    port: int
    metrics_port: int
    secret: str


class Attacker:
    """Has connections from one address, and counts what it tried."""

    def __init__(self, target: Target, address: str) -> None:
        self.target = target
        self.tries = 0
        self._address = address

    async def crowd(
        self, size: int, act: Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]
    ) -> None:
        """So many connections at a time on which ``act`` is run; one that ends is followed by another."""
        await asyncio.gather(*(self._again_and_again(act, number, self.target.port) for number in range(size)))

    async def crowd_at_metrics(
        self, size: int, act: Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]
    ) -> None:
        await asyncio.gather(*(self._again_and_again(act, number, self.target.metrics_port) for number in range(size)))

    async def _again_and_again(
        self, act: Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]], number: int, port: int
    ) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(self._address, 0))
                try:
                    self.tries += 1
                    await act(reader, writer, number)
                finally:
                    writer.close()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def flood(self, connections: int, request: Callable[[int], bytes]) -> None:
        """Requests one after the other, ``request`` makes them from a number."""

        async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
            while True:
                self.tries += 1
                writer.write(request(self.tries))
                if not await reader.read(_ANSWER_BYTES):
                    return
                await asyncio.sleep(_PAUSE_SECONDS)

        await self.crowd(connections, act)


def _head(method: str, target: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: bench", *lines, "", ""]).encode()


async def _until_the_end(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(_ANSWER_BYTES):
        pass


async def _dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> None:
    """A byte now and then, until it is told to stop."""
    end = asyncio.ensure_future(reader.read(1))
    try:
        for at in range(len(data)):
            writer.write(data[at : at + 1])
            await asyncio.wait([end], timeout=_DRIBBLE_SECONDS)
            if end.done():
                return
    finally:
        end.cancel()


async def same_slot(attacker: Attacker) -> None:
    """72 connections with one slot of 1 GiB, and no body."""
    slot = signed_path(attacker.target.secret, "attack/same-slot", 1024 * MIB)

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(_head("PUT", slot, f"Content-Length: {1024 * MIB}") + b"x")
        await _until_the_end(reader, writer)

    await attacker.crowd(72, act)


async def many_slots(attacker: Attacker) -> None:
    """72 slots of 1 GiB each, and no body."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        slot = signed_path(attacker.target.secret, f"attack/slot-{number}", 1024 * MIB)
        writer.write(_head("PUT", slot, f"Content-Length: {1024 * MIB}") + b"x")
        await _until_the_end(reader, writer)

    await attacker.crowd(72, act)


async def dribbled_bodies(attacker: Attacker) -> None:
    """Slots of their own, a byte now and then."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        slot = signed_path(attacker.target.secret, f"attack/dribbled-{number}", 900)
        writer.write(_head("PUT", slot, "Content-Length: 900"))
        await _dribble(reader, writer, b"x" * 900)

    await attacker.crowd(500, act)


async def dribbled_heads(attacker: Attacker) -> None:
    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await _dribble(reader, writer, _head("GET", "/upload/none", f"X: {'x' * 4000}"))

    await attacker.crowd(1500, act)


async def tus_creations(attacker: Attacker) -> None:
    """Uploads without end from one slot of 4 MiB, each with some bytes."""
    slot = signed_path(attacker.target.secret, "attack/tus", 4 * MIB)
    creation = _head(
        *("POST", slot, "Tus-Resumable: 1.0.0", f"Upload-Length: {4 * MIB}", "Content-Length: 60000"),
        "Content-Type: application/offset+octet-stream",
    )
    await attacker.flood(16, lambda _: creation + b"x" * 60_000)


async def unsigned_keep_alives(attacker: Attacker) -> None:
    """Connections that ask for nothing, again and again."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        while True:
            writer.write(_head("PUT", f"/upload/attack/{number}", "Content-Length: 0"))
            if not await reader.read(_ANSWER_BYTES):
                return
            await asyncio.sleep(4)

    await attacker.crowd(4000, act)


async def unsigned_lookups(attacker: Attacker) -> None:
    """Uploads by tokens that were made up."""
    await attacker.flood(32, lambda number: _head("HEAD", f"/upload/.hmacfs/tus/{number:043}", "Tus-Resumable: 1.0.0"))


async def wrong_signatures(attacker: Attacker) -> None:
    await attacker.flood(
        32, lambda number: _head("PUT", f"/upload/attack/{number}?v={number:064x}", "Content-Length: 5") + b"hello"
    )


async def silent_metrics(attacker: Attacker) -> None:
    """Connections to the metrics port: silent ones, and scrapes that nobody reads."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        if number % 2:
            writer.write(_head("GET", "/metrics"))
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            await _until_the_end(reader, writer)

    await attacker.crowd_at_metrics(200, act)


async def long_queries(attacker: Attacker) -> None:
    query = "&".join(f"{number:x}=%61" for number in range(3900))
    await attacker.flood(8, lambda number: _head("GET", f"/upload/attack/{number}?{query}"[:31000]))


async def deep_paths(attacker: Attacker) -> None:
    await attacker.flood(8, lambda number: _head("GET", f"/upload/{'a/' * (60 if number % 2 else 2000)}{number}"))


ATTACKS: dict[str, Callable[[Attacker], Awaitable[None]]] = {
    attack.__name__.replace("_", " "): attack
    for attack in (
        *(
            same_slot,
            many_slots,
            dribbled_bodies,
            dribbled_heads,
            tus_creations,
            unsigned_keep_alives,
            unsigned_lookups,
        ),
        *(wrong_signatures, silent_metrics, long_queries, deep_paths),
    )
}


@contextlib.contextmanager
def under(wanted: list[str], target: Target) -> Iterator[Counter[str]]:
    """Attacks that run for as long as the context lasts, in a process of their own. At its end the counter is filled:
    how often each was tried."""
    tries: Counter[str] = Counter()
    command = [sys.executable, "-m", "bench.attacks", json.dumps([*target]), *wanted]
    folder = Path(__file__).parents[1]
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ}
    ) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            yield tries
        finally:
            said, _ = process.communicate()
            tries.update(json.loads(said or b"{}"))


async def _run(target: Target, wanted: list[str]) -> dict[str, int]:
    attackers = {name: Attacker(target, f"{_NETWORK}{list(ATTACKS).index(name) + 1}") for name in wanted}
    tasks = [asyncio.ensure_future(ATTACKS[name](attacker)) for name, attacker in attackers.items()]
    while not all(attacker.tries for attacker in attackers.values()):
        await asyncio.sleep(_PAUSE_SECONDS)
    print(flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in tasks:
        task.cancel()
    return {name: attacker.tries for name, attacker in attackers.items()}


def main() -> None:
    from tests.servers import raise_descriptor_limit

    raise_descriptor_limit()
    # The attackers are other machines: this one's processors belong to the server and the honest client first.
    os.nice(5)
    print(json.dumps(asyncio.run(_run(Target(*json.loads(sys.argv[1])), sys.argv[2:]))))


if __name__ == "__main__":
    main()
