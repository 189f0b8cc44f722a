"""curl, one or several at once."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from typing import NamedTuple

from bench.contenders import program
from bench.outcome import LoadFailed

_WRITE_OUT = "%{http_code} %{size_upload} %{size_download} %{time_total}\n"
_LIMIT_SECONDS = 300


class Transfer(NamedTuple):
    """sent and received: bytes of bodies."""

    status: int
    sent: int
    received: int
    seconds: float


def parse(output: str) -> list[Transfer]:
    """From what curls print."""
    transfers = []
    for line in output.splitlines():
        status, sent, received, seconds = line.split()
        transfers.append(Transfer(int(status), int(sent), int(received), float(seconds)))
    return transfers


def curl(*commands: Sequence[str]) -> tuple[list[Transfer], float]:
    """Run curls with these arguments at once: all their transfers, and the seconds from the first start to the last
    end. Raises ``LoadFailed`` and ``Unavailable``."""
    curl = [program("curl"), "--silent", "--show-error", "--write-out", _WRITE_OUT]
    before = time.monotonic()
    running = [
        subprocess.Popen([*curl, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    try:
        outputs = [process.communicate(timeout=_LIMIT_SECONDS) for process in running]
    except subprocess.TimeoutExpired as error:
        raise LoadFailed(f"curl did not end within {_LIMIT_SECONDS} s") from error
    finally:
        for process in running:
            process.kill()
            process.wait()
    wall = time.monotonic() - before
    complaints = "".join(errors for _, errors in outputs).splitlines()
    if complaints:
        raise LoadFailed(complaints[0])
    return parse("".join(output for output, _ in outputs)), wall
