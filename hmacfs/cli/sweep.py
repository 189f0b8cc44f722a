"""``hmacfs sweep``: remove expired uploads now."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from hmacfs.cli.messages import explained
from hmacfs.config import find_config, load
from hmacfs.errors import ConfigError, NotAllowed, SessionStoreUnavailable, StorageFailed
from hmacfs.system.ownership import path_of, reason

_DESCRIPTION = "Remove expired uploads. The exit status is 1 if some of them, or all, could not be removed."


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("sweep", help="remove expired uploads", description=_DESCRIPTION)
    parser.add_argument("-config", "--config", type=Path, metavar="FILE", dest="sweep_config", help="the TOML file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Sweep once. The exit status: 0, or 1 if not all that has expired could be removed. Raises ``ConfigError``."""
    from hmacfs.app import open_sweeper  # needs the drivers, which no other command does

    settings = load(find_config(arguments.sweep_config or arguments.config, os.environ), os.environ)
    try:
        swept = open_sweeper(settings).run_once()
    except (NotAllowed, SessionStoreUnavailable, StorageFailed) as error:
        print(f"hmacfs sweep: {explained(error)}", file=sys.stderr)
        return 1
    except OSError as error:
        path = path_of(error, settings.store_dir or settings.s3_spool_dir)
        raise ConfigError(f"{path} cannot be used: {reason(path, error)}") from None
    if swept is None:
        print("another process is sweeping")
        return 0
    print(f"removed {swept.sessions} expired uploads and {swept.orphans} orphans")
    if swept.failed:
        print(f"hmacfs sweep: {swept.failed} cannot be removed, the first for this: {swept.failure}", file=sys.stderr)
    return int(swept.failed > 0)
