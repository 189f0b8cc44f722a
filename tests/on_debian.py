"""The tests, or a part of them, on a fresh Debian of another release, as an ordinary user:

    python -m tests.on_debian trixie tests/unit tests/live/test_xmpp.py

The system is made by debootstrap and kept for the next time; what the tests install besides goes away with the run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import debian
from tests.times import TESTED

#: What ``make test`` starts from.
_NEEDED = ["make", "python3-venv"]
#: The servers and programs that those parts of the suite need which have to work with more than one version of them.
_SERVERS = [
    *("curl", "ejabberd", "haproxy", "lua5.4", "nginx-light", "openssl", "prosody", "prosody-modules", "redis-server"),
    "strace",
]
#: As ``make test`` installs them.
_EXTRAS = "redis,postgres,s3,test,lint"
_USER = "tester"
#: Those that watch time and memory do so in the run here. npm is not installed there.
_ARGUMENTS = '-m "not alone and not needs_node"'

_RUN = """\
useradd --create-home {user}
cp -r {checkout} /home/{user}/project
chown -R {user}: /home/{user}/project
cd /home/{user}/project
exec setpriv --reuid={user} --regid={user} --init-groups \
    make --no-print-directory test SERVERS='{servers}' TESTS='{tests}' ARGS='{arguments}'
"""


def run(suite: str, tests: list[str]) -> int:
    """The exit status of ``make test`` there. Raises pytest's ``Skipped`` or ``Failed`` where that system cannot be had."""
    base = debian.system(suite, *_NEEDED, *_SERVERS)
    with debian.temporary_machine(base, {debian.wheels(base, _EXTRAS): debian.WHEELS}) as machine:
        machine.copy_project()
        script = _RUN.format(
            user=_USER,
            checkout=debian.CHECKOUT,
            servers=" ".join(_SERVERS),
            tests=" ".join(tests),
            arguments=_ARGUMENTS,
        )
        # With CI=true what is missing there is a failure. npm, and what runs in Node, is left out.
        variables = {"HOME": f"/home/{_USER}", "CI": "true", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": debian.WHEELS}
        status = subprocess.run(machine.command("sh", "-euc", script, **variables), check=False).returncode
        _keep(machine.path(f"/home/{_USER}/project/build/{TESTED.name}"))
        return status


def _keep(tested: Path) -> None:
    """Which interpreter ran there is for the end of the whole run to say."""
    if tested.exists():
        TESTED.parent.mkdir(exist_ok=True)
        with TESTED.open("a", encoding="utf-8") as file:
            file.write(tested.read_text(encoding="utf-8"))


def why_not() -> str:
    """Why there can be no system in a folder here; empty if there can."""
    if os.geteuid() != 0:
        return "only root may make a system in a folder"
    if shutil.which("debootstrap", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        return "debootstrap is not installed"
    trial = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False)
    return "" if trial.returncode == 0 else f"no mounts of our own: {trial.stderr.decode(errors='replace').strip()}"


def main(arguments: list[str]) -> int:
    suite, *tests = arguments
    if reason := why_not():
        print(f"skipped: the tests on a Debian {suite}: {reason}")
        return 0
    print(f"On a fresh Debian {suite}, as an ordinary user:", flush=True)
    try:
        return run(suite, tests)
    except (pytest.fail.Exception, pytest.skip.Exception) as error:
        print(error)
        return int(isinstance(error, pytest.fail.Exception))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
