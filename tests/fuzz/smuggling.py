"""Request smuggling through the proxies with the shipped configurations.

Each attempt hides a request in another one. It carries an ``X-Request-ID`` of its own, which both proxies replace in
every request that they see: so a request that reaches the server with it is one that the proxy did not see. Beside the
attempts another client's requests, each for another byte of a file, must get their own answers.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import re
import select
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.live.client import Client, put
from tests.servers import accepts_connections, folder_of, wait_until
from tests.servers.haproxy import HAProxy
from tests.servers.hmacfs import HmacFileServer
from tests.servers.nginx import Nginx

PROXIES = ("nginx", "haproxy")
#: What a hidden request's id begins with.
MARK = "smuggled-"

_BIRD = "canary/bird.bin"
_BIRD_BYTES = 1_000_000
_BIRD_PATH = b"/upload/" + _BIRD.encode()
#: Attempts whose connections stay open meanwhile, so that what they did is not undone by their end.
_OPEN = 6
#: How long an attempt is given to be answered; most are at once, some wait for more.
_ANSWER_SECONDS = 0.05
BATCH = 50

_PLAIN_TARGETS = (_BIRD_PATH, b"/upload/none", b"/healthz", b"/", b"/upload/none?v=" + b"0" * 64)
_TARGETS = (
    *(
        b"http://files.example.org/upload/none",
        b"http://a@b/upload/none",
        b"*",
        b"/upload/%0d%0aX:y",
        b"/upload/\xc3\xa9",
    ),
    *(
        b"/upload/a b",
        b"/upload/a?HTTP/1.1",
        b"//upload/none",
        b"upload/none",
        b"/upload/../healthz",
        b"/upload/none#a",
    ),
)
_PLAIN_LINE = b"{method} {target} HTTP/1.1"
_LINES = (
    *(
        b"{method} {target} HTTP/1.0",
        b"{method} {target}",
        b"{method}  {target} HTTP/1.1",
        b"{method}\t{target}\tHTTP/1.1",
    ),
    *(b"\r\n{method} {target} HTTP/1.1", b"\n{method} {target} HTTP/1.1", b" {method} {target} HTTP/1.1"),
    *(
        b"{method} {target} HTTP/1.1 ",
        b"{method} {target} HTTP/01.1",
        b"{method} {target} HTTP/1.1\r",
        b"{method} {target} http/1.1",
    ),
)
_PLAIN_METHODS = (b"GET", b"PUT", b"POST", b"HEAD", b"OPTIONS", b"PATCH", b"DELETE")
_METHODS = (b"CONNECT", b"get", b"GET\0", b"M" * 40, b"PRI")
#: {n} is the body's length, {k} that of its first part.
_FRAMING = (
    *(b"Content-Length: {n}", b"Content-Length: {k}", b"Transfer-Encoding: chunked"),
    *(
        b"Content-Length: {k}",
        b"Content-Length: 0",
        b"Content-Length: 0, {n}",
        b"Content-Length: {n}, {n}",
        b"Content-Length: +{n}",
    ),
    *(
        b"Content-Length: -0",
        b"Content-Length: 0x{n}",
        b"Content-Length:{n} ",
        b"Content-Length: 0{n}",
        b"Content-Length: {n}\x0b",
    ),
    *(
        b"Content-Length : {n}",
        b"Content-Length: 18446744073709551616",
        b"Content-Length:",
        b"Content_Length: {n}",
        b"Content-Length: {k}.0",
    ),
    *(
        b"Content-Length:\r\n {n}",
        b" Content-Length: {n}",
        b"X: a\r\n Content-Length: {k}",
        b"X: a\nContent-Length: {k}",
        b"X: a\rContent-Length: {k}",
    ),
    *(
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding:\tchunked",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding: chunked\x0b",
    ),
    *(
        b"Transfer-Encoding:\x0bchunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: identity, chunked",
        b"Transfer-Encoding: gzip, chunked",
    ),
    *(
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: chunked, chunked",
        b'Transfer-Encoding: "chunked"',
        b"Transfer-Encoding: CHUNKED",
    ),
    *(
        b"Transfer-Encoding: chunked;a=b",
        b"Transfer_Encoding: chunked",
        b"Transfer-Encoding:\r\n chunked",
        b"\tTransfer-Encoding: chunked",
    ),
    *(
        b"X: a\nTransfer-Encoding: chunked",
        b"X: a\rTransfer-Encoding: chunked",
        b"Transfer-Encoding\n: chunked",
        b"Transfer-Encoding: chunked\nX: a",
    ),
    *(
        b"Transfer-Encoding: ,chunked",
        b"Transfer-Encoding: chunked,",
        b"Transfer-Encoding:",
        b"\0Transfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\0",
    ),
)
_OTHERS = (
    *(
        b"Host: other.example",
        b"Host: a b",
        b"Host:",
        b"X-Forwarded-For: 127.0.0.1",
        b"Connection: keep-alive",
        b"Connection: close",
    ),
    *(
        b"Connection: Content-Length",
        b"Connection: X-Request-ID",
        b"Connection: Transfer-Encoding",
        b"Expect: 100-continue",
        b"Expect: x",
    ),
    *(
        b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
        b"Upgrade: websocket\r\nConnection: Upgrade",
    ),
    *(
        b"X-Request-ID: smuggled-out",
        b"X_Request_ID: smuggled-out",
        b"X-Request-ID : smuggled-out",
        b"x: y\nX-Request-ID: smuggled-out",
    ),
    *(
        b"TE: trailers",
        b"Trailer: Content-Length",
        b"X-HTTP-Method-Override: PUT",
        b"X-Accel-Offload: on",
        b"Keep-Alive: timeout=1",
        b": x",
        b"x",
    ),
    *(
        b"X: " + b"a" * 9000,
        b"X: \n\n{hidden}",
        b"X: \r\n\r\n{hidden}",
        b"X:\r{hidden}",
        b"Content-Type: multipart/byteranges",
    ),
)
#: The parts of a body; the first is what {k} counts.
_BODIES = (
    *((b"", b""), (b"", b"{hidden}"), (b"{hidden}", b""), (b"abcd", b"{hidden}"), (b"{hidden}", b"{hidden}")),
    *(
        (b"0\r\n\r\n", b"{hidden}"),
        (b"0\n\n", b"{hidden}"),
        (b"0\r\n\r", b"{hidden}"),
        (b"00000\r\n\r\n", b"{hidden}"),
        (b"0;\n\n", b"{hidden}"),
    ),
    *(
        (b"5\r\n", b"abcde\r\n0\r\n\r\n{hidden}"),
        (b"5\r\n", b"abcdef\r\n0\r\n\r\n{hidden}"),
        (b"5\n", b"abcde\n0\n\n{hidden}"),
    ),
    *(
        (b"5;a\n", b"{hidden}\r\n0\r\n\r\n"),
        (b"0\r\nX: y\r\n\r\n", b"{hidden}"),
        (b"0\r\nX: y\n\n", b"{hidden}"),
        (b"0\r\n{hidden}", b""),
    ),
    *(
        (b"0x5\r\n", b"abcde\r\n0\r\n\r\n{hidden}"),
        (b"+5\r\n", b"abcde\r\n0\r\n\r\n{hidden}"),
        (b"-0\r\n\r\n", b"{hidden}"),
        (b"5 \r\n", b"abcde\r\n0\r\n\r\n{hidden}"),
    ),
    *(
        (b"{x}\r\n{hidden}", b"\r\n0\r\n\r\n"),
        (b"{x};a=b\r\n{hidden}", b"\r\n0\r\n\r\n{hidden}"),
        (b"10000000000000005\r\n", b"abcde\r\n0\r\n\r\n{hidden}"),
    ),
    *(
        (b"0\r\nContent-Length: 99\r\n\r\n", b"{hidden}"),
        (b"0\r\nTransfer-Encoding: chunked\r\n\r\n", b"{hidden}"),
        (b"1\r\nZ\r\nQ\r\n\r\n", b"{hidden}"),
    ),
    *(
        (b"3\r\nabc", b"0\r\n\r\n{hidden}"),
        (b"3\r\nabc\n0\r\n\r\n", b"{hidden}"),
        (b"2\r\r;a\r\n02\r\n41\r\n0\r\n\r\n", b"{hidden}"),
        (b"\r\n", b"{hidden}"),
    ),
)


def attempt(seed: int, number: int) -> bytes:
    """What it sends."""
    rng = random.Random(f"{seed}/{number}")
    hidden = b"%b %b HTTP/1.1\r\nHost: files.example.org\r\nRange: bytes=7-7\r\nX-Request-ID: %b%d\r\n\r\n" % (
        rng.choice((b"GET", b"GET", b"PUT", b"DELETE")),
        _BIRD_PATH,
        MARK.encode(),
        number,
    )
    first, rest = rng.choice(_BODIES)
    values = {b"{hidden}": hidden, b"{x}": b"%x" % len(hidden)}
    first, rest = _filled(first, values), _filled(rest, values)
    values |= {b"{n}": b"%d" % len(first + rest), b"{k}": b"%d" % len(first)}
    # One or two things are odd, so that what is odd is not refused for something else.
    odd = rng.choices(
        ("line", "target", "method", "framing", "framing", "framing", "other", "other", "end", ""), k=rng.randint(1, 2)
    )
    values[b"{method}"] = rng.choice(_METHODS if "method" in odd else _PLAIN_METHODS)
    values[b"{target}"] = rng.choice(_TARGETS if "target" in odd else _PLAIN_TARGETS)
    lines = [rng.choice((b"Content-Length: {n}", b"Content-Length: {k}", b"Transfer-Encoding: chunked"))]
    if "framing" in odd:
        lines = rng.choices(_FRAMING, k=1) + (lines if rng.random() < 0.6 else [])
    lines += [b"Host: files.example.org", *rng.choices(_OTHERS, k=odd.count("other"))]
    rng.shuffle(lines)
    line = rng.choice(_LINES) if "line" in odd else _PLAIN_LINE
    end = rng.choice((b"\n", b"\r")) if "end" in odd else b"\r\n"
    head = end.join(_filled(part, values) for part in [line, *lines])
    return head + end + (rng.choice((b"\n", b"\r\n\r\n", b"\r\n")) if "end" in odd else b"\r\n") + first + rest


def _filled(text: bytes, values: dict[bytes, bytes]) -> bytes:
    for name, value in values.items():
        text = text.replace(name, value)
    return text


class Smuggler:
    """Makes attempts at a proxy before a server. failures: what it found."""

    def __init__(self, server: HmacFileServer, port: int, seed: int) -> None:
        self.failures: list[str] = []
        self.attempts = 0
        self._server = server
        self._port = port
        self._seed = seed
        self._bird = bytes(at % 251 for at in range(_BIRD_BYTES))
        self._asked = 100_000
        self._open: deque[socket.socket] = deque()
        self._log_read = len(server.log())
        self._client = Client(port)

    def run(self, numbers: Iterator[int]) -> None:
        """Stops at the first failure."""
        batch: list[int] = []
        for number in numbers:
            batch.append(number)
            self.attempts += 1
            failure = self._try(number) or (self._look() if len(batch) == BATCH else "")
            if failure:
                break
            batch = batch[-_OPEN:] if len(batch) == BATCH else batch
        else:
            failure = self._look()
        if failure:
            self.failures.append(
                f"{failure}\n" + "\n".join(f"  {attempt(self._seed, one)[:600]!r}" for one in batch[-_OPEN:])
            )
        self.close()

    def close(self) -> None:
        self._client.close()
        while self._open:
            self._open.popleft().close()

    def _try(self, number: int) -> str:
        """What went wrong; empty if nothing did."""
        attacker = socket.create_connection(("127.0.0.1", self._port))
        self._open.append(attacker)
        with contextlib.suppress(OSError):
            attacker.sendall(attempt(self._seed, number))
        failure = self._canary(self._client)
        select.select([attacker], [], [], _ANSWER_SECONDS)
        attacker.setblocking(False)
        said = b""
        with contextlib.suppress(OSError):
            said = attacker.recv(65536)
        for at in re.findall(rb"content-range: bytes ([0-9]{6})-", said, re.IGNORECASE):
            failure = failure or f"the attacker got another client's answer: {at!r}"
        if len(self._open) > _OPEN:
            self._open.popleft().close()
        return failure

    def _canary(self, client: Client) -> str:
        self._asked += 1
        at = self._asked
        try:
            client.send(
                b"GET %b HTTP/1.1\r\nHost: files.example.org\r\nRange: bytes=%d-%d\r\n\r\n" % (_BIRD_PATH, at, at)
            )
            answer = client.answer()
        except (OSError, http.client.HTTPException) as error:
            return f"the other client got no answer: {error!r}"
        if answer.headers["Connection"] == "close":
            self._client.close()
            self._client = Client(self._port)
        said = (answer.status, answer.headers["Content-Range"], answer.body)
        if said == (206, f"bytes {at}-{at}/{_BIRD_BYTES}", self._bird[at : at + 1]):
            return ""
        return f"the other client got another answer: {answer}"

    def _look(self) -> str:
        """At the server's log since the last time."""
        with Client(self._port) as another:
            failure = self._canary(another)
        text = self._server.log()
        lines, self._log_read = text[self._log_read :].splitlines(), len(text)
        for line in lines:
            if f"request_id={MARK}" in line:
                return f"the proxy did not see this request: {line}"
            if " INFO [" not in line:
                return f"in the log: {line}"
        return failure


@contextmanager
def behind(proxy: str, folder: Path) -> Iterator[tuple[HmacFileServer, int]]:
    """A server with the file that is asked for, and the port of the proxy before it."""
    with ExitStack() as cleanup:
        if proxy == "nginx":
            sock = folder / "s.sock"
            server = HmacFileServer(folder / "server", ListenPort=str(sock), UnixSocket=True, DownloadOffload="none")
            cleanup.enter_context(server)
            sock.chmod(0o666)
            nginx = Nginx(folder / "nginx", server)
            cleanup.callback(nginx.kill)
            port = nginx.port
        else:
            server = HmacFileServer(folder / "server", TrustedProxies=["127.0.0.1"], DownloadOffload="none")
            cleanup.enter_context(server)
            haproxy = HAProxy(folder / "haproxy", server.port, server.port)
            cleanup.callback(haproxy.daemon.kill)
            port = haproxy.port
        assert put(server, _BIRD, bytes(at % 251 for at in range(_BIRD_BYTES))).status == 201
        wait_until(lambda: accepts_connections(port), what=proxy)
        yield server, port


def run(proxy: str, *, seed: int, numbers: Iterator[int]) -> Smuggler:
    with folder_of("nobody") as folder, behind(proxy, folder) as (server, port):
        smuggler = Smuggler(server, port, seed)
        smuggler.run(numbers)
        return smuggler
