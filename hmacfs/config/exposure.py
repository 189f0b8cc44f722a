"""Files of this server that others could read: over HTTP, where they lie in the part of the store that is served, or
with an account on this machine."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from hmacfs.config.messages import one_line
from hmacfs.config.settings import Settings
from hmacfs.errors import ConfigError
from hmacfs.protocol.names import is_reserved

_Environment = Mapping[str, str]

#: Where containers get their secrets, often with mode 0444, which is harmless: they have no other users.
_OF_CONTAINERS = Path("/run/secrets")


def check_private_paths(settings: Settings, config: Path | None, environ: _Environment) -> None:
    """Raises ``ConfigError`` if a private file of this server lies where everybody may download it, or ``StateDir`` in
    a folder whose contents get removed.

    config: the configuration file, if there is one.
    """
    _check_state_dir(settings)
    if settings.store_dir is None or settings.reserved_folder is None:
        return
    store, reserved, origins = settings.store_dir.absolute(), settings.reserved_folder.absolute(), settings.origins
    if os.path.islink(reserved):  # false where this process may not look: that is told later, with the remedy
        raise ConfigError(
            f"{origins['StoreDir']}: {one_line(reserved)} is a link: what it leads to has another name, which could be"
            " downloaded; remove it"
        )
    if any(is_reserved(part) for part in Path(os.path.realpath(store)).parts):
        raise ConfigError(f"{origins['StoreDir']}: {one_line(store)} is inside of what a server keeps for itself")
    private = [(origins["StateDir"], settings.state_dir), (origins["RuntimeDir"], settings.runtime_dir)]
    if settings.log_file is not None:
        private.append((origins["LogFile"], settings.log_file))
    private += _secrets(settings, config, environ)
    if config is not None:
        private.append((one_line(config), config))
    for origin, path in private:
        if _is_served(path, store):
            raise ConfigError(
                f"{origin}: {one_line(path)} is inside of StoreDir ({one_line(store)}), where everybody may download"
                " it: move it or choose another StoreDir"
            )


def _check_state_dir(settings: Settings) -> None:
    if not settings.has_own_state_dir:
        return
    real = Path(os.path.realpath(settings.state_dir))
    folders = [("RuntimeDir", settings.runtime_dir, "which a reboot may empty: give it a folder of its own")]
    if settings.reserved_folder is not None:
        why = "where the store removes what it does not know: leave StateDir out"
        folders.append(("StoreDir", settings.reserved_folder, why))
    for key, folder, sentence in folders:
        if Path(os.path.realpath(folder)) in (real, *real.parents):
            raise ConfigError(
                f"{settings.origins['StateDir']}: {one_line(settings.state_dir)} is inside of {one_line(folder)}"
                f" ({key}), {sentence}"
            )


def exposed_to_others(settings: Settings, config: Path | None, environ: _Environment) -> Iterator[str]:
    """What every user of this machine may read or change, a sentence each."""
    for folder in dict.fromkeys((settings.store_dir or settings.s3_spool_dir, settings.state_dir)):
        if _others_may(folder, stat.S_IROTH | stat.S_IXOTH):
            verb = "changed" if _others_may(folder, stat.S_IWOTH) else "read"
            yield f"{one_line(folder)} can be {verb} by every user of this machine: chmod o-rwx {one_line(folder)}"
    for origin, path in dict(_secrets(settings, config, environ)).items():
        if "KUBERNETES_SERVICE_HOST" in environ or _OF_CONTAINERS in path.parents:
            continue
        if _others_may(path, stat.S_IROTH):
            yield (
                f"{origin}: {one_line(path)} can be read by every user of this machine, with the secret in it:"
                f" chmod o-rwx {one_line(path)}"
            )


def _secrets(settings: Settings, config: Path | None, environ: _Environment) -> list[tuple[str, Path]]:
    """The files that hold secrets, each with the origin of its setting."""
    found: list[tuple[str, Path]] = []
    for setting, _ in settings.secrets():
        origin = settings.origins[setting.key]
        if origin in environ:
            found += [(origin, Path(environ[origin]))] if origin.endswith("_FILE") else []
        elif config is not None:
            found.append((origin, config))
    return found


def _is_served(path: Path, store: Path) -> bool:
    """Whether ``path`` is the store or lies inside it, through any symbolic links, and not in a reserved folder."""
    real = Path(os.path.realpath(path))
    for folder in (real, *real.parents):
        if _is_same(folder, store):
            return not any(is_reserved(part) for part in real.relative_to(folder).parts)
    return False


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # not made yet
        return one == Path(os.path.realpath(other))


def _others_may(path: Path, rights: int) -> bool:
    """Whether users who are neither the owner nor in the group have one of these rights, and may search all folders of
    its path."""
    real = Path(os.path.realpath(path))
    try:
        return bool(real.stat().st_mode & rights) and all(
            parent.stat().st_mode & stat.S_IXOTH for parent in real.parents
        )
    except OSError:
        return False
