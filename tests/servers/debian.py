"""Debian systems in folders, for what an operator does on a fresh machine: made by debootstrap, kept in a cache outside
of the checkout, used through an overlay that leaves them as they are, and booted by their own systemd."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import pytest

from tests.programs import program
from tests.servers import reaper, require, require_binary, wait_until

PROJECT = Path(__file__).parents[2]
#: Where a system has the packages that the project depends on, for a pip that has no network.
WHEELS = "/var/cache/wheels"
#: Where a system has a copy of the project.
CHECKOUT = "/usr/local/src/hmac-file-server"

#: What says which packages those are.
_PINNED = ("setup.cfg", "pyproject.toml", "requirements.txt", "requirements-production.txt")

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# dpkg syncs each file, which costs minutes on a busy disk: so it works in memory, in a mount of this process alone.
_BUILD = program("debian_build.sh").read_text()

# An overlay over the system, in memory; where the kernel has none, a copy.
_ASSEMBLE = program("debian_assemble.sh").read_text()
# The host's cgroups of version 2, seen from the group that this process is in.
_BOOT = program("debian_boot.sh").read_text()
_ENTER = program("debian_enter.sh").read_text()


def system(suite: str, *packages: str) -> Path:
    """The root folder of a Debian with these packages, never to be written to. The first call makes it, which takes a
    minute or two; ``make clean`` removes it."""
    _require_root()
    require_binary("debootstrap")
    name = f"{suite}-{_digest(_BUILD, *sorted(packages))}"
    with _made_once(name) as folder:
        if folder is not None:
            values = {"suite": suite, "mirror": _mirror(), "target": str(folder), "packages": " ".join(packages)}
            _build(["unshare", "--mount", "--propagation", "private", "bash", "-euc", _BUILD], values)
            folder.rmdir()
            Path(f"{folder}.copy").rename(folder)
    return _cache() / name


def wheels(base: Path, extras: str) -> Path:
    """A folder with what ``pip install '.[extras]'`` needs on that system, among it the files whose hashes are pinned;
    made with the host's network and its settings of pip."""
    inputs = [(PROJECT / name).read_text() for name in _PINNED]
    name = f"wheels-{base.name}-{_digest(extras, *inputs)}"
    with _made_once(name) as folder:
        if folder is not None:
            with temporary_machine(base, {folder: WHEELS}) as machine:
                machine.copy_project()
                machine.run(
                    f"python3 -m venv /tmp/venv && /tmp/venv/bin/pip wheel --quiet --wheel-dir {WHEELS} --constraint "
                    f"requirements.txt '.[{extras}]' && rm {WHEELS}/hmac_file_server-*.whl\n"
                    # Last: an index of this machine's own may have other files of the same name.
                    f"/tmp/venv/bin/pip download --quiet --dest {WHEELS} --require-hashes --only-binary :all: "
                    f"--requirement requirements-production.txt",
                    timeout=600,
                )
    return _cache() / name


class Machine:
    """A system that runs: process 1 of namespaces of its own, over an overlay, without traces when it ends.

    ``binds``: folders and files of the host that it has at other paths. With ``boots`` its systemd runs, and there is
    no network but its own loopback; without, no more than what ``run`` starts, with the host's network and its settings
    of pip.
    """

    def __init__(self, base: Path, folder: Path, *, binds: dict[Path, str] | None = None, boots: bool = True) -> None:
        self._base = base
        self._folder = folder
        self._binds = {str(path): inside for path, inside in (binds or {}).items()}
        self._boots = boots
        self._environment = {"PATH": _PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"}
        self._cgroup: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def __enter__(self) -> Self:
        _require_root()
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        work, binds = self._folder / "root", self._folder / "binds"
        work.mkdir(exist_ok=True)
        command = [
            "unshare",
            "--mount",
            "--pid",
            "--ipc",
            "--uts",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
        ]
        script, first = _ASSEMBLE, ["sleep", "infinity"]
        if self._boots:
            self._cgroup = self._make_cgroup()
            command += ["--net", "--cgroup"]
            script += _BOOT
            first = ["/usr/lib/systemd/systemd", "--log-target=console", "--show-status=yes"]
        else:
            self._share_network()
        binds.write_text("".join(f"{path} {inside}\n" for path, inside in self._binds.items()))
        environment = {"PATH": _PATH, "system": str(self._base), "work": str(work), "binds": str(binds)}
        with self.console_path.open("wb") as console:
            self._process = subprocess.Popen(
                [*command, "bash", "-euc", script + _ENTER, "bash", *first],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                preexec_fn=self._enter_cgroup,
                start_new_session=True,
            )
        reaper.watch_group(self._process.pid)
        wait_until(self._is_up, timeout=60, what="the machine's start")
        if self._boots:
            said = self.run("systemctl is-system-running --wait || systemctl --failed --no-legend")
            assert said == "running\n", said
            if WHEELS in self._binds.values():
                self.path("/etc/pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {WHEELS}\n")

    @property
    def console_path(self) -> Path:
        """What its first process prints."""
        return self._folder / "console.log"

    def _make_cgroup(self) -> Path:
        mounts = re.findall(r"^\S+ (\S+) cgroup2 ", Path("/proc/self/mounts").read_text(), re.MULTILINE)
        group = (
            Path(require(next(iter(mounts), None), "a mount of cgroup version 2")) / f"hmacfs-{os.getpid()}-{id(self)}"
        )
        group.mkdir()
        return group

    def _enter_cgroup(self) -> None:
        if self._cgroup is not None:
            (self._cgroup / "cgroup.procs").write_text(str(os.getpid()))

    def _share_network(self) -> None:
        """The host's names of hosts, and how its pip finds packages: settings, and each local path that they name."""
        self._binds["/etc/resolv.conf"] = "/etc/resolv.conf"
        texts = []
        for path, inside in [
            (Path("/etc/pip.conf"), "/etc/pip.conf"),
            (Path("~/.config/pip/pip.conf").expanduser(), "/root/.config/pip/pip.conf"),
        ]:
            if path.exists():
                self._binds[str(path)] = inside
                texts.append(path.read_text())
        for name, value in os.environ.items():
            if name.startswith("PIP_") or name.lower() in ("http_proxy", "https_proxy", "no_proxy", "ssl_cert_file"):
                self._environment[name] = value
                texts.append(value)
        for url, name in re.findall(r"(file://|(?<![\w/]))(/[^\s'\"/][^\s'\"]*)", "\n".join(texts)):
            path = Path(name)
            if url and len(path.parts) > 3:  # an index, which may name files beside it
                path = path.parent
            if path.exists():
                self._binds[str(path.resolve())] = str(path)

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"it ended with {self._process.returncode}:\n{self.console_path.read_text()}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        if not children:
            return False
        self.pid = int(children[0])
        first = "systemd" if self._boots else "sleep"
        if Path(f"/proc/{self.pid}/comm").read_text().strip() != first:
            return False
        return (
            not self._boots or self._run("test -S /run/systemd/private && test -S /run/dbus/system_bus_socket")[0] == 0
        )

    def run(self, script: str, *, timeout: float = 60.0, status: int = 0, env: dict[str, str] | None = None) -> str:
        """What a shell that must end with ``status`` printed, errors too. It runs as root, in the copy of the project
        if there is one."""
        code, said = self._run(script, timeout=timeout, env=env)
        assert code == status, f"{script}: exit status {code}\n{said}"
        return said

    def _run(self, script: str, *, timeout: float = 60.0, env: dict[str, str] | None = None) -> tuple[int, str]:
        done = subprocess.run(
            [*self._enter(env or {}), "sh", "-euc", f"cd {CHECKOUT} 2>/dev/null || cd /\n{script}"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace")

    def _enter(self, env: dict[str, str]) -> list[str]:
        namespaces = ["--mount", "--pid", "--ipc", "--uts", *(["--net"] if self._boots else [])]
        values = [f"{name}={value}" for name, value in (self._environment | env).items()]
        return ["nsenter", f"--target={self.pid}", *namespaces, "--root", "--wd", "env", "-i", *values]

    def command(self, *words: str, **env: str) -> list[str]:
        """The command line that runs these words in there, for ``subprocess``."""
        return [*self._enter(env), *words]

    def path(self, inside: str) -> Path:
        """How this process reaches a path in there."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def copy_project(self) -> None:
        """Put the project to where ``run`` starts: what is under version control, as it is now."""
        git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(git, cwd=PROJECT, capture_output=True, check=False)
        names = [name for name in listed.stdout.decode().split("\0") if name and (PROJECT / name).exists()]
        if listed.returncode != 0:  # an unpacked archive
            names = [*(f"--exclude=./{name}" for name in (".venv", "build", "data")), "."]
        pack = ["tar", "--create", "--owner=0", "--group=0", "--file=-", *names]
        unpack = f"mkdir -p {CHECKOUT} && tar --extract --directory={CHECKOUT} --file=-"
        with subprocess.Popen(pack, cwd=PROJECT, stdout=subprocess.PIPE) as packing:
            subprocess.run(self.command("sh", "-c", unpack), stdin=packing.stdout, check=True)
        assert packing.returncode == 0

    def stop(self) -> None:
        """End all that runs in there at once; the mounts go with it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            reaper.forget_group(self._process.pid)
        if self._cgroup is not None:
            wait_until(self._remove_cgroup, what="the end of all processes")
        shutil.rmtree(self._folder / "root", ignore_errors=True)

    def _remove_cgroup(self) -> bool:
        assert self._cgroup is not None
        for folder, _, _ in os.walk(self._cgroup, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        return not self._cgroup.exists()


@contextlib.contextmanager
def temporary_machine(base: Path, binds: dict[Path, str]) -> Iterator[Machine]:
    """One that does not boot."""
    with (
        tempfile.TemporaryDirectory(prefix="hmacfs-") as folder,
        Machine(base, Path(folder), binds=binds, boots=False) as machine,
    ):
        yield machine


def _require_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hmacfs-tests"


@contextlib.contextmanager
def _made_once(name: str) -> Iterator[Path | None]:
    """``None`` if the cache has that folder, else an empty folder to fill, which gets the name after success. Two
    processes don't make the same."""
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (cache / name).exists():
            yield None
            return
        for left in cache.glob(f".{name}*"):
            shutil.rmtree(left)
        folder = cache / f".{name}"
        folder.mkdir()
        yield folder
        folder.rename(cache / name)


def _build(command: Sequence[str], values: dict[str, str]) -> None:
    done = subprocess.run(command, capture_output=True, env={**os.environ, **values, "PATH": _PATH}, check=False)
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode(errors="replace")[-3000:]
        require(None, f"a Debian {values['suite']} (debootstrap failed: {said})")


def _mirror() -> str:
    """Where this machine has its own Debian packages from."""
    if shutil.which("apt-get"):
        listed = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(ORIGIN) $(SITE)", "Created-By: Packages"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        for site in re.findall(r"^Debian (https?://\S+/debian/?)$", listed, re.MULTILINE):
            return str(site)
    return "http://deb.debian.org/debian"


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
