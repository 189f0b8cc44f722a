"""Other programs that store the same bytes in the same engine: rclone, and boto3."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.contenders import ROOT, program
from bench.measure import MIB
from bench.metrics import Sample
from bench.object_store import BUCKET, Engine
from bench.outcome import LoadFailed
from bench.processes import peak_bytes

_LIMIT_SECONDS = 300
_LOOK_SECONDS = 0.02
_numbers = itertools.count(1)


def rclone_copy(engine: Engine, source: Path) -> Sample:
    """``rclone copyto`` with its defaults: up to 200 MiB one PUT, above that four parts of 5 MiB at once.

    The time is its own, which leaves its start out; what it has used of the processor includes that. Raises
    ``LoadFailed``, ``Unavailable``.
    """
    key, size = f"rclone/{next(_numbers)}", source.stat().st_size
    command = [program("rclone"), "copyto", str(source), f":s3:{BUCKET}/{key}", "--config", os.devnull]
    command += ["--s3-provider", "SeaweedFS", "--s3-endpoint", engine.server.endpoint, "--s3-env-auth"]
    command += ["--s3-force-path-style", "--use-json-log", "--log-level", "INFO", "--stats", "1h"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=log, env={**os.environ, **engine.environment}
        )
        status, cpu, peak = _watch(process.pid)
        process.returncode = status
        log.seek(0)
        said = log.read().decode()
    seconds = elapsed(said)
    if status != 0 or not seconds:
        raise LoadFailed(f"rclone ended with {status}: {said[-300:]}")
    _verify(engine, key, source)
    return {"gb_per_s": size / 1e9 / seconds, "cpu_per_gb": cpu / (size / 1e9), "peak_mib": peak / MIB}


def _watch(pid: int) -> tuple[int, float, int]:
    """A child to its end: its exit status, the seconds of processors that it used, and the most memory."""
    until, peak = time.monotonic() + _LIMIT_SECONDS, 0
    while True:
        peak = max(peak, peak_bytes(pid))
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, peak
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
        time.sleep(_LOOK_SECONDS)


def elapsed(log: str) -> float:
    """The seconds that rclone says it took, in the last line of its log that tells them; 0 if none does."""
    seconds = 0.0
    for line in log.splitlines():
        with contextlib.suppress(ValueError):
            seconds = json.loads(line).get("stats", {}).get("elapsedTime", seconds)
    return seconds


def boto_large(engine: Engine, source: Path) -> Sample:
    """One client, parts of 8 MiB. Raises ``LoadFailed``."""
    key, size = f"boto3/{next(_numbers)}", source.stat().st_size
    (done,) = _run(engine, 1, "large", str(source), key)
    _verify(engine, key, source)
    return {
        "gb_per_s": size / 1e9 / done["seconds"],
        "cpu_per_gb": done["cpu"] / (size / 1e9),
        "peak_mib": done["peak"] / MIB,
    }


def boto_small(engine: Engine, body: Path, connections: int, seconds: int) -> Sample:
    """As many connections, of one process for each processor, since Python's threads share one. Raises
    ``LoadFailed``."""
    processes = min(connections, os.cpu_count() or 1)
    prefix = f"boto3/{next(_numbers)}"
    results = _run(engine, processes, "small", str(body), prefix, str(connections // processes), str(seconds))
    answered = sum(done["answered"] for done in results)
    stored = [key for key, size in engine.sizes().items() if key.startswith(prefix) and size == body.stat().st_size]
    engine.remove(stored)
    if len(stored) != answered:
        raise LoadFailed(f"{answered} uploads were answered with success, {len(stored)} are stored")
    return {
        "per_s": sum(done["answered"] / done["seconds"] for done in results),
        "cpu_ms": sum(done["cpu"] for done in results) * 1e3 / answered,
        "peak_mib": sum(done["peak"] for done in results) / MIB,
    }


def _verify(engine: Engine, key: str, source: Path) -> None:
    is_right = engine.equals(key, source)
    engine.remove([key])
    engine.vacuum()
    if not is_right:
        raise LoadFailed(f"{key} is not what was sent")


def _run(engine: Engine, count: int, *arguments: str) -> list[dict[str, float]]:
    """Several of the program at once, each with a prefix of its own; they begin together, when all are ready."""
    environment = {**os.environ, **engine.environment, "PYTHONPATH": str(ROOT)}
    what, source, key, *more = arguments
    running = []
    for number in range(count):
        mine = key if count == 1 else f"{key}/{number}"
        command = [sys.executable, "-m", "bench.boto", engine.server.endpoint, BUCKET, what, source, mine, *more]
        running.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        )
    try:
        for process in running:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise LoadFailed("boto3's client does not start")
        for process in running:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        outputs = [process.communicate(timeout=_LIMIT_SECONDS)[0] for process in running]
    except subprocess.TimeoutExpired as error:
        raise LoadFailed("boto3's client does not end") from error
    finally:
        for process in running:
            process.kill()
            process.wait()
    try:
        return [json.loads(output) for output in outputs]
    except ValueError as error:
        raise LoadFailed("boto3's client failed") from error
