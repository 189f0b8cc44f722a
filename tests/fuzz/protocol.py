"""Mutated requests to a real server: whatever comes, it answers, stays in step, and stores what was signed and sent."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hmacfs.web.messages import TUS_PATH
from tests.fuzz.cases import LOCATION, TOKEN, Case, Maker, Mutation, Request, Right
from tests.live.client import Answer, Client, put
from tests.servers import wait_until
from tests.servers.hmacfs import HmacFileServer

CANARY = "canary/bird.bin"
#: Each canary asks for another byte of it, which its answer then names.
CANARY_BYTES = 1_000_000
#: What the server may say instead of doing it: another coding or version, no session store, no space.
_SERVER_ERRORS = {501, 503, 505, 507}
#: After so many cases the store and the log are looked at.
BATCH = 200
_LONGEST_LINE_BYTES = 1024
#: The one warning that requests may cause: the fuzzer sends ``X-Forwarded-For`` as a proxy would that is not trusted.
_PROXY_WARNING = (" WARNING [", "] 127.0.0.1 sends X-Forwarded-For, which is not believed: ")


class Violation(AssertionError):
    """A rule is broken."""


FAILURES = (Violation, OSError, http.client.HTTPException, ValueError)


class Fuzzer:
    """Runs cases against one server, which must be new."""

    def __init__(self, server: HmacFileServer, seed: int) -> None:
        self.maker = Maker(server.keyring, server.prefix, CANARY, seed)
        self.failures: list[str] = []
        self.requests = 0
        self._server = server
        self._asked = 100_000
        self._rights: dict[str, Right] = {}
        self._faithful: set[str] = set()
        self._secrets: set[str] = set()
        self._content = bytes(at % 251 for at in range(CANARY_BYTES))
        assert put(server, CANARY, self._content).status == 201
        self._log_read = len(server.log())
        self._others = set(server.folder.rglob("*")) - set(server.store.rglob("*"))

    def run(self, numbers: Iterator[int]) -> None:
        """Stops at the first case that fails."""
        while batch := list(itertools.islice(numbers, BATCH)):
            number = batch[0]
            try:
                for number in batch:
                    self._try(self.maker.case(number, self.maker.mutations(number)))
            except FAILURES as error:
                self._report(number, error)
                return
            try:
                self.look()
            except Violation as error:
                guilty = next((number for number in batch if self._fails(number, self.maker.mutations(number))), None)
                self._report(guilty, error)
                return

    def _report(self, number: int | None, error: Exception) -> None:
        smallest = "no case shows it alone" if number is None else self._smallest(number)
        self.failures.append(f"case {number}: {error!r}\n{smallest}")

    def look(self) -> None:
        """At what was stored and logged since the last time. Raises ``Violation``."""
        for name in self._server.stored():
            if name != CANARY:
                self._check_stored(name)
        new = set(self._server.folder.rglob("*")) - set(self._server.store.rglob("*")) - self._others
        _check(not new, f"made outside of the store: {new}")
        text = self._server.log()
        lines = text[self._log_read :].splitlines()
        for line in lines:
            is_expected = " INFO [" in line or " DEBUG [" in line or all(part in line for part in _PROXY_WARNING)
            _check(is_expected, f"in the log: {line}")
            _check(len(line) <= _LONGEST_LINE_BYTES, f"a line of {len(line)} bytes in the log: {line[:200]}")
        for secret in self._secrets.intersection(re.findall(r"[A-Za-z0-9_.-]{20,}", "\n".join(lines))):
            raise Violation(f"in the log: the secret {secret}")
        self._forget()

    def _forget(self) -> None:
        """What is there was looked at, or is no other case's."""
        for name in self._server.stored():
            if name != CANARY:
                (self._server.store / name).unlink()
        self._log_read = len(self._server.log())
        self._rights, self._faithful, self._secrets = {}, set(), set()

    def _check_stored(self, name: str) -> None:
        _check(name in self._rights, f"stored without a right: {name!r}")
        right, stored = self._rights[name], (self._server.store / name).read_bytes()
        _check(not right.binds_length or len(stored) == len(right.content), f"another size than was signed: {name!r}")
        if name in self._faithful:
            _check(stored == right.content, f"other bytes than were sent: {name!r}")

    def _try(self, case: Case) -> None:
        self._rights |= case.rights
        # What stands before the question mark is a path, whatever it looks like, and paths are logged.
        paths = b"\n".join(request.on_wire().split(b"\r\n")[0].partition(b"?")[0] for request in case.requests)
        self._secrets |= {secret for secret in case.secrets if secret.encode() not in paths}
        if all(request.faithful and request.framed for request in case.requests):
            self._faithful |= set(case.rights)
        location, token = b"/upload/none", b"none"
        client = Client(self._server, timeout=20)
        try:
            for request in case.requests:
                self.requests += 1
                request = _filled(request, location, token)
                _send(client, request)
                if not request.framed:
                    self._out_of_step(client, "HEAD" if request.on_wire().startswith(b"HEAD ") else "GET")
                    return
                answer = client.answer(request.method.decode())
                _check_answer(answer)
                if TUS_PATH in (answer.headers["Location"] or ""):
                    location = answer.headers["Location"].encode("latin-1")
                    self._secrets.add(location.rpartition(b"/")[2].decode())
                token = (answer.headers["X-Session-Token"] or token.decode()).encode()
                if answer.headers["Connection"] == "close":
                    client.close()
                    client = Client(self._server, timeout=20)
                else:
                    self._canary(client)
        finally:
            client.close()

    def _canary(self, client: Client) -> None:
        at = self._send_canary(client)
        _check(self._is_own(client.answer(), at), "the canary got another answer")

    def _send_canary(self, client: Client) -> int:
        self._asked += 1
        where = f"Range: bytes={self._asked}-{self._asked}"
        client.send(f"GET /upload/{CANARY} HTTP/1.1\r\nHost: a\r\n{where}\r\n\r\n".encode())
        return self._asked

    def _is_own(self, answer: Answer, at: int) -> bool:
        said = (answer.status, answer.headers["Content-Range"], answer.body)
        return said == (206, f"bytes {at}-{at}/{CANARY_BYTES}", self._content[at : at + 1])

    def _out_of_step(self, client: Client, method: str) -> None:
        """After a request whose end cannot be known: the rest is read as another request, as its body, or not at all. All
        answers are well-formed; one to the canary is the canary's."""
        at = self._asked + 1
        with contextlib.suppress(OSError):  # it may have been refused already
            self._send_canary(client)
            client.sock.shutdown(socket.SHUT_WR)
        while (answer := _next_answer(client, method)) is not None:
            _check_answer(answer)
            is_canary = len(answer.body) == 1 and answer.status == 206
            _check(not is_canary or self._is_own(answer, at), "an answer to nobody's request")
            if answer.headers["Connection"] == "close":
                break
            method = "GET"
        with Client(self._server, timeout=20) as other:
            self._canary(other)

    def _smallest(self, number: int) -> str:
        """The case with no more mutations and requests than it needs to fail."""
        wanted = self.maker.mutations(number)
        for mutation in list(wanted):
            fewer = [one for one in wanted if one != mutation]
            if self._fails(number, fewer):
                wanted = fewer
        requests = self.maker.case(number, wanted).requests
        while len(requests) > 1 and self._fails(number, wanted, len(requests) - 1):
            requests.pop()
        return "\n".join([f"  {[m.name for m in wanted]}", *(f"  {request.on_wire()[:400]!r}" for request in requests)])

    def _fails(self, number: int, mutations: list[Mutation], steps: int | None = None) -> bool:
        """Whether its first so many requests do, on their own."""
        case = self.maker.case(number, mutations)
        self._forget()
        try:
            self._try(case._replace(requests=case.requests[:steps]))
            self.look()
        except FAILURES:
            return True
        return False


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise Violation(what)


def _next_answer(client: Client, method: str) -> Answer | None:
    """``None`` after the last one."""
    try:
        return client.answer(method)
    except ConnectionError:  # http.client's for an end is one
        return None


def _check_answer(answer: Answer) -> None:
    _check(answer.status < 500 or answer.status in _SERVER_ERRORS, f"{answer.status}: {answer.body[:200]!r}")
    _check(bool(answer.headers["X-Request-ID"]), f"{answer.status} without an id")
    for name, value in answer.headers.items():
        _check(
            re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", value) is not None, f"{name} has a control character: {value!r}"
        )
    _check(answer.headers["Access-Control-Allow-Credentials"] is None, "credentials are allowed")
    if answer.status in (200, 206) and answer.headers["ETag"]:
        _check(answer.headers["X-Content-Type-Options"] == "nosniff", "a file without nosniff")
        _check("default-src 'none'" in (answer.headers["Content-Security-Policy"] or ""), "a file without a policy")


def _filled(request: Request, location: bytes, token: bytes) -> Request:
    if request.raw is not None:
        request.raw = request.raw.replace(LOCATION, location).replace(TOKEN, token)
    request.target = request.target.replace(LOCATION, location)
    request.headers = [(name, value.replace(TOKEN, token)) for name, value in request.headers]
    return request


def _send(client: Client, request: Request) -> None:
    wire = request.on_wire()
    parts = [0, *(int(part * len(wire)) for part in request.pauses), len(wire)]
    for start, end in itertools.pairwise(parts):
        with contextlib.suppress(ConnectionError):  # it may have been refused already
            client.send(wire[start:end])
        if end < len(wire):
            time.sleep(0.001)


@contextmanager
def fuzzed_server(folder: Path) -> Iterator[HmacFileServer]:
    """One whose limits no fuzzer reaches."""
    settings = {"MaxSessionsPerClient": 100_000, "UploadMaxSize": "2MB", "ReadTimeout": "2s", "LogLevel": "debug"}
    with HmacFileServer(folder, **settings) as server:
        yield server


def run(folder: Path, *, seed: int, numbers: Iterator[int]) -> Fuzzer:
    """The cases with these numbers, in a folder that is not there yet. The server must end as it should, too."""
    with fuzzed_server(folder) as server:
        fuzzer = Fuzzer(server, seed)
        fuzzer.run(numbers)
        if not fuzzer.failures:
            wait_until(lambda: server.stop() == 0, what="the server's end")
            fuzzer.look()
        return fuzzer
