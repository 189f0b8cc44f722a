"""``hmacfs sign``: make signed URLs for scripts."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from hmacfs.config import Settings, UnixAddress, find_config, load
from hmacfs.config.parsers import parse_duration
from hmacfs.errors import BadName
from hmacfs.protocol.keyring import Keyring, sign_v, sign_v2, sign_v3
from hmacfs.protocol.names import StoredName

#: In seconds since 1970; the server accepts 12 digits.
LATEST = 10**12


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("sign", help="print a signed URL")
    parser.add_argument("method", choices=("put", "get"), type=str.lower, help="what the URL is for")
    parser.add_argument("path", metavar="PATH", help="the file's name below the upload prefix, such as photos/cat.jpg")
    parser.add_argument("--size", type=int, metavar="N", help="bytes of the file: the URL is good for that size only")
    parser.add_argument("--file", type=Path, metavar="FILE", help="take the size from this file")
    parser.add_argument("--type", metavar="T", help="the Content-Type that the upload will be sent with")
    parser.add_argument("--expires", metavar="TIME", help="for how long the URL is good, such as 1h or 7d")
    parser.add_argument("-config", "--config", type=Path, metavar="FILE", dest="sign_config", help="the TOML file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the URL. The exit status: 0, or 2 for a mistake."""
    settings = load(find_config(arguments.sign_config or arguments.config, os.environ), os.environ)
    try:
        name = StoredName.from_text(arguments.path.lstrip("/"))
        query = _query(arguments, settings, name)
    except (BadName, ValueError) as error:
        print(f"hmacfs sign: {error}", file=sys.stderr)
        return 2
    print(f"{base_url(settings)}{name.url_path(settings.url_prefix)}?{query}")
    return 0


def _query(arguments: argparse.Namespace, settings: Settings, name: StoredName) -> str:
    keyring = Keyring([settings.secret.reveal()])
    size = _size(arguments)
    if arguments.expires is not None:
        if size is not None or arguments.type is not None:
            raise ValueError("--expires makes a URL for any size and type: leave --size, --file and --type out")
        try:
            expires = int(time.time() + parse_duration(arguments.expires))
        except ValueError as error:
            raise ValueError(f"--expires {arguments.expires!r} is not allowed; allowed is {error}") from None
        if expires >= LATEST:
            raise ValueError(f"--expires {arguments.expires!r} is later than a signature can say")
        signature = sign_v3(keyring, arguments.method.upper(), expires, settings.url_prefix + name.path)
        return f"v3={signature}&expires={expires}"
    if arguments.method == "get":
        raise ValueError("a download URL needs --expires, such as --expires 1h")
    if size is None:
        raise ValueError("an upload URL needs --size, --file or --expires")
    if arguments.type is not None:
        return f"v2={sign_v2(keyring, name.path, size, arguments.type)}"
    return f"v={sign_v(keyring, name.path, size)}"


def _size(arguments: argparse.Namespace) -> int | None:
    if arguments.file is not None:
        if arguments.size is not None:
            raise ValueError("give --size or --file, not both")
        try:
            return int(arguments.file.stat().st_size)
        except OSError as error:
            raise ValueError(f"{arguments.file}: {error.strerror}") from None
    size: int | None = arguments.size
    if size is not None and size < 0:
        raise ValueError("--size is a number of bytes")
    return size


def base_url(settings: Settings) -> str:
    """The URL up to the path: ``PublicURL``, or the address that the server listens at."""
    if settings.public_url:
        return settings.public_url
    if isinstance(settings.listen, UnixAddress):
        return "http://localhost"
    host = settings.listen.host or "127.0.0.1"
    return f"http://[{host}]:{settings.listen.port}" if ":" in host else f"http://{host}:{settings.listen.port}"
