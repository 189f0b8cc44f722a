"""Ownership of the folders and files that this program makes for itself, and remedies where it may not use them.

A command that an operator runs as root works in the folders of the service's user. What it makes there belongs to the
owner of the folder that it is in, or the service could not use it. Only what this process has just made changes hands:
anything else may have been put there by an attacker who wants root to hand it over.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import shlex
import stat
from pathlib import Path

#: Of the store, its folders and its files: a proxy that reads them is in the server's group.
STORE_FOLDER_MODE, STORED_FILE_MODE = 0o750, 0o640

#: What ``ProtectHome=yes`` of a systemd service hides.
_HOMES = ("/home", "/root", "/run/user")


def make_folder(folder: Path, mode: int = 0o700) -> None:
    """Make a folder with the parents it lacks, all of that mode. Raises ``OSError``."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        try:
            os.mkdir(path, mode)
        except FileExistsError:  # another process was faster, or it is no folder
            continue
        _adopt(path)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def make_folder_in(parent: int, name: str | bytes, mode: int = 0o700) -> None:
    """Make a folder ``name`` in the folder ``parent`` (a descriptor), unless it is there. Raises ``OSError``."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=parent)
        _adopt(name, parent)


def act_as_owner_of(folder: Path) -> None:
    """A process of root's has the rights of the folder's owner from now on: for a command that makes files in it, which
    the owner has to be able to read. No change for any other process. Raises ``OSError``."""
    status = os.stat(folder)
    if os.geteuid() != 0 or status.st_uid == 0:
        return
    try:
        groups = os.getgrouplist(pwd.getpwuid(status.st_uid).pw_name, status.st_gid)
    except KeyError:
        groups = [status.st_gid]
    os.setgroups(groups)
    os.setegid(status.st_gid)
    os.seteuid(status.st_uid)


def open_file(path: Path, flags: int, mode: int = 0o600) -> int:
    """A descriptor of a file, which is made if it is missing. Raises ``OSError``.

    Root follows no symbolic link that another user may have laid: it would open or make whatever that user likes.
    """
    flags |= os.O_CREAT | os.O_CLOEXEC
    if os.geteuid() != 0:
        return os.open(path, flags, mode)
    folder = os.open(path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.fstat(folder)
        try:
            fd = os.open(path.name, flags | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=folder)
        except FileExistsError:
            return os.open(path.name, flags | (0 if _is_roots_alone(status) else os.O_NOFOLLOW), mode, dir_fd=folder)
        with contextlib.suppress(OSError):
            _give(fd, status)
        return fd
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(folder)


def _is_roots_alone(folder: os.stat_result) -> bool:
    """Whether nobody but root can have put things into it."""
    return folder.st_uid == 0 and not folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _adopt(path: Path | str | bytes, parent: int | None = None) -> None:
    """Give a folder that this process has just made to the owner of the one that it is in."""
    if os.geteuid() != 0:
        return
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if not os.listdir(fd):  # else another one was put in its place meanwhile
                _give(fd, os.stat("..", dir_fd=fd))
        finally:
            os.close(fd)


def _give(fd: int, folder: os.stat_result) -> None:
    if folder.st_uid != 0:
        os.fchown(fd, folder.st_uid, folder.st_gid)


def explain(path: Path, error: OSError) -> str:
    """``error`` about ``path`` in one line for the operator: where, what, and what helps if rights are missing."""
    return f"{path}: {reason(path, error)}"


def reason(path: Path, error: OSError) -> str:
    """The same without the path in front."""
    sentence = error.strerror or type(error).__name__
    if error.errno == errno.EROFS:
        return sentence + _sandbox_remedy(path.absolute())
    if error.errno == errno.ELOOP and os.geteuid() == 0 and path.is_symlink():
        return f"it is a link in a folder of {_owner(path.parent)}, whose links root does not follow; remove it"
    return sentence + _remedy(path.absolute()) if error.errno in (errno.EACCES, errno.EPERM) else sentence


def unreadable(path: Path, error: OSError) -> str:
    """Why this process may not read a file, which may well be meant for its owner alone. Without the path in front."""
    sentence, path = error.strerror or type(error).__name__, path.absolute()
    if error.errno not in (errno.EACCES, errno.EPERM):
        return sentence
    try:
        owner = path.stat().st_uid
    except OSError:
        return sentence + _remedy(path)
    if owner == os.geteuid():
        return sentence + _remedy(path)
    me = user_name(os.geteuid())
    return f"{sentence}; it belongs to {_owner(path)}: run this as that user or root, or let {me} read it"


def new_file_remedy(path: Path, error: OSError) -> str:
    """Why this process cannot make a file at ``path``, without the path in front. The folder may be everybody's, such
    as ``/var/log`` or ``/run``, and is not to be given away."""
    folder, me = path.absolute().parent, user_name(os.geteuid())
    if isinstance(error, FileNotFoundError):
        return f"{error.strerror}; make its folder: install -d -o {me} {shlex.quote(str(folder))}"
    is_closed = error.errno in (errno.EACCES, errno.EPERM) and folder.is_dir() and may(folder, os.X_OK)
    if not is_closed or folder.stat().st_uid == os.geteuid():
        return reason(folder, error)
    own = shlex.quote(str(folder / "hmac-file-server"))
    return f"{error.strerror}; as root: install -d -o {me} {own}, and name a file in there"


def _sandbox_remedy(path: Path) -> str:
    """A service of systemd (``ProtectSystem=strict``) may write where its unit says, and nowhere else."""
    if "INVOCATION_ID" not in os.environ:
        return ""
    if hidden := next((home for home in _HOMES if path.is_relative_to(home)), None):
        return f"; the service does not see {hidden} (ProtectHome=yes): choose another folder"
    make = "" if os.path.isdir(path) else f"install -d -o {user_name(os.geteuid())} {shlex.quote(str(path))} and "
    return f"; as root: {make}ReadWritePaths={path} below [Service] in: systemctl edit {_unit()}"


def _unit() -> str:
    """The service that this process belongs to."""
    with contextlib.suppress(OSError):
        for part in reversed(Path("/proc/self/cgroup").read_text(encoding="utf-8").strip().split("/")):
            if part.endswith(".service"):
                return part
    return "hmac-file-server.service"


def _remedy(path: Path) -> str:
    """What helps this process to use ``path``, as the end of a sentence; empty if it is not a matter of ownership."""
    me, quoted = user_name(os.geteuid()), shlex.quote(str(path))
    for parent in reversed(path.parents):
        if parent.is_dir() and not may(parent, os.X_OK):
            return f"; {me} may not enter {parent}, which belongs to {_owner(parent)}"
    if not os.path.lexists(path):
        return f"; as root: install -d -o {me} {quoted}"
    if not path.exists():
        return "; it is a link that leads nowhere: remove it"
    if may(path, os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)):
        return ""
    if path.stat().st_uid == os.geteuid():
        return f"; its mode is {stat.S_IMODE(path.stat().st_mode):o}: chmod u+rwX {quoted}"
    return f"; it belongs to {_owner(path)} and this process is {me}: as root: chown -R {me} {quoted}"


def path_of(error: OSError, folder: Path) -> Path:
    """What ``error`` is about, as far as it tells: something in ``folder``, or that itself."""
    name = error.filename
    if not isinstance(name, str | bytes | os.PathLike):
        return folder
    path = Path(os.fsdecode(name))
    return folder if path == folder else folder / path


def may(path: Path, access: int) -> bool:
    """Whether this process may do that (``os.R_OK``, ``os.W_OK``, ``os.X_OK``) with what is there."""
    return os.access(path, access, effective_ids=os.access in os.supports_effective_ids)


def user_name(uid: int) -> str:
    """The name of a user, its number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _owner(path: Path) -> str:
    return user_name(path.stat().st_uid)
