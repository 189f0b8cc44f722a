"""wrk, run with ``load.lua``."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

from bench.contenders import program
from bench.outcome import LoadFailed, Outcome

_SCRIPT = Path(__file__).with_name("load.lua")
_MARK = "\nRESULT "


class WrkResult(NamedTuple):
    """What ``load.lua`` prints. p50 and p99 are latencies in microseconds."""

    requests: int
    bytes: int
    microseconds: int
    refused: int
    broken: int
    p50: int
    p99: int

    @classmethod
    def parse(cls, output: str) -> WrkResult:
        """Raises ``LoadFailed`` if there is no result or a request failed."""
        _, mark, text = output.rpartition(_MARK)
        if not mark:
            raise LoadFailed(f"wrk brought no result: {output.strip()[-200:]}")
        result = cls(**json.loads(text.splitlines()[0]))
        if result.refused or result.broken or not result.requests:
            raise LoadFailed(f"{result.requests} answers, {result.refused} refused, {result.broken} broken connections")
        return result

    def outcome(self, size: int) -> Outcome:
        """For bodies of ``size`` bytes."""
        return Outcome(self.microseconds / 1e6, self.requests, self.requests * size, self.p50 / 1e6, self.p99 / 1e6)


def wrk(url: str, seconds: int, *, connections: int, **env: str) -> WrkResult:
    """Run it for whole ``seconds``. Raises ``LoadFailed`` and ``Unavailable``."""
    command = [program("wrk"), f"--threads={threads(connections)}", f"--connections={connections}"]
    command += [f"--duration={seconds}s", "--timeout=10s", f"--script={_SCRIPT}", url]
    ended = subprocess.run(
        command,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds + 60,
        check=False,
    )
    return WrkResult.parse(ended.stdout)


def threads(connections: int) -> int:
    """Threads of wrk, which needs a connection for each."""
    return min(2, connections)
