"""The service as an operator has it: installed by the README's own lines on fresh Debians, under their real systemd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import debian

PACKAGES = ("systemd", "dbus", "sudo", "python3-venv", "nginx-light", "logrotate", "openssl", "curl", "iproute2")


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[debian.Machine]:
    base = debian.system(request.param, *PACKAGES)
    binds = {debian.wheels(base, "redis,postgres"): debian.WHEELS}
    with debian.Machine(base, tmp_path_factory.mktemp(request.param), binds=binds) as machine:
        machine.copy_project()
        yield machine


def test_nginx_runs(machine: debian.Machine) -> None:
    assert "200 OK" in machine.run("systemctl is-active nginx && curl -sSI localhost")
