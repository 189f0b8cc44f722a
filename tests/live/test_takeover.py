"""Two clients that append to one upload at once: it is one file, and its bytes are never mixed."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.live.client import Client
from tests.live.pieces import DIALECTS, NumberedUpload, TusUpload, Upload, persist
from tests.servers import wait_until
from tests.servers.hmacfs import HmacFileServer

pytestmark = pytest.mark.stores("folder", "seaweedfs")

ROUNDS = 200
AT_ONCE = 8
SIZE = 60_000


class Round:
    """An upload that a connection which does not go on has begun, and two clients that send it all."""

    def __init__(self, server: HmacFileServer, number: int) -> None:
        self._kind = DIALECTS[number % len(DIALECTS)]
        self._server = server
        self.body = os.urandom(SIZE)
        self.name = f"round/{number}"
        self.tally: Counter[str] = Counter()
        sizes = (20_000, 20_000) if self._kind is NumberedUpload else (20_000, 7_000)
        self._clients = [self._kind(server, self.name, self.body, size) for size in sizes]

    def run(self) -> None:
        first, second = self._clients
        if isinstance(first, TusUpload):
            first.create()
            second.url = first.url
        start = threading.Barrier(2)
        with self._stuck(first), ThreadPoolExecutor(2) as pool:
            running = [pool.submit(self._send, client, start) for client in self._clients]
            for future in running:
                future.result()
        assert self._server.content(self.name) == self.body
        if self._kind is not TusUpload:
            assert self.tally["201"] <= 1, "one finishes it"

    def _stuck(self, upload: Upload) -> Client:
        """A connection that sent a part of the first piece and sends no more; the server gets that part."""
        client = Client(self._server)
        method, headers = upload.head_of(0)
        client.head(method, upload.url, content_length=20_000, **headers)
        client.send(self.body[:5_000])
        return client

    def _send(self, client: Upload, start: threading.Barrier) -> None:
        start.wait()
        persist(client, self.tally)


def test_two_clients_at_once_make_one_file(start_server: Callable[..., HmacFileServer]) -> None:
    server = start_server(Workers=3, MaxSessionsPerClient=1000)
    count = 60 if "Storage" in server.settings else ROUNDS
    rounds = [Round(server, number) for number in range(count)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for future in [pool.submit(played.run) for played in rounds]:
            future.result()
    answers = sum((played.tally for played in rounds), Counter[str]())
    taken_over = server.log().count("reason=taken-over")
    print(f"{count} rounds: answers {dict(sorted(answers.items()))}, {taken_over} connections were taken over")
    assert taken_over >= count // 4
    assert server.stored() == sorted(played.name for played in rounds)
    wait_until(lambda: server.files.unfinished() == {}, what="the end of all unfinished uploads")
    assert server.leftovers() == []
    assert server.stop() == 0
    assert server.complaints() == []
