"""``hmac-file-server ./data``: a server on a folder, for which the user writes no configuration.

The first start makes one with a new secret in the store's reserved folder, which no URL leads to. The next start has
the same secret, and ``hmacfs sign`` finds it there.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from hmacfs.config.parsers import tcp_address
from hmacfs.errors import ConfigError
from hmacfs.protocol.names import RESERVED_FOLDER
from hmacfs.system.ownership import STORE_FOLDER_MODE, explain, make_folder, open_file

_DEFAULT_PORT = "8080"
_LISTEN_LINE = re.compile(r"^ListenPort *=.*$", re.MULTILINE)


def prepare(name: str, port: str | None) -> Path:
    """The configuration file of a server on the folder ``name``; both are made if they are missing. Sets
    ``HMACFS_STORE_DIR``, since the folder may have been moved, and with ``port`` removes ``HMACFS_LISTEN_PORT``.

    port: a number, to listen at this machine's loopback address, or an address with a port; ``None`` for that of the
    last start. Raises ``ConfigError``.
    """
    folder = Path(name)
    if folder.is_file():
        raise ConfigError(f"{name}: is a file, and no folder; if it is the configuration, write -config {name}")
    if os.sep not in name and not folder.is_dir():
        raise ConfigError(f"{name}: no command of this name, and no folder; for a new folder write .{os.sep}{name}")
    listen = _listen(port) if port is not None else None
    config = folder / RESERVED_FOLDER / "config.toml"
    try:
        make_folder(folder, STORE_FOLDER_MODE)
        make_folder(config.parent)
        if not config.exists():
            _write(config, folder, listen or _listen(_DEFAULT_PORT))
        elif listen is not None:
            _change(config, listen)
    except OSError as error:
        raise ConfigError(explain(Path(error.filename or config), error)) from None
    os.environ["HMACFS_STORE_DIR"] = str(folder.absolute())  # above the one in the file
    if listen is not None:
        os.environ.pop("HMACFS_LISTEN_PORT", None)
    return config


def _listen(port: str) -> str:
    listen = f"127.0.0.1:{port}" if re.fullmatch("[0-9]+", port) else port
    try:
        tcp_address(listen)
    except ValueError:
        raise ConfigError(
            f"--port {port!r} is not allowed; allowed is a port from 1 to 65535, or an address with one: 0.0.0.0:9000"
        ) from None
    return listen


def _write(config: Path, folder: Path, listen: str) -> None:
    import toml  # the other commands, which load this module, write none

    values = {
        "ListenPort": listen,
        "Secret": secrets.token_urlsafe(32),
        "StoreDir": str(folder.absolute()),
        "MetricsEnabled": False,
    }
    with os.fdopen(open_file(config, os.O_WRONLY | os.O_EXCL), "w", encoding="utf-8") as file:
        file.write("# Made by the first start on this folder. Who has the secret may sign uploads.\n")
        toml.dump(values, file)


def _change(config: Path, listen: str) -> None:
    """Write the new port into the file, for ``hmacfs sign``."""
    text = config.read_text(encoding="utf-8")
    line = f'ListenPort = "{listen}"'
    changed = _LISTEN_LINE.sub(line, text, count=1) if _LISTEN_LINE.search(text) else f"{line}\n{text}"
    if changed != text:
        config.write_text(changed, encoding="utf-8")
