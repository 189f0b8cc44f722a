"""The service as an operator has it: installed by the README's own lines on fresh Debians, under their real systemd."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.programs import program
from tests.servers import debian, wait_until

pytestmark = pytest.mark.alone

PACKAGES = (
    *("systemd", "dbus", "sudo", "python3-venv", "nginx-light", "haproxy", "logrotate", "openssl", "curl", "iproute2"),
)
CONFIG = "/etc/hmac-file-server/config.toml"
LOG = "/var/log/hmac-file-server/server.log"
READY = "curl -sS -H 'Host: files.example.org' http://localhost/readyz"

UPLOAD = program("upload_in_machine.py").read_text()


class Service(debian.Machine):
    """The machine, with what tests ask of the service."""

    installation = ""

    def install(self) -> None:
        """By the README's lines, whose last one asks whether the server is ready."""
        self.copy_project()
        readme = (debian.PROJECT / "README.md").read_text(encoding="utf-8")
        steps = readme.partition("### As a service")[2].partition("```sh\n")[2].partition("```")[0]
        self.installation = self.run(steps, timeout=300)

    def _run(self, script: str, *, timeout: float = 60.0, env: dict[str, str] | None = None) -> tuple[int, str]:
        """What failed is told together with what the service has to say of it."""
        code, said = super()._run(script, timeout=timeout, env=env)
        if code and self.installation:
            said += super()._run("systemctl status --lines 30 --full --no-pager hmac-file-server || true")[1]
        return code, said

    def upload(self, size: int = 5, name: str = "") -> int:
        return int(self.run(f"/opt/hmac-file-server/bin/python - '{name}' {size} <<'EOF'\n{UPLOAD}EOF"))

    def properties(self, *names: str) -> list[str]:
        shown = self.run(f"systemctl show hmac-file-server {' '.join(f'-p {name}' for name in names)}")
        values = dict(line.split("=", 1) for line in shown.splitlines())
        return [values[name] for name in names]

    def journal(self) -> str:
        """All that it said there so far."""
        return self.run("journalctl --sync; journalctl --no-pager -u hmac-file-server -o cat")

    def complaints(self) -> list[str]:
        return [line for line in self.path(LOG).read_text().splitlines() if not re.search(r" (INFO|DEBUG) \[", line)]

    @contextlib.contextmanager
    def changed(self, key: str, value: str) -> Iterator[None]:
        """Another value in the configuration, for a while."""
        file = self.path(CONFIG)
        text = file.read_text()
        changed, count = re.subn(rf"^#?{key} = .*$", f"{key} = {value}", text, count=1, flags=re.MULTILINE)
        assert count == 1
        file.write_text(changed)
        try:
            yield
        finally:
            file.write_text(text)


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    base = debian.system(request.param, *PACKAGES)
    binds = {debian.wheels(base, "redis,postgres"): debian.WHEELS}
    with Service(base, tmp_path_factory.mktemp(request.param), binds=binds) as machine:
        machine.install()
        yield machine


def test_the_readme_s_lines_install_a_server_that_is_ready(service: Service) -> None:
    assert service.installation.splitlines()[-1] == "ready" or "\nready\n" in service.installation
    assert service.upload() == 201
    assert service.complaints() == []
    modes = service.run(
        f"stat -c '%a %U %G' {CONFIG} /etc/hmac-file-server/secret /run/hmac-file-server/http.sock {LOG}"
    )
    assert modes.splitlines() == [
        "640 root hmac-file-server",
        "600 root root",
        "660 hmac-file-server hmac-file-server",
        "640 hmac-file-server hmac-file-server",
    ]


def test_what_the_readme_checks_before_an_update_holds_beside_the_running_server(service: Service) -> None:
    readme = (debian.PROJECT / "README.md").read_text(encoding="utf-8")
    check = re.search(r"sudo HMACFS_SECRET_FILE=.*\\\n.*-check\n", readme)
    assert check
    said = service.run(check[0].replace("hmac-file-server-2", "hmac-file-server"))
    assert "warning" not in said


def test_links_within_the_store_are_followed(service: Service) -> None:
    assert service.upload(name="folder/file.txt") == 201
    service.run("ln -sf folder/file.txt /var/lib/hmac-file-server/store/link.txt")
    assert service.run("curl -sS -H 'Host: files.example.org' http://localhost/upload/link.txt") == "xxxxx"


def test_a_reload_takes_effect(service: Service) -> None:
    """When it returns, a worker serves under the new settings; one of those before may still answer what nginx sends on
    a connection that it kept, for a second."""
    with service.changed("UploadMaxSize", "1000"):
        service.run("systemctl reload hmac-file-server")
        wait_until(lambda: service.upload(1001) == 413, what="the smaller limit")
        assert service.upload(1000) == 201
    service.run("systemctl reload hmac-file-server")
    wait_until(lambda: service.upload(1001) == 201, what="the limit as it was")
    assert service.complaints() == []


def test_a_reload_of_a_bad_file_fails_and_says_why(service: Service) -> None:
    (pid,), before = service.properties("MainPID"), service.journal()
    with service.changed("UploadMaxSize", '"much"'):
        service.run("systemctl reload hmac-file-server", status=1)
    assert service.properties("MainPID", "ActiveState") == [pid, "active"]
    assert "UploadMaxSize: 'much' is not allowed" in service.journal().removeprefix(before)
    (line,) = service.complaints()
    assert line.endswith("keeping the running configuration")
    assert "UploadMaxSize: 'much' is not allowed" in service.properties("StatusText")[0]
    assert service.upload() == 201
    service.run(
        f"systemctl reload hmac-file-server; systemctl kill --kill-whom=main -s USR1 hmac-file-server; : >{LOG}"
    )
    assert service.properties("StatusText") == ["serving"]


def test_a_bad_file_fails_at_once(service: Service) -> None:
    before = service.journal()
    with service.changed("UploadMaxSize", '"much"'):
        service.run("systemctl restart hmac-file-server", status=1)
        assert service.properties("ActiveState", "ExecMainStatus", "NRestarts") == ["failed", "2", "0"]
    assert service.journal().removeprefix(before).count("UploadMaxSize: 'much' is not allowed") == 1
    service.run("systemctl restart hmac-file-server")
    assert service.run(READY) == "ready\n"


def test_who_mends_a_file_may_try_often(service: Service) -> None:
    with service.changed("UploadMaxSize", '"much"'):
        for _ in range(8):
            service.run("systemctl restart hmac-file-server", status=1)
    service.run("systemctl restart hmac-file-server")
    assert service.run(READY) == "ready\n"


def test_stop_and_start(service: Service) -> None:
    service.run("systemctl stop hmac-file-server.socket hmac-file-server.service")
    assert service.properties("ActiveState", "Result") == ["inactive", "success"]
    assert "502" in service.run(READY + " -o /dev/null -w '%{http_code}'")
    service.run("systemctl start hmac-file-server.socket hmac-file-server.service")
    assert service.run(READY) == "ready\n"
    service.run("systemctl stop hmac-file-server.service")
    assert service.run(READY) == "ready\n", "the socket starts it"


def test_after_a_crash_it_is_started_again_and_the_socket_waits(service: Service) -> None:
    (before,) = service.properties("MainPID")
    service.run(f"kill -9 {before}")
    # A worker that outlives the master for a moment may take the first connection down with it.
    wait_until(lambda: service.run(READY) == "ready\n", what="the service after a crash")
    wait_until(lambda: service.properties("MainPID") != [before], what="a new master")


def test_the_log_is_rotated(service: Service) -> None:
    assert service.upload(name="before-rotation") == 201
    service.run("logrotate --force /etc/logrotate.d/hmac-file-server")
    wait_until(service.path(LOG).exists, what="the new log file")
    assert service.upload(name="after-rotation") == 201
    assert "after-rotation" in service.path(LOG).read_text()
    old = service.path(f"{LOG}.1").read_text()
    assert "before-rotation" in old
    assert "after-rotation" not in old


def test_it_works_without_the_socket_unit(service: Service) -> None:
    unit = "/etc/systemd/system/hmac-file-server.socket"
    service.run("systemctl disable --now hmac-file-server.socket")
    service.run(f"mv {unit} /root; systemctl daemon-reload; systemctl restart hmac-file-server")
    try:
        assert service.run(READY) == "ready\n"
        assert "(socket activation)" not in service.path(LOG).read_text().rpartition("listening at")[2]
        service.run("systemctl restart hmac-file-server")
        assert service.run(READY) == "ready\n"
    finally:
        service.run(
            f"systemctl stop hmac-file-server; mv /root/hmac-file-server.socket {unit}; systemctl daemon-reload"
        )
        service.run("systemctl enable --now hmac-file-server.socket; systemctl start hmac-file-server")
    assert service.run(READY) == "ready\n"
    assert "(socket activation)" in service.path(LOG).read_text().rpartition("listening at")[2]


def test_a_store_elsewhere_is_named_with_the_remedy(service: Service) -> None:
    readme = (debian.PROJECT / "README.md").read_text(encoding="utf-8")
    drop_in = (
        readme.partition("`sudo systemctl edit hmac-file-server` opens:")[2]
        .partition("```ini\n")[2]
        .partition("```")[0]
    )
    before = service.journal()
    with service.changed("StoreDir", '"/srv/uploads"'):
        service.run("systemctl restart hmac-file-server", status=1)
        said = service.journal().removeprefix(before)
        assert "StoreDir: /srv/uploads cannot be written: Read-only file system" in said
        assert "ReadWritePaths=/srv/uploads" in said
        assert "systemctl edit hmac-file-server.service" in said
        service.run("install -d -o hmac-file-server -g hmac-file-server -m 750 /srv/uploads")
        folder = "/etc/systemd/system/hmac-file-server.service.d"  # where "systemctl edit" puts it
        service.run(f"mkdir {folder}; cat >{folder}/override.conf <<'EOF'\n{drop_in}EOF\nsystemctl daemon-reload")
        service.run("systemctl restart hmac-file-server")
        assert service.upload(name="elsewhere") == 201
        assert service.path("/srv/uploads/elsewhere").exists()
    service.run("systemctl revert hmac-file-server")
    before = service.journal()
    with service.changed("StoreDir", '"/home/uploads"'):
        service.run("systemctl restart hmac-file-server", status=1)
        assert "the service does not see /home (ProtectHome=yes)" in service.journal().removeprefix(before)
    service.run("systemctl restart hmac-file-server")


def test_nginx_takes_the_lines_for_tls_without_a_warning(service: Service) -> None:
    site = "/etc/nginx/sites-available/hmac-file-server"
    shipped = service.path(site).read_text()
    assert "warn" not in service.run("nginx -t")
    text = re.sub(r"/etc/letsencrypt/live/files.example.org/(fullchain|privkey).pem", r"/run/\1.pem", shipped)
    text = re.sub(r"^    # (ssl_|listen |http2 )", r"    \1", text, flags=re.MULTILINE)
    if "nginx/1.22" in service.run("nginx -v"):
        text = text.replace("    http2 on;\n", "").replace("443 ssl;", "443 ssl http2;")
    service.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=files.example.org -keyout /run/privkey.pem "
        "-out /run/fullchain.pem 2>/dev/null"
    )
    service.path(site).write_text(text)
    try:
        assert "warn" not in service.run("nginx -t")
        service.run("systemctl reload nginx")  # returns before nginx has opened its new port
        ask = "curl -skI --retry 30 --retry-connrefused --retry-delay 1 --resolve files.example.org:443:127.0.0.1"
        assert service.run(f"{ask} https://files.example.org/readyz").startswith("HTTP/2 200")
    finally:
        service.path(site).write_text(shipped)
        service.run("systemctl reload nginx")


def test_haproxy_takes_the_shipped_file_without_a_warning(service: Service) -> None:
    said = service.run("haproxy -c -f deploy/haproxy.cfg 2>&1")
    assert "WARNING" not in said
    assert "deprecated" not in said


LOAD = program("load_in_machine.py").read_text()


def test_a_restart_costs_no_request(service: Service) -> None:
    with service.changed("RateLimitExempt", '["127.0.0.1", "::1"]'):
        service.run("systemctl reload hmac-file-server")
        answers = restart_under_load(service)
    service.run("systemctl reload hmac-file-server")
    assert {kind[:8].strip() for kind in answers} == {"PUT 201", "GET 200"}, answers
    assert sum(answers.values()) > 300


def restart_under_load(service: Service) -> dict[str, int]:
    """What was answered meanwhile, and how often."""
    done = f"/run/load-is-over-{time.monotonic()}"
    store = service.path("/var/lib/hmac-file-server/store")
    with subprocess.Popen(
        service.command("/opt/hmac-file-server/bin/python", "-c", LOAD, done), stdout=subprocess.PIPE, text=True
    ) as load:
        try:
            for _ in range(3):
                (before,) = service.properties("MainPID")
                service.run("systemctl restart hmac-file-server")
                assert service.properties("MainPID") != [before]
                seen = len(list(store.iterdir()))
                wait_until(lambda: len(list(store.iterdir())) > seen + 50, what="more uploads")  # noqa: B023
        finally:
            service.run(f"touch {done}")
        answers: dict[str, int] = json.loads(load.communicate(timeout=60)[0])
    return answers
