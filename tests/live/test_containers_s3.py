"""What ``compose-s3.yaml`` starts, without containers: each service by its own command, with its own environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hmacfs.protocol.keyring import Keyring, sign_v
from tests.live.client import request
from tests.live.test_containers import (
    COMPOSE_S3,
    SERVERS_S3,
    SERVICES_S3,
    image_environment,
    make_secrets,
    replace,
    start_redis,
)
from tests.servers import Daemon, answers_200, folder_of, free_port, require_binary
from tests.servers.haproxy import HAProxy
from tests.servers.postgres import PostgresServer
from tests.servers.seaweedfs import free_port_pair


class Cluster:
    """All services of the file."""

    def __init__(self, folder: Path, cleanup: ExitStack) -> None:
        self.folder, self._cleanup = folder, cleanup
        self.secrets = make_secrets(folder, COMPOSE_S3)
        self._s3_port = free_port_pair()
        self._start_seaweedfs()
        redis = start_redis(folder, self.secrets, cleanup)
        postgres = cleanup.enter_context(PostgresServer(cleanup.enter_context(folder_of("postgres"))))
        self._addresses = {
            "/run/secrets": str(self.secrets),
            "redis:6379": f"127.0.0.1:{redis}",
            "seaweedfs:8333": f"127.0.0.1:{self._s3_port}",
        }
        self._postgres = postgres.host
        self.ports = (free_port(), free_port())
        self.servers = [self._start_server(number) for number in range(2)]
        self.haproxy = HAProxy(folder / "haproxy", *self.ports, is_composed=True)
        cleanup.callback(self.haproxy.daemon.kill)

    def _start_seaweedfs(self) -> None:
        folder, weed = self.folder / "seaweedfs", require_binary("weed")
        folder.mkdir()
        ports = {"9333": free_port_pair(), "8080": free_port_pair(), "8888": free_port_pair(), "8333": self._s3_port}
        words = {
            **{f"port={shipped}": f"port={port}" for shipped, port in ports.items()},
            **{f"127.0.0.1:{shipped}": f"127.0.0.1:{port}" for shipped, port in ports.items()},
            "/var/lib/seaweedfs": str(folder),
            "/run/secrets": str(self.secrets),
            "/run/s3.json": f"{folder}/s3.json",
            # They are in /tmp else, which is each container's own.
            "-filer ": f"-filer -filer.localSocket={folder}/filer.sock -s3.localSocket={folder}/s3.sock ",
            "$$": "$",
        }
        environment = {"PATH": f"{Path(weed).parent}:{os.environ['PATH']}", "HOME": str(folder)}

        def command(service: str) -> list[str]:
            return [replace(word, words) for key in ("entrypoint", "command") for word in SERVICES_S3[service][key]]

        daemon = Daemon(command("seaweedfs"), folder=folder, env=environment)
        self._cleanup.callback(daemon.kill)
        kind, *check = SERVICES_S3["seaweedfs"]["healthcheck"]["test"]
        assert kind == "CMD"
        healthy = [replace(word, words) for word in check]
        daemon.wait_until(lambda: subprocess.run(healthy, check=False).returncode == 0, what="SeaweedFS")
        made = subprocess.run(
            command("bucket"), cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert made.returncode == 0, made.stdout + made.stderr

    def environment(self, number: int) -> dict[str, str]:
        """That of a server's container, with the addresses and folders of here."""
        folder = self.folder / f"server-{number}"
        given = image_environment() | SERVERS_S3[number]["environment"]
        return {
            **{name: replace(value, self._addresses) for name, value in given.items()},
            "PATH": os.environ["PATH"],
            "HMACFS_LISTEN_PORT": f"127.0.0.1:{self.ports[number]}",
            "HMACFS_METRICS_PORT": f"127.0.0.1:{free_port()}",
            "HMACFS_STATE_DIR": str(folder / "state"),
            "HMACFS_RUNTIME_DIR": str(folder / "run"),
            "HMACFS_FALLBACK_DB_HOST": self._postgres,
            "HMACFS_TRUSTED_PROXIES": "127.0.0.1",
            "HMACFS_MIN_FREE_SPACE": "0",
        }

    def _start_server(self, number: int) -> Daemon:
        folder = self.folder / f"server-{number}"
        folder.mkdir()
        server = Daemon([sys.executable, "-m", "hmacfs"], folder=folder, env=self.environment(number))
        self._cleanup.callback(server.kill)
        server.wait_until(lambda: answers_200(f"http://127.0.0.1:{self.ports[number]}/readyz", 5), what="the server")
        return server

    def sign(self, name: str, size: int) -> str:
        key = Keyring([(self.secrets / "secret").read_bytes()])
        return f"/upload/{name}?v={sign_v(key, name, size)}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ExitStack() as cleanup:
        yield Cluster(tmp_path_factory.mktemp("cluster"), cleanup)


def test_the_key_that_seaweedfs_is_given_has_all_rights_that_are_needed(cluster: Cluster) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hmacfs", "-check", "-online"],
        cwd=cluster.folder,
        env=cluster.environment(0) | {"HMACFS_LISTEN_PORT": f"127.0.0.1:{free_port()}"},
        capture_output=True,
        text=True,
        check=False,
    )
    tried = re.findall(r"^(?:\w+: )?object store: (.*)$", done.stdout + done.stderr, re.MULTILINE)
    assert len(tried) > 5
    assert [line for line in tried if not line.endswith(": good")] == []


def test_two_servers_behind_haproxy_have_the_same_files(cluster: Cluster) -> None:
    body = os.urandom(100_000)
    names = [f"file-{number}" for number in range(8)]
    for name in names:
        assert request(cluster.haproxy.port, "PUT", cluster.sign(name, len(body)), body).status == 201
    for port in cluster.ports:
        assert [request(port, "GET", f"/upload/{name}").body == body for name in names] == [True] * len(names)
    for server in cluster.servers:
        assert "method=PUT" in server.log()


def test_pieces_go_on_at_the_server_that_is_left(cluster: Cluster) -> None:
    body = os.urandom(100_000)
    target = cluster.sign("pieces", len(body))

    def send(first: int) -> int:
        piece, span = body[first : first + 50_000], f"bytes {first}-{first + 49_999}/{len(body)}"
        return request(cluster.haproxy.port, "PUT", target, piece, content_range=span).status

    assert send(0) == 202
    assert cluster.servers[0].stop() == 0
    assert send(50_000) == 201
    assert request(cluster.haproxy.port, "GET", "/upload/pieces").body == body
