"""``hmacfs reload``: have a running server read its configuration again, and wait for the outcome.

For a service manager (``ExecReload``): a check before the signal would have neither the service's secrets nor its
rights.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

from hmacfs.errors import ConfigError

#: New workers are up long before this. systemd's own limit is 90 s.
DEADLINE_SECONDS = 60.0
_POLL_SECONDS = 0.02


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("reload", help="let the running service take its changed configuration (ExecReload)")
    parser.add_argument("pid", type=int, help="the process id of the server's master")
    parser.set_defaults(run=reload)


def reload(arguments: argparse.Namespace) -> int:
    """Send SIGHUP and wait for the outcome. The exit status: 1 if the server keeps its old configuration; then one line
    on standard error says why. Raises ``ConfigError`` if there is no such server."""
    from hmacfs.server.service_manager import last_outcome, runtime_folder

    folder, pid = runtime_folder(), arguments.pid
    if folder is None:
        raise ConfigError(
            "reload: RUNTIME_DIRECTORY is not set: this is for the ExecReload of a service with a RuntimeDirectory; "
            "elsewhere send SIGHUP to the server, whose log says how it went"
        )
    before = last_outcome(folder)
    deadline = time.monotonic() + DEADLINE_SECONDS
    _signal(pid, signal.SIGHUP)
    while (outcome := last_outcome(folder)) == before or outcome is None or outcome.pid != pid:
        _signal(pid, 0)
        if time.monotonic() > deadline:
            print(f"hmac-file-server: no new worker within {DEADLINE_SECONDS:.0f} s; see the log", file=sys.stderr)
            return 1
        time.sleep(_POLL_SECONDS)
    if outcome.problem:
        print(f"hmac-file-server: {outcome.problem}; keeping the running configuration", file=sys.stderr)
        return 1
    return 0


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "no such process"
        raise ConfigError(f"reload: the server (pid {pid}) cannot be reached: {reason}") from None
