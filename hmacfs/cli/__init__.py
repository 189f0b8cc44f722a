"""The command line: ``hmac-file-server``, also installed as ``hmacfs``."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

import hmacfs
from hmacfs.cli import check, copy_store, demo, folder, reload, sign, sweep
from hmacfs.config import Settings, find_config
from hmacfs.errors import ConfigError

_COMMANDS = {"sign": sign, "sweep": sweep, "copy-store": copy_store, "reload": reload}
_EPILOG = """\
examples:
  hmac-file-server ./data --port 9000           serve a folder, to try it out
  hmac-file-server -init config.toml            write a first configuration
  hmac-file-server -config config.toml -check   say what is wrong with it
  hmac-file-server -config config.toml          start the server
  hmacfs sign put cat.jpg --file cat.jpg        make a signed URL
  hmacfs sweep                                  remove expired uploads now
  hmacfs copy-store --from-folder DIR           copy a folder's files into the configured store

environment:
  HMACFS_CONFIG                                 the configuration file, if -config names none; else ./config.toml
  HMACFS_SECRET, HMACFS_STORE_DIR, ...          each setting, above the file; HMACFS_SECRET_FILE: a file with the secret

Documentation: README.md, in the project's folder or in share/hmac-file-server where it is installed.
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status: 0, or 2 for a mistake that one line on standard error explains."""
    arguments = _parse(argv)
    try:
        if arguments.command is not None:
            status: int = arguments.run(arguments)
            return status
        _refuse_contradictions(arguments)
        if arguments.init is not None:
            return demo.write_config(arguments.init)
        if arguments.folder is not None:
            config = folder.prepare(arguments.folder, arguments.port)
            return _serve(config, lines=lambda settings: demo.curl_lines(settings, config))
        found = find_config(arguments.config, os.environ)
        if arguments.check:
            return check.run(found, online=arguments.online)
        return _serve(found, lines=demo.curl_lines if arguments.curl else None)
    except ConfigError as error:
        print(f"hmac-file-server: {error}", file=sys.stderr)
        return 2


def _refuse_contradictions(arguments: argparse.Namespace) -> None:
    """Raises ``ConfigError`` for combinations in which an option would be ignored."""
    if arguments.folder is not None:
        for option, value in (("-config", arguments.config), ("-init", arguments.init), ("-check", arguments.check)):
            if value:
                raise ConfigError(f"give a folder or {option}, not both")
    elif arguments.port is not None:
        raise ConfigError("--port goes with a folder; a configuration has ListenPort")
    if arguments.online and not arguments.check:
        raise ConfigError("-online goes with -check")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    """argparse has either subcommands or a free argument: the first word that is no option decides which."""
    first, _ = _serving(add_help=False).parse_known_args(argv)
    if first.folder is not None and first.folder not in _COMMANDS:
        return _serving(add_help=True).parse_args(argv)
    parser = _parser(add_help=True)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", prog=parser.prog)
    for command in _COMMANDS.values():
        command.add_parser(commands)
    parser.set_defaults(folder=None)
    return parser.parse_args(argv)


def _serving(*, add_help: bool) -> argparse.ArgumentParser:
    parser = _parser(add_help=add_help)
    parser.add_argument("folder", nargs="?", help="a folder to serve; made if it is missing")
    parser.set_defaults(command=None)
    return parser


def _parser(*, add_help: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hmac-file-server",
        usage="%(prog)s [-config FILE] [-check [-online]] [-curl]\n       %(prog)s FOLDER [--port PORT]\n"
        "       %(prog)s -init FILE\n       %(prog)s COMMAND ...",
        description=hmacfs.__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=add_help,
    )
    # With one dash as in the original, with two as in most programs.
    parser.add_argument("-config", "--config", type=Path, metavar="FILE", help="the TOML configuration file")
    parser.add_argument(
        "-check", "--check", action="store_true", help="check the configuration, change nothing, and end"
    )
    parser.add_argument(
        "-online", "--online", action="store_true", help="with -check: also connect to Redis, database and object store"
    )
    parser.add_argument("-init", "--init", type=Path, metavar="FILE", help="write a new configuration file and end")
    parser.add_argument("-curl", "--curl", action="store_true", help="print curl lines to try the server with")
    parser.add_argument("-port", "--port", metavar="PORT", help="with a folder: listen at this port of 127.0.0.1")
    parser.add_argument("-version", "--version", action="version", version=f"hmac-file-server {hmacfs.__version__}")
    return parser


def _serve(config: Path | None, *, lines: Callable[[Settings], str] | None) -> int:
    """lines: what to print once the server listens."""
    gc.disable()  # until ``preload`` is done
    from hmacfs.server.application import GunicornApplication  # gunicorn is not needed to sign
    from hmacfs.server.configuration import configuration
    from hmacfs.server.hooks import hooks

    configuration.use(config)
    settings = configuration.settings
    if lines is not None:
        hooks.at_ready(lambda: print(lines(settings), flush=True))
    GunicornApplication().run()
    return 0
