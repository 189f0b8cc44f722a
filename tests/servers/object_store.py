"""What the object stores of tests have in common: real engines that speak S3, each private, on loopback ports."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import signal
from pathlib import Path
from typing import Any, Self

from hmacfs.config.values import Secret
from hmacfs.errors import StorageFailed
from hmacfs.stores.s3.client import S3Bucket
from hmacfs.stores.s3.credentials import credentials_of
from hmacfs.stores.s3.options import S3Options, address_of
from hmacfs.stores.s3.signing import Signer
from hmacfs.system.threads import FileCalls, ThreadOffload
from tests.servers import Daemon, free_port, freeze, wait_until
from tests.servers.machine import with_descendants

ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key"
_numbers = itertools.count(1)


class ObjectStoreServer:
    """An engine in a folder of its own; as a context it runs. It keeps its port and what it has stored over restarts,
    unless it says otherwise."""

    access_key = ACCESS_KEY
    secret_key = SECRET_KEY
    #: Whether ``If-None-Match: *`` keeps a PUT from replacing an object; whether Complete heeds ``If-Match``, DELETE.
    heeds_new = heeds_complete = heeds_delete = True
    #: The least size of parts but the last, in bytes.
    least_part = 5 * 1024 * 1024
    #: Whether a completion says that a part is missing or too small.
    checks_parts = True
    #: Whether a part that was sent again is listed as it is now; SeaweedFS lists both, with times in seconds.
    replaces_parts = True
    #: Whether the completion of an aborted upload says so.
    tells_aborted = True
    #: Whether an object can have the name of another one's folder: "a" beside "a/b".
    is_flat = True
    #: Whether a listing is in the order of the bytes of the keys.
    is_ordered = True
    #: Whether a backslash in a key is another character than a slash.
    has_backslash = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.daemons: list[Daemon] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def options(self, bucket: str, **changes: Any) -> S3Options:
        """Of a client. changes: other values than usual."""
        usual = {"endpoint": self.endpoint, "access_key": self.access_key, "secret_key": Secret(self.secret_key)}
        return S3Options(**{"bucket": bucket, "timeout": 20.0, "retry_delay": 0.2, **usual, **changes})

    def client(self, bucket: str, **changes: Any) -> S3Bucket:
        return S3Bucket(self.options(bucket, **changes), FileCalls(ThreadOffload(2)))

    def make_bucket(self, name: str = "", **changes: Any) -> str:
        """A bucket, a new one if it has no name; its name. changes: as of ``options``, such as another user's keys."""
        name = name or f"bucket-{os.getpid()}-{next(_numbers)}"
        status = self._put_bucket(name, **changes)
        assert status in (200, 409), f"the bucket cannot be made: {status}"
        return name

    def start(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
            wait_until(self._serves, timeout=120, what=f"the readiness of {type(self).__name__}")
        except BaseException:
            self.kill()
            raise
        return self

    def _start(self) -> None:
        raise NotImplementedError

    def _serves(self) -> bool:
        """Before that SeaweedFS answers 403."""
        for daemon in self.daemons:
            if daemon.process.poll() is not None:
                raise RuntimeError(f"it ended with {daemon.process.returncode}; it printed:\n{daemon.log()}")
        with contextlib.suppress(OSError, http.client.HTTPException, StorageFailed):
            if self._put_bucket("readiness") in (200, 409):
                with contextlib.closing(self.client("readiness", max_retries=0, timeout=5.0)) as client:
                    client.put("ready", b"1")
                return True
        return False

    def _put_bucket(self, name: str, **changes: Any) -> int:
        options = self.options(name, **changes)
        address = address_of(options)
        target = address.root.rstrip("/")
        headers = Signer(address, options.region, credentials_of(options)).sign("PUT", target, {})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("PUT", target, headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def kill(self) -> None:
        """End it as a crash would."""
        while self.daemons:
            self.daemons.pop().kill()

    def pause(self) -> None:
        """From now on connections are accepted by the kernel and nobody answers."""
        for daemon in self.daemons:
            freeze(*with_descendants(daemon.pid))

    def resume(self) -> None:
        for daemon in self.daemons:
            os.killpg(daemon.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
