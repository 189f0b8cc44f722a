"""Whether this process can use the files and folders that the settings name. The checks change nothing; only a start
makes folders that are missing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from hmacfs.config.messages import one_line
from hmacfs.config.settings import Settings
from hmacfs.config.values import UnixAddress
from hmacfs.errors import ConfigError
from hmacfs.system.anonymous_files import NO_ANONYMOUS_FILES_ERRNOS, open_anonymous
from hmacfs.system.ownership import STORE_FOLDER_MODE, explain, make_folder, may, new_file_remedy, reason, unreadable

#: Of folders that are for this server alone.
_PRIVATE_MODE = 0o700
#: File systems of the kernel's own. Permissions allow root to write there, the kernel does not.
_OF_THE_KERNEL = frozenset(
    {"binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs", "fusectl", "mqueue"}
    | {"proc", "pstore", "securityfs", "sysfs", "tracefs"}
)
#: A full store is no mistake in the configuration: it can still be read.
_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})


def check_paths(settings: Settings, *, listens: bool = True) -> None:
    """Raises ``ConfigError`` if this process could not use, or make, the store, the state, the runtime and the spool
    folder, the log file, or its listening socket, or not read the certificates of an object store. listens: whether it
    opens the socket itself. Nothing is made, not even for a moment."""
    origins, reserved = settings.origins, settings.reserved_folder
    if settings.store_dir is not None:
        _check_folder(origins["StoreDir"], settings.store_dir)
    folders = [("StoreDir", reserved)] if reserved is not None and reserved.exists() else []
    if settings.has_own_state_dir:
        folders.append(("StateDir", settings.state_dir))
    for key, folder in (*folders, ("RuntimeDir", settings.runtime_dir)):
        _check_folder(origins[key], folder)
        _check_entries(origins[key], folder, has_sessions=not settings.has_own_state_dir or key == "StateDir")
    if settings.store_dir is None:
        _check_folder(origins["S3SpoolDir"], settings.s3_spool_dir)
        _check_certificates(origins["S3CAFile"], settings.s3_ca_file)
    if settings.log_file is not None:
        _check_log(origins["LogFile"], settings.log_file)
    if listens and isinstance(settings.listen, UnixAddress):
        _check_socket(origins["ListenPort"], settings.listen.path)


def make_folders(settings: Settings) -> None:
    """Make the folders of the settings, and their parents, if they are missing. Raises ``ConfigError``."""
    folders = [("StateDir", settings.state_dir, _PRIVATE_MODE), ("RuntimeDir", settings.runtime_dir, _PRIVATE_MODE)]
    if settings.store_dir is not None:
        folders.insert(0, ("StoreDir", settings.store_dir, STORE_FOLDER_MODE))
    else:
        folders.append(("S3SpoolDir", settings.s3_spool_dir, _PRIVATE_MODE))
    for key, folder, mode in folders:
        try:
            make_folder(folder, mode)
        except OSError as error:
            raise _unusable(settings.origins[key], folder, error) from None


def inaccessible_files(settings: Settings) -> Iterator[str]:
    """A sentence about each file of this server that this process may not use and can do without."""
    folders = {settings.state_dir} | ({settings.reserved_folder} if settings.reserved_folder is not None else set())
    for path in (path for folder in sorted(folders) for path in _entries(folder)):
        has_sessions = path.parent == settings.state_dir
        is_closed = path.exists() and not may(path, os.R_OK | os.W_OK)  # SQLite's may go while this looks at them
        if is_closed and not _is_needed(path, has_sessions=has_sessions):
            yield one_line(explain(path, _os_error(errno.EACCES)))


def _check_folder(origin: str, folder: Path) -> None:
    folder = folder.absolute()
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        _try_folder(there)
    except OSError as error:
        raise _unusable(origin, folder, error) from None


def _check_entries(origin: str, folder: Path, *, has_sessions: bool) -> None:
    for path in _entries(folder):
        rights = os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)
        if _is_needed(path, has_sessions=has_sessions) and not may(path, rights):
            raise _unusable(origin, path, _os_error(errno.EACCES))


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_needed(path: Path, *, has_sessions: bool) -> bool:
    """Whether a worker cannot start without this entry of a folder of ours, with the sessions' database in it or not.
    The lock of the sweeps is not needed, nor is what somebody else has put there."""
    names = {"rates", "reserved", "running"} | ({"sessions"} if has_sessions else set())
    return path.is_dir() or path.name.partition(".")[0] in names


def _check_certificates(origin: str, path: Path | None) -> None:
    try:
        if path is not None:
            path.read_bytes()
    except OSError as error:
        why = one_line(unreadable(path or Path(), error))
        raise ConfigError(f"{origin}: {one_line(path)} cannot be read: {why}") from None


def _check_log(origin: str, path: Path) -> None:
    try:
        if not os.path.lexists(path):
            _try_folder(path.absolute().parent)
        elif path.is_dir() or not path.exists():
            os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))  # says what is wrong
        elif not may(path, os.W_OK):
            raise _os_error(errno.EACCES)
    except OSError as error:
        why = one_line(reason(path, error) if os.path.lexists(path) else new_file_remedy(path, error))
        raise ConfigError(f"{origin}: {one_line(path)} cannot be written: {why}") from None


def _check_socket(origin: str, path: Path) -> None:
    """Raises ``ConfigError`` if its folder cannot be written, or if the path names anything but an older socket."""
    folder = path.absolute().parent
    try:
        _try_folder(folder)
    except OSError as error:
        why = one_line(new_file_remedy(path, error))
        raise ConfigError(f"{origin}: the folder of {one_line(path)} cannot be written: {why}") from None
    if path.exists() and not path.is_socket():
        raise ConfigError(f"{origin}: {one_line(path)} is there already, and is no socket")


def _try_folder(folder: Path) -> None:
    """Raises ``OSError`` if this process can make no file in that folder. The most reliable way to find out is to make
    one without a name, which nobody can see; where the file system has none, permissions and mount options decide."""
    try:
        os.close(open_anonymous(folder))
    except OSError as error:
        if error.errno in _FULL_ERRNOS:
            return
        if error.errno not in NO_ANONYMOUS_FILES_ERRNOS or not folder.is_dir():
            raise
    else:
        return
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise _os_error(errno.EROFS)
    if not may(folder, os.W_OK | os.X_OK):
        raise _os_error(errno.EACCES)
    if _is_of_the_kernel(folder):
        raise OSError(errno.EPERM, "no files can be made in a file system of the kernel's own")


def _os_error(number: int) -> OSError:
    """As the operating system would raise it."""
    return OSError(number, os.strerror(number))


def _is_of_the_kernel(folder: Path) -> bool:
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    for mount in mounts:  # proc(5): id, parent, device, root, mount point, options, more - type, source, options
        before, _, after = mount.partition(" - ")
        if before.split()[2] == number and after.split()[0] in _OF_THE_KERNEL:
            return True
    return False


def _unusable(origin: str, path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{origin}: {one_line(path)} cannot be written: {one_line(reason(path, error))}")
