"""``tests/install-servers``, on a fresh Debian."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.test_systemd import PACKAGES
from tests.servers import debian
from tests.servers.debian import Machine

pytestmark = pytest.mark.alone

#: They bring services, a socket and an init script.
SERVICES = ["redis-server", "erlang-base"]


@pytest.fixture
def machine() -> Iterator[Machine]:
    with debian.temporary_machine(debian.system("trixie", *PACKAGES), {}) as running:
        running.copy_project()
        yield running


def test_what_is_installed_starts_neither_now_nor_at_the_next_boot(machine: Machine) -> None:
    starts = "ls -d /etc/systemd/system/*.wants/* /etc/rc[2-5].d/S* | grep -v '[.]timer$' | sort"
    before = machine.run(starts)
    said = machine.run(f"tests/install-servers {' '.join(SERVICES)}", timeout=300)
    if "cannot be installed" in said:
        pytest.skip(f"no packages can be had here: {said}")
    assert "not enabled, to start at boot:" in said
    assert "redis-server.service" in said
    assert "epmd.socket" in said
    assert machine.run("command -v redis-server && command -v epmd")
    assert machine.run(starts) == before
    assert not {"redis-server", "epmd"} & set(machine.run("cat /proc/[0-9]*/comm").split())
    assert machine.run("test ! -e /usr/sbin/policy-rc.d && echo gone") == "gone\n"
    assert machine.run(f"tests/install-servers {' '.join(SERVICES)}") == "", "nothing is done twice"
