"""HTTP connections to the engine, kept alive.

urllib3 opens them, with all that TLS asks for. It has to be imported after gevent's patches. Its pool does not tell
whether a connection that broke was a new one, and its requests and answers cost three times as much as signing does.
"""

from __future__ import annotations

import ssl
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util.ssl_ import create_urllib3_context

from hmacfs.protocol.http1.replies import BadReplyHead
from hmacfs.stores.s3.bucket import Payload
from hmacfs.stores.s3.connection import Connection, Lost, Silent, Unreached, reason_of
from hmacfs.stores.s3.options import BucketAddress
from hmacfs.stores.s3.response import Response
from hmacfs.system.threads import FileCalls

_CONNECT_SECONDS = 5.0
#: For how much longer than ``S3Timeout`` an engine may dribble: while it completes a multipart upload, which can take
#: minutes, Amazon's sends white space.
_PATIENCE_SECONDS = 300.0
#: Kept connections. One that lay idle for longer may be forgotten by a firewall on the way, which nothing would tell.
_IDLE_LIMIT = 64
_IDLE_SECONDS = 15.0


class Connections:
    """Of one process to one engine; made after its fork.

    timeout: seconds without a byte. file_calls: for reads of the files that are sent.
    """

    def __init__(self, address: BucketAddress, ca_file: Path | None, timeout: float, file_calls: FileCalls) -> None:
        self._address = address
        self._timeout = timeout
        self._file_calls = file_calls
        self._tls = _tls_context(ca_file) if address.is_encrypted else None
        self._idle: deque[tuple[float, Connection]] = deque()

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        payload: Payload,
        *,
        is_new: bool = False,
        timeout: float = 0.0,
    ) -> Response:
        """Send a request and wait for the head of its answer. is_new: not over a connection that was kept. timeout: if
        it is to be shorter, and then for all that comes and goes. Raises ``Unreached``, ``Lost``, ``Silent``,
        ``PayloadFailed``."""
        patience = timeout or self._timeout + _PATIENCE_SECONDS
        timeout = min(timeout or self._timeout, self._timeout)
        head = _request_head(method, target, headers)
        kept = None if is_new else self._kept()
        connection = kept or self._connect(timeout)
        try:
            connection.set_limits(timeout, patience)
            reply, rest = connection.exchange(head, payload, is_head=method == "HEAD")
        except TimeoutError as error:
            connection.close()
            raise Silent("no answer in time") from error
        except (OSError, BadReplyHead) as error:
            connection.close()
            raise Lost(reason_of(error), was_kept=kept is not None) from error
        except BaseException:
            connection.close()
            raise
        return Response(reply, rest, connection, self._keep)

    def _keep(self, connection: Connection) -> None:
        """Its last answer was read to the end."""
        now = time.monotonic()
        self._idle.append((now, connection))
        while self._idle and (len(self._idle) > _IDLE_LIMIT or self._idle[0][0] < now - _IDLE_SECONDS):
            self._idle.popleft()[1].close()

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()

    def _kept(self) -> Connection | None:
        oldest = time.monotonic() - _IDLE_SECONDS
        while self._idle:
            since, connection = self._idle.pop()
            if since >= oldest and connection.is_quiet():
                return connection
            connection.close()
        return None

    def _connect(self, timeout: float) -> Connection:
        host, port, limit = self._address.host, self._address.port, min(timeout, _CONNECT_SECONDS)
        opened = (
            HTTPConnection(host, port, timeout=limit)
            if self._tls is None
            else HTTPSConnection(host, port, timeout=limit, ssl_context=self._tls)
        )
        try:
            opened.connect()
        except (HTTPError, OSError) as error:
            opened.close()
            raise Unreached(reason_of(error), is_untrusted=isinstance(error, ssl.SSLCertVerificationError)) from error
        except BaseException:
            opened.close()
            raise
        return Connection(opened.sock, self._file_calls, is_encrypted=self._tls is not None)


def _request_head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """Raises ``ValueError`` if something in it could pass for more than one line."""
    lines = [f"{method} {target} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()], "", ""]
    characters = "".join(lines)
    if not (characters.isascii() and characters.isprintable()):
        raise ValueError("a header of a request to the object store is not printable ASCII")
    return "\r\n".join(lines).encode("ascii")


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    context = create_urllib3_context()
    context.verify_mode = ssl.CERT_REQUIRED
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    else:
        context.load_default_certs()
    return context
