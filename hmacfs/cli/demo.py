"""A first configuration, and lines to try a running server with."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
import time
from pathlib import Path

from hmacfs.cli.sign import base_url
from hmacfs.config import Settings
from hmacfs.protocol.keyring import Keyring, sign_v3
from hmacfs.protocol.names import StoredName
from hmacfs.system.ownership import explain, open_file

LINES_ARE_GOOD_FOR_SECONDS = 24 * 3600


def write_config(path: Path) -> int:
    """Write a configuration with a new random secret for a server that keeps its files under ``./data``. An existing
    file is never touched. Returns the exit status."""
    import toml  # the other commands, which load this module, write none

    values = {
        "ListenPort": "127.0.0.1:8080",
        "Secret": secrets.token_urlsafe(32),
        "StoreDir": "./data",
        "MetricsPort": "127.0.0.1:9091",  # 9090 is Prometheus's own
    }
    try:
        fd = open_file(path, os.O_WRONLY | os.O_EXCL)
    except FileExistsError:
        print(f"hmac-file-server: {path} is there already, and stays as it is: name another file", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"hmac-file-server: {explain(path, error)}", file=sys.stderr)
        return 2
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write("# Made by hmac-file-server -init. README.md lists all settings.\n")
        toml.dump(values, file)
    print(f"wrote {path} with a new secret")
    return 0


def curl_lines(settings: Settings, config: Path | None = None) -> str:
    """Two lines for a shell: one uploads a small text and prints "stored", the other fetches it. With the ``config`` of
    a server on a folder also one that makes further URLs."""
    name = StoredName.from_text(f"try-{secrets.token_hex(8)}/hello.txt")
    path = name.url_path(settings.url_prefix)
    expires = int(time.time()) + LINES_ARE_GOOD_FOR_SECONDS
    keyring = Keyring([settings.secret.reveal()])
    signature = sign_v3(keyring, "PUT", expires, settings.url_prefix + name.path)
    url = base_url(settings) + path
    upload = shlex.quote(f"{url}?v3={signature}&expires={expires}")
    lines = [
        "Try it in another terminal:",
        "",
        f"    echo 'It works.' | curl -sS --fail-with-body -T - {upload} && echo stored",
        f"    curl {shlex.quote(url)}",
    ]
    if config is not None:
        sign = f"hmacfs sign -config {shlex.quote(str(config))} put NAME --file FILE"
        lines += ["", "The secret is in that folder too, so this makes further URLs:", "", f"    {sign}"]
    return "\n" + "\n".join(lines) + "\n"
