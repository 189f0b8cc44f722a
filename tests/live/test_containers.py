"""``Dockerfile``, ``compose.yaml`` and ``compose-s3.yaml``. There is no Docker engine here: linters read them, and their steps and commands
are run without containers, with the real servers that the services are."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from fnmatch import fnmatch
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from ruamel.yaml import YAML

from hmacfs.config import Storage, load
from hmacfs.config.redis_address import RedisServer
from hmacfs.protocol.keyring import Keyring, sign_v
from hmacfs.server.hooks import MASTER_MARGIN_SECONDS
from tests.live.client import request
from tests.servers import Daemon, accepts_connections, folder_of, free_port, require, require_binary, wait_until
from tests.servers.nginx import wrapped
from tests.servers.postgres import DATABASE, PASSWORD, USER, PostgresServer

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"


def yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


COMPOSE: dict[str, Any] = yaml(DEPLOY / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVER = SERVICES["hmac-file-server"]
COMPOSE_S3: dict[str, Any] = yaml(DEPLOY / "compose-s3.yaml")
SERVICES_S3: dict[str, dict[str, Any]] = COMPOSE_S3["services"]
SERVERS_S3 = [SERVICES_S3["server-one"], SERVICES_S3["server-two"]]
BOTH = {"compose.yaml": COMPOSE, "compose-s3.yaml": COMPOSE_S3}


def tool(name: str) -> str:
    """A program that came with a Python package."""
    path = Path(sys.executable).parent / name
    return require(str(path) if path.exists() else shutil.which(name), name)


class Step(NamedTuple):
    """An instruction of the Dockerfile, its lines joined."""

    name: str
    text: str


def steps() -> list[Step]:
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    return [Step(*line.split(" ", 1)) for line in joined.splitlines() if line.strip()]


def all_of(name: str) -> list[str]:
    return [step.text for step in steps() if step.name == name]


def copied() -> list[str]:
    """What the image is built from, as the Dockerfile names it."""
    return [word for text in all_of("COPY") if "--from" not in text for word in text.split()[:-1]]


def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run([tool("hadolint"), DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def is_ignored(path: str) -> bool:
    """As .dockerignore says: the last line that fits a path or a folder it is in decides."""
    verdict = False
    for line in (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.lstrip("!")
        if not line or line.startswith("#"):
            continue
        parts = path.split("/")
        above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        if any(fnmatch(folder, pattern) or fnmatch(f"/{folder}", pattern.replace("**", "*")) for folder in above):
            verdict = not line.startswith("!")
    return verdict


def test_the_build_gets_what_it_needs_and_no_secrets() -> None:
    assert copied()
    for name in copied():
        assert (PROJECT / name).exists()
        assert not is_ignored(name)
    assert not is_ignored("hmacfs/web/cors.py")
    for name in (
        "config.toml",
        "data/x",
        ".git/config",
        ".venv/x",
        "deploy/compose/secrets/secret",
        "tests/conftest.py",
    ):
        assert is_ignored(name), name
    assert is_ignored("hmacfs/__pycache__/app.pyc")


def test_the_image_runs_as_nobody_in_particular_and_gets_signals() -> None:
    assert all_of("USER") == ["10001:10001"]
    assert json.loads(all_of("ENTRYPOINT")[0]) == ["hmac-file-server"]  # by itself, not through a shell
    assert all_of("STOPSIGNAL") == ["SIGTERM"]
    assert "--uid 10001" in " ".join(all_of("RUN"))
    assert all_of("VOLUME") == [image_environment()["HMACFS_STORE_DIR"]]
    assert all_of("EXPOSE") == [image_environment()["HMACFS_LISTEN_PORT"].lstrip(":")]
    assert image_environment()["HMACFS_METRICS_PORT"].startswith("127.0.0.1:")


def image_environment() -> dict[str, str]:
    return dict(word.split("=", 1) for text in all_of("ENV") for word in shlex.split(text))


@pytest.mark.parametrize("file", BOTH)
def test_compose_is_what_its_specification_allows(file: str) -> None:
    done = subprocess.run(
        [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", DEPLOY / file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("compose", BOTH.values(), ids=BOTH)
def test_what_services_name_is_there(compose: dict[str, Any], tmp_path: Path) -> None:
    services = compose["services"]
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    subprocess.run([tmp_path / "deploy/compose/make-secrets"], check=True)
    assert stat.S_IMODE((tmp_path / "deploy/compose/secrets").stat().st_mode) == 0o700
    made = {path.name: path.read_text() for path in (tmp_path / "deploy/compose/secrets").iterdir()}
    assert set(made) == {name for each in BOTH.values() for name in each["secrets"]}
    assert len(set(made.values())) == len(made)
    assert all(re.fullmatch("[0-9a-f]{64}", text) for text in made.values())
    subprocess.run([tmp_path / "deploy/compose/make-secrets"], check=True)
    for name, secret in compose["secrets"].items():
        path = tmp_path / "deploy" / secret["file"]
        assert (path.name, path.read_text()) == (name, made[name])
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
    used: dict[str, set[str]] = {"volumes": set(), "networks": set(), "secrets": set()}
    for name, service in services.items():
        for mount in service.get("volumes", []):
            source, target = mount.split(":")[:2]
            assert target.startswith("/")
            if source.startswith("."):
                assert (DEPLOY / source).is_file(), source
                assert mount.endswith(":ro")
            else:
                used["volumes"].add(source)
        if "network_mode" in service:
            assert service["network_mode"].removeprefix("service:") in services
        used["networks"] |= set(service.get("networks", []))
        used["secrets"] |= set(service.get("secrets", []))
        for file in re.findall(r"/run/secrets/([\w-]+)", json.dumps(service)):
            assert file in service["secrets"], (name, file)
        for other, condition in service.get("depends_on", {}).items():
            if condition == {"condition": "service_completed_successfully"}:
                assert services[other]["restart"] == "no"
                continue
            assert condition == {"condition": "service_healthy"}
            is_ours = services[other]["image"] == "hmac-file-server"
            assert "healthcheck" in services[other] or (is_ours and all_of("HEALTHCHECK"))
    for kind, names in used.items():
        assert names == set(compose[kind])


def test_only_nginx_is_published_and_only_the_neighbours_are_reached() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"nginx": ["80:80"], "grafana": ["127.0.0.1:3000:3000"]}
    internal = {name for name, network in COMPOSE["networks"].items() if network and network.get("internal")}
    members = {
        network: {name for name, service in SERVICES.items() if network in service["networks"]} for network in internal
    }
    assert members == {
        "uploads": {"nginx", "hmac-file-server"},
        "sessions": {"hmac-file-server", "redis", "postgres"},
        "metrics": {"hmac-file-server", "prometheus", "grafana"},
    }
    (subnet,) = (pool["subnet"] for pool in COMPOSE["networks"]["uploads"]["ipam"]["config"])
    assert SERVER["environment"]["HMACFS_TRUSTED_PROXIES"] == subnet


def test_only_haproxy_is_published_and_objects_have_only_the_servers_for_neighbours() -> None:
    published = {name: service["ports"] for name, service in SERVICES_S3.items() if "ports" in service}
    assert published == {"haproxy": ["80:8080"]}
    members = {
        network: {name for name, service in SERVICES_S3.items() if network in service.get("networks", [])}
        for network in COMPOSE_S3["networks"]
    }
    servers = {"server-one", "server-two"}
    assert members == {
        "public": {"haproxy"},
        "uploads": {"haproxy", *servers},
        "sessions": {"redis", "postgres", *servers},
        "objects": {"seaweedfs", *servers},
    }
    assert all(COMPOSE_S3["networks"][name]["internal"] for name in members if name != "public")
    (subnet,) = (pool["subnet"] for pool in COMPOSE_S3["networks"]["uploads"]["ipam"]["config"])
    addresses = [ip_address(server["networks"]["uploads"]["ipv4_address"]) for server in SERVERS_S3]
    assert len(set(addresses)) == 2
    for server, address in zip(SERVERS_S3, addresses, strict=True):
        assert server["environment"]["HMACFS_TRUSTED_PROXIES"] == subnet
        assert address in ip_network(subnet)


@pytest.mark.parametrize("compose", BOTH.values(), ids=BOTH)
def test_every_service_is_hardened(compose: dict[str, Any]) -> None:
    """What each may do beyond is named: nginx's port and users, the folders that are written to."""
    for name, service in compose["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["ulimits"]["core"] == 0
        assert ("cap_add" in service) == (name == "nginx")
    assert SERVICES["nginx"]["cap_add"] == ["CHOWN", "NET_BIND_SERVICE", "SETGID", "SETUID"]


def test_the_server_s_settings_are_good_and_it_is_given_time_to_stop(tmp_path: Path) -> None:
    environment = image_environment() | SERVER["environment"]
    for name in [name for name in environment if name.endswith("_FILE")]:
        file = tmp_path / Path(environment[name]).name
        file.write_text("of sixteen bytes")
        environment[name] = str(file)
    settings = load(None, environment)
    seconds = {name: int(SERVICES[name]["stop_grace_period"].rstrip("s")) for name in ("nginx", "hmac-file-server")}
    assert min(seconds.values()) > settings.graceful_shutdown_timeout + MASTER_MARGIN_SECONDS
    assert SERVER["ulimits"]["nofile"] > 2 * settings.max_connections + 256
    assert isinstance(settings.redis_addr, RedisServer)
    assert urlsplit(settings.redis_addr.url).hostname in SERVICES
    assert settings.fallback_db_host.host in SERVICES
    postgres = SERVICES["postgres"]["environment"]
    assert (postgres["POSTGRES_USER"], postgres["POSTGRES_DB"]) == (
        settings.fallback_db_user,
        settings.fallback_db_name,
    )
    uid = all_of("USER")[0].split(":")[0]
    assert SERVER["tmpfs"][0].startswith(f"{settings.runtime_dir}:uid={uid},")
    assert f"{settings.store_dir}" in SERVER["volumes"][0]


def test_the_servers_of_a_bucket_have_the_same_good_settings(tmp_path: Path) -> None:
    one, two = SERVERS_S3
    assert {**one, "volumes": None, "networks": None} == {**two, "volumes": None, "networks": None}
    assert one["volumes"] != two["volumes"]
    environment = image_environment() | one["environment"]
    for name in [name for name in environment if name.endswith("_FILE")]:
        file = tmp_path / Path(environment[name]).name
        file.write_text("of sixteen bytes")
        environment[name] = str(file)
    settings = load(None, environment)
    seconds = {name: int(SERVICES_S3[name]["stop_grace_period"].rstrip("s")) for name in ("haproxy", "server-one")}
    assert min(seconds.values()) > settings.graceful_shutdown_timeout + MASTER_MARGIN_SECONDS
    assert settings.storage is Storage.S3
    endpoint = urlsplit(settings.s3_endpoint)
    (engine,) = SERVICES_S3["seaweedfs"]["command"]
    assert endpoint.hostname == "seaweedfs"
    assert f"-s3.port={endpoint.port} " in engine
    assert f'"accessKey": "{settings.s3_access_key}"' in engine
    assert set(re.findall(r'"(?:Read|Write|List):(\w+)"', engine)) == {settings.s3_bucket}
    assert f's3.bucket.create -name {settings.s3_bucket}"' in SERVICES_S3["bucket"]["command"][0]
    assert environment["HMACFS_S3_SECRET_KEY_FILE"].endswith("/s3-secret-key")
    for folder in (settings.state_dir, settings.s3_spool_dir):
        assert f"{folder}".startswith(one["volumes"][0].partition(":")[2] + "/")
    assert isinstance(settings.redis_addr, RedisServer)
    assert urlsplit(settings.redis_addr.url).hostname in SERVICES_S3
    for name in ("redis", "postgres"):
        assert SERVICES_S3[name] == SERVICES[name]


def test_haproxy_is_configured_as_it_is_without_containers() -> None:
    def directives(name: str) -> list[str]:
        lines = (DEPLOY / name).read_text(encoding="utf-8").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.strip().startswith(("#", "bind "))]

    there = [
        re.sub(r"server (one|two) 192\.0\.2\.1.:8080", r"server \1 server-\1:8080", line)
        for line in directives("haproxy.cfg")
    ]
    assert directives("compose/haproxy.cfg") == there
    port = SERVICES_S3["haproxy"]["ports"][0].partition(":")[2]
    assert f"\n    bind :{port}\n" in (DEPLOY / "compose/haproxy.cfg").read_text(encoding="utf-8")
    nofile = SERVICES_S3["haproxy"]["ulimits"]["nofile"]
    assert nofile > 2 * int(re.findall(r"^maxconn (\d+)", "\n".join(there), re.MULTILINE)[0])


def test_addresses_and_names_fit_one_another() -> None:
    scrape = yaml(DEPLOY / "compose/prometheus.yml")
    own = yaml(DEPLOY / "prometheus.yml")
    (target,) = scrape["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target == "hmac-file-server" + SERVER["environment"]["HMACFS_METRICS_PORT"]
    for config in (scrape, own):
        del config["scrape_configs"][0]["static_configs"]
    assert scrape == own
    (source,) = yaml(DEPLOY / "compose/grafana-datasources.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == scrape["global"]["scrape_interval"]
    (provider,) = yaml(DEPLOY / "compose/grafana-dashboards.yaml")["providers"]
    mounted = [mount.split(":")[1] for mount in SERVICES["grafana"]["volumes"]]
    assert [path for path in mounted if path.startswith(provider["options"]["path"] + "/")] == [
        SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    ]


def test_nginx_is_configured_as_it_is_without_containers() -> None:
    def directives(name: str) -> list[str]:
        lines = (DEPLOY / name).read_text(encoding="utf-8").partition("\nserver {")[2].splitlines()
        return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]

    there, here = directives("nginx.conf"), directives("compose/nginx.conf")
    there = [line.replace("$x_accel_offload", '""') for line in there]  # for nginx that sends files
    assert [line for line in here if line not in there] == []
    general = there[: there.index("location = /readyz  { proxy_pass http://hmac_file_server; }") + 1]
    assert here[:-1] == [line for line in general if line != "listen [::]:80;"]


def make_secrets(folder: Path, compose: dict[str, Any]) -> Path:
    """The folder that ``/run/secrets`` is in a container."""
    secrets = folder / "secrets"
    secrets.mkdir()
    for name in compose["secrets"]:
        (secrets / name).write_text(PASSWORD if name == "database-password" else os.urandom(32).hex())
    return secrets


def start_redis(folder: Path, secrets: Path, cleanup: ExitStack) -> int:
    """Redis as its service says; its port."""
    folder, port = folder / "redis", free_port()
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/docker-entrypoint.sh").write_text('#!/bin/sh\nexec "$@"\n')
    (folder / "bin/docker-entrypoint.sh").chmod(0o755)
    more = f"appendonly yes\nport {port}\nbind 127.0.0.1\ndir {folder}\n"
    words = {"$$": "$", "/run/secrets": str(secrets), "appendonly yes\n": more}
    command = [replace(word, words) for word in SERVICES["redis"]["command"]]
    assert more in command[-1]
    require_binary("redis-server")
    daemon = Daemon(command, folder=folder, env={"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"})
    cleanup.callback(daemon.kill)
    kind, check = SERVICES["redis"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    check = replace(check, {"$$": "$", "/run/secrets": str(secrets), "redis-cli": f"redis-cli -p {port}"})
    daemon.wait_until(lambda: subprocess.run(["sh", "-c", check], check=False).returncode == 0, what="Redis")
    return port


class Stack:
    """The services that an upload passes, each as its command says; ``environment`` is the server's."""

    def __init__(self, folder: Path, cleanup: ExitStack) -> None:
        self.folder = folder
        self.port, self.nginx_port, self.metrics_port = free_port(), free_port(), free_port()
        self.secrets = make_secrets(folder, COMPOSE)
        self.redis_port = start_redis(folder, self.secrets, cleanup)
        postgres = cleanup.enter_context(PostgresServer(cleanup.enter_context(folder_of("postgres"))))
        self.venv = folder / "venv"
        self._build()
        assert (SERVER["environment"]["HMACFS_FALLBACK_DB_USER"], "hmacfs") == (USER, DATABASE)
        replaced = {
            "/run/secrets": str(self.secrets),
            "/run/hmac-file-server": str(folder / "run"),
            "/opt/hmac-file-server": str(self.venv),
            "redis:6379": f"127.0.0.1:{self.redis_port}",
        }
        environment = image_environment() | SERVER["environment"]
        self.environment = {
            **{name: replace(value, replaced) for name, value in environment.items()},
            "HMACFS_LISTEN_PORT": f"127.0.0.1:{self.port}",
            "HMACFS_METRICS_PORT": f"127.0.0.1:{self.metrics_port}",
            "HMACFS_STORE_DIR": str(folder / "data"),
            "HMACFS_FALLBACK_DB_HOST": f"127.0.0.1:{postgres.port}",
            "HMACFS_TRUSTED_PROXIES": "127.0.0.1",
            "HMACFS_MIN_FREE_SPACE": "0",
        }
        (folder / "server").mkdir()
        entry = json.loads(all_of("ENTRYPOINT")[0])
        self.server = Daemon([str(self.venv / "bin" / entry[0])], folder=folder / "server", env=self.environment)
        cleanup.callback(self.server.kill)
        self.server.wait_until(self.is_healthy, what="the health check")
        self._start_nginx(cleanup)

    def _build(self) -> None:
        """The first stage, with this Python and no more files than the image gets."""
        source = self.folder / "src"
        source.mkdir()
        for name in copied():
            if (PROJECT / name).is_dir():
                shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(PROJECT / name, source)
        first = [step for step in steps()[: [step.name for step in steps()].index("FROM", 1)] if step.name == "RUN"]
        assert len(first) == 2
        for step in first:
            line = replace(step.text, {"/opt/hmac-file-server": str(self.venv), "--no-cache-dir": "--quiet"})
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            done = subprocess.run(
                ["sh", "-ec", line],
                cwd=source,
                env={**os.environ, "PATH": path},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr

    def is_healthy(self) -> bool:
        """What Docker would find out."""
        command = json.loads(all_of("HEALTHCHECK")[0].partition(" CMD ")[2])
        words = [replace(word, {"127.0.0.1:8080": f"127.0.0.1:{self.port}"}) for word in command]
        path = self.environment["PATH"]
        program = shutil.which(words[0], path=path)
        assert program == str(self.venv / "bin/python")
        return subprocess.run([program, *words[1:]], check=False, stderr=subprocess.DEVNULL).returncode == 0

    def _start_nginx(self, cleanup: ExitStack) -> None:
        folder = self.folder / "nginx"
        folder.mkdir()
        site = (DEPLOY / "compose/nginx.conf").read_text(encoding="utf-8")
        words = {
            "server hmac-file-server:8080 ": f"server 127.0.0.1:{self.port} ",
            "listen 80;": f"listen 127.0.0.1:{self.nginx_port};",
            "/var/log/nginx/": f"{folder}/",
        }
        assert all(word in site for word in words)
        (folder / "nginx.conf").write_text(wrapped(replace(site, words), folder))
        command = [require_binary("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
        subprocess.run([*command, "-t", "-q"], check=True, stderr=subprocess.DEVNULL)
        nginx = Daemon([*command, "-g", "daemon off;"], folder=folder)
        cleanup.callback(nginx.kill)
        nginx.wait_until(lambda: accepts_connections(self.nginx_port), what="nginx")

    def sign(self, name: str, size: int) -> str:
        key = Keyring([(self.secrets / "secret").read_bytes()])
        return f"/upload/{name}?v={sign_v(key, name, size)}"


def replace(text: str, words: dict[str, str]) -> str:
    for old, new in words.items():
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with ExitStack() as cleanup:
        yield Stack(tmp_path_factory.mktemp("stack"), cleanup)


def test_what_the_image_holds_serves_uploads_behind_nginx_with_redis_and_postgresql(stack: Stack) -> None:
    body = os.urandom(100_000)
    assert request(stack.nginx_port, "PUT", stack.sign("whole", len(body)), body).status == 201
    assert request(stack.nginx_port, "GET", "/upload/whole").body == body
    for first in (0, 50_000):
        piece, span = body[first : first + 50_000], f"bytes {first}-{first + 49_999}/{len(body)}"
        answer = request(stack.nginx_port, "PUT", stack.sign("pieces", len(body)), piece, content_range=span)
        assert answer.status == (201 if first else 202)
    assert request(stack.nginx_port, "GET", "/upload/pieces").body == body

    def stores() -> list[str]:
        text = request(stack.metrics_port, "GET", "/metrics").body.decode()
        return sorted(re.findall(r'^hmacfs_session_store_up\{.*store="(\w+)".*\} 1', text, re.MULTILINE))

    wait_until(lambda: stores() == ["postgres", "redis"], what="both stores")


def test_it_stops_when_docker_says_so(stack: Stack) -> None:
    assert stack.is_healthy()
    stack.server.process.terminate()
    assert stack.server.process.wait(20) == 0
    assert not stack.is_healthy()
