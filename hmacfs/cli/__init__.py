"""The command line: ``hmac-file-server``, also installed as ``hmacfs``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import hmacfs
from hmacfs.cli import check, demo, sign, sweep
from hmacfs.config import find_config
from hmacfs.errors import ConfigError


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status: 0, or 2 for a mistake that one line on standard error explains."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        if arguments.command is not None:
            status: int = arguments.run(arguments)
            return status
        if arguments.init is not None:
            return demo.write_config(arguments.init)
        config = find_config(arguments.config, os.environ)
        if arguments.check:
            return check.run(config, online=arguments.online)
        return _serve(config, with_curl_lines=arguments.curl)
    except ConfigError as error:
        print(f"hmac-file-server: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hmac-file-server", description=hmacfs.__doc__, allow_abbrev=False)
    # One dash as the original has it, two as most programs do.
    parser.add_argument("-config", "--config", type=Path, metavar="FILE", help="the TOML configuration file")
    parser.add_argument("-check", "--check", action="store_true", help="check the configuration and end")
    parser.add_argument(
        "-online", "--online", action="store_true", help="with -check: also connect to Redis and database"
    )
    parser.add_argument("-init", "--init", type=Path, metavar="FILE", help="write a new configuration file and end")
    parser.add_argument("-curl", "--curl", action="store_true", help="print curl lines to try the server with")
    parser.add_argument("-version", "--version", action="version", version=f"hmac-file-server {hmacfs.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    sign.add_parser(commands)
    sweep.add_parser(commands)
    return parser


def _serve(config: Path | None, *, with_curl_lines: bool) -> int:
    from hmacfs.server import start  # gunicorn is not needed to sign

    start.use_config(config)
    settings = start.current_settings()
    if with_curl_lines:
        start.on_ready(lambda: print(demo.curl_lines(settings), flush=True))
    start.Server().run()
    return 0
