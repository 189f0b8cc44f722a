"""Uploads over two machines that share a bucket, while everything that they depend on dies at random points.

``python -m tests.s3_deaths --uploads 150 --seed 7``: so many in pieces and as many whole ones. Servers and their workers
are killed, and frozen for longer than a lease lasts; so are the engine and Redis, and a proxy before the engine loses its
answers. Checked is that every acknowledged upload is there and right, that no acknowledged offset goes back, that nobody
is told of another's file, and that a sweep leaves nothing but files.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import http.client
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import psutil

from tests.live.client import Answer, get, put
from tests.live.pieces import NumberedUpload, RangeUpload, TusUpload, Upload, persist
from tests.live.shared_bucket import machine, wait_for_sweep
from tests.programs import program
from tests.servers import wait_until
from tests.servers.faulty_engine import HUNG_AFTER, LOST_ANSWER, RESET, SLOW_DOWN, STORED_500, Fault, FaultyEngine
from tests.servers.hmacfs import HmacFileServer
from tests.servers.redis import RedisServer
from tests.servers.seaweedfs import SeaweedFS

#: Uploads that run at once.
AT_ONCE = 12
LEASE_SECONDS = 4
TTL = "90s"
#: Of uploads in pieces, and of whole ones; most are small.
SMALL, LARGE = (1, 300_000), (5_000_000, 20_000_000)
LARGE_SHARE = 0.12
#: How long a client tries, in seconds.
PATIENCE = 240.0
PAUSE = 0.1

#: Of so many requests to the engine one fails.
FAULT_SHARE = 0.02
FAULTS = (LOST_ANSWER, LOST_ANSWER, LOST_ANSWER, LOST_ANSWER, RESET, STORED_500, SLOW_DOWN, HUNG_AFTER)


class Unreliable(FaultyEngine):
    """Some requests fail, until it ``heals``."""

    def __init__(self, target: int, chance: random.Random) -> None:
        super().__init__(target)
        self._chance = chance
        self._is_well = False

    def heal(self) -> None:
        self._is_well = True

    def fate(self, operation: str) -> Fault | None:
        if not self._is_well and self._chance.random() < FAULT_SHARE:
            self.fail(operation, self._chance.choice(FAULTS))
        return super().fate(operation)


class Machines:
    """Two servers, Redis, and an engine behind a proxy. As a context they run."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.chance = chance
        self.engine = SeaweedFS(folder / "engine")
        self.redis = RedisServer(folder / "redis", "--appendonly", "yes", "--appendfsync", "always")
        self.deaths: Counter[str] = Counter()
        self._folder = folder
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.engine)
            stack.enter_context(self.redis)
            self.bucket = self.engine.make_bucket()
            self.proxy = stack.enter_context(Unreliable(self.engine.port, self.chance))
            self.servers = [self._server(number) for number in (1, 2)]
            for server in self.servers:
                stack.callback(server.end)
                server.start()
            self._stack = stack.pop_all()
        return self

    def _server(self, number: int) -> HmacFileServer:
        settings: dict[str, object] = {
            "S3Endpoint": self.proxy.endpoint,
            "S3PartSize": "5MB",
            "S3Timeout": "3s",
            "RedisTimeout": "1s",
        }
        settings |= {"RedisAddr": self.redis.address, "SessionTTL": TTL, "SweepInterval": "2s", "RetryDelay": "300ms"}
        settings |= {"Workers": 2, "ReadyPath": "/healthz", "MaxSessionsPerClient": 10_000}
        server = machine(self._folder / f"machine-{number}", self.engine, self.bucket, **settings)
        server.command[1:] = [str(program("short_leases.py")), str(LEASE_SECONDS), *server.command[-2:]]
        return server

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # -- what happens to them

    def strike(self) -> None:
        """One fault, over when this returns."""
        fault: Callable[[], None] = self.chance.choice(
            [self._kill_server] * 3 + [self._kill_worker] * 2 + [self._freeze_worker] * 2 + [self._kill_redis]
        )
        self.deaths[fault.__name__.strip("_")] += 1
        fault()

    def _kill_server(self) -> None:
        server = self.chance.choice(self.servers)
        server.daemon.kill()
        server.start()

    def _kill_worker(self) -> None:
        server = self.chance.choice(self.servers)
        worker = self.chance.choice(server.workers())
        worker.kill()
        wait_until(lambda: worker not in server.workers() and len(server.workers()) == 2, what="a new worker")

    def _freeze_worker(self) -> None:
        """For longer than its leases last."""
        worker = self.chance.choice(self.chance.choice(self.servers).workers())
        worker.send_signal(signal.SIGSTOP)
        time.sleep(LEASE_SECONDS + 1)
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.send_signal(signal.SIGCONT)

    def _kill_redis(self) -> None:
        self.redis.kill()
        self.redis.start()

    def kill_engine(self) -> None:
        self.deaths["kill_engine"] += 1
        self.engine.kill()
        self.engine.start()


@dataclasses.dataclass
class Outcome:
    """acknowledged: whether the client was told that its file is stored; else another attempt's, or another's, is."""

    name: str
    bodies: list[bytes]
    acknowledged: list[bool]


class Clients:
    """They upload, each with a chance of its own, so that a seed repeats what they send."""

    def __init__(self, machines: Machines, uploads: int, seed: int) -> None:
        self.machines = machines
        self.tally: Counter[str] = Counter()
        self._seed = seed
        self._uploads = uploads
        self._lock = threading.Lock()

    def run(self) -> list[Outcome]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            running = [
                pool.submit(kind, random.Random(f"{self._seed} {number} {kind.__name__}"), number)
                for number in range(self._uploads)
                for kind in (self._in_pieces, self._whole)
            ]
            return [future.result() for future in running]

    def count(self, what: str) -> None:
        with self._lock:
            self.tally[what] += 1

    def _in_pieces(self, chance: random.Random, number: int) -> Outcome:
        body = body_of(chance)
        kind: type[Upload] = (_Range, _Numbered, _Tus)[number % 3]
        size = max(1, min(len(body), chance.randrange(len(body) // 6 + 1, len(body) + 2)))
        upload: Any = kind(self.machines.servers[0], f"pieces/{number}", body, size)
        upload.clients, upload.chance = self, chance
        tally: Counter[str] = Counter()
        persist(upload, tally)
        for status, count in tally.items():
            with self._lock:
                self.tally[f"piece {status}"] += count
        return Outcome(upload.name, [body], [True])

    def _whole(self, chance: random.Random, number: int) -> Outcome:
        """A tenth of them have a rival with other bytes of the same length."""
        body = body_of(chance)
        bodies = [body, chance.randbytes(len(body))] if number % 10 == 0 else [body]
        outcome = Outcome(f"whole/{number}", bodies, [False] * len(bodies))
        threads = [
            threading.Thread(target=self._put, args=(random.Random(chance.random()), outcome, which), daemon=True)
            for which in range(1, len(bodies))
        ]
        for thread in threads:
            thread.start()
        self._put(random.Random(chance.random()), outcome, 0)
        for thread in threads:
            thread.join()
        return outcome

    def _put(self, chance: random.Random, outcome: Outcome, which: int) -> None:
        """Until it is stored, or another attempt."""
        body, deadline = outcome.bodies[which], time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < deadline, f"{outcome.name} is not stored"
            server = chance.choice(self.machines.servers)
            answer = self._ask(server, outcome.name, body)
            self.count("whole cut off" if answer is None else f"whole {answer.status}")
            if answer is not None and answer.status == 201:
                outcome.acknowledged[which] = True
                return
            if answer is not None and answer.status == 409 and not answer.headers["Retry-After"]:
                return
            assert answer is None or answer.status in (408, 409, 500, 503), answer
            time.sleep(PAUSE)

    @staticmethod
    def _ask(server: HmacFileServer, name: str, body: bytes) -> Answer | None:
        try:
            return put(server, name, body)
        except (OSError, http.client.HTTPException):
            return None


class _Roaming:
    """Each request goes to any of the servers."""

    clients: Clients
    chance: random.Random

    def ask(self, *arguments: Any, **headers: Any) -> Answer:
        self.server = self.chance.choice(self.clients.machines.servers)
        answer: Answer = super().ask(*arguments, **headers)  # type: ignore[misc]
        if answer.status == 500:  # an engine that is not ready yet refuses with 403
            self.clients.count("piece 500")
            raise ConnectionError
        return answer


class _Range(_Roaming, RangeUpload):
    pass


class _Numbered(_Roaming, NumberedUpload):
    pass


class _Tus(_Roaming, TusUpload):
    pass


def body_of(chance: random.Random) -> bytes:
    return chance.randbytes(chance.randint(*(LARGE if chance.random() < LARGE_SHARE else SMALL)))


@contextlib.contextmanager
def faults(machines: Machines, engine_deaths: int) -> Iterator[None]:
    """They happen while the context lasts; then all is well again."""
    is_over = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        strikes = 0
        try:
            while not is_over.wait(machines.chance.uniform(0.5, 2.0)):
                strikes += 1
                if strikes % 12 == 4 and machines.deaths["kill_engine"] < engine_deaths:
                    machines.kill_engine()
                else:
                    machines.strike()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
    if errors:
        raise errors[0]


def check(machines: Machines, outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        for server in machines.servers:
            found = get(server, outcome.name)
            assert found.status == 200, f"{outcome.name}: {found.status}"
            stored = [number for number, body in enumerate(outcome.bodies) if body == found.body]
            assert stored, f"{outcome.name} has bytes that nobody sent"
            told = [number for number, is_told in enumerate(outcome.acknowledged) if is_told]
            assert told in ([], stored), f"{outcome.name} is not what was acknowledged"


def run(folder: Path, *, uploads: int, seed: int, engine_deaths: int) -> str:
    """What happened, in a few lines. Raises ``AssertionError``."""
    began = time.monotonic()
    with Machines(folder, random.Random(seed)) as machines:
        clients = Clients(machines, uploads, seed)
        with faults(machines, engine_deaths):
            outcomes = clients.run()
        took = time.monotonic() - began
        machines.proxy.heal()
        for server in machines.servers:
            wait_until(lambda server=server: get(server, outcomes[0].name).status == 200, what="peace")  # type: ignore[misc]
        check(machines, outcomes)
        for server in machines.servers:
            server.stop()
        machines.servers[0].settings |= {"SessionTTL": "1s", "S3Endpoint": machines.engine.endpoint}
        machines.servers[0].write_config()
        names = [outcome.name for outcome in outcomes]
        wait_for_sweep(machines.servers[0], machines.engine, machines.bucket, names)
        errors = Counter(
            line.partition("] ")[2][:60]
            for server in machines.servers
            for line in server.log().splitlines()
            if " ERROR " in line
        )
        told = sum(any(outcome.acknowledged) for outcome in outcomes)
        return (
            f"seed {seed}: {uploads} in pieces, {uploads} whole in {took:.0f} s, {told} acknowledged, all right;\n"
            f"deaths {dict(machines.deaths)}; answers lost {dict(+machines.proxy.failed)};\n"
            f"answers {dict(sorted(clients.tally.items()))};\nerrors logged {dict(errors)}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=150)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--engine-deaths", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="the folder with the logs")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    folder = tempfile.mkdtemp(prefix="hmacfs-deaths-")
    try:
        print(run(Path(folder), uploads=arguments.uploads, seed=arguments.seed, engine_deaths=arguments.engine_deaths))
    except BaseException:
        print(f"seed {arguments.seed} failed; the logs are in {folder}")
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
