"""Opening files below a folder so that no name and no symbolic link leads outside it. Links are never followed."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
from typing import Any

from hmacfs.system.descriptors import close

# openat2(2): the same number on every architecture.
_SYS_OPENAT2 = 437
_RESOLVE_NO_XDEV = 0x01
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
#: A rename elsewhere in the tree can make the kernel unsure about "..": it says EAGAIN, and to try again.
_ATTEMPTS = 8

#: Opens a folder only to name things in it; needs no read permission (Linux).
FOLDER_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _syscall() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), "syscall", None)
    if function is not None:
        function.restype = ctypes.c_long
        function.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
    return function


_call = _syscall()
_HOW_SIZE = ctypes.sizeof(_OpenHow)


@functools.lru_cache(maxsize=32)
def _how(flags: int, resolve: int) -> tuple[_OpenHow, int]:
    """The structure and its address. There are only a few; making one takes longer than the system call."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    return how, ctypes.addressof(how)


_WITHOUT_LINKS = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS
_ON_ONE_MOUNT = _WITHOUT_LINKS | _RESOLVE_NO_XDEV


def _openat2(folder: int, path: bytes, flags: int, resolve: int = _WITHOUT_LINKS) -> int:
    # The structure is referred to until the call is over: of two threads that make one, the cache keeps the other's.
    _structure, address = _how(flags, resolve)
    for _ in range(_ATTEMPTS):
        fd = _call(_SYS_OPENAT2, folder, path, address, _HOW_SIZE)
        if fd >= 0:
            return int(fd)
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number))


def _walk(folder: int, path: bytes, flags: int) -> int:
    """Without openat2 (older kernels, macOS, some sandboxes): step by step, refusing every symbolic link."""
    *parents, last = path.split(b"/")
    here = os.dup(folder)
    try:
        for name in parents:
            below = os.open(name, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=here)
            close(here)
            here = below
        return os.open(last, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
    finally:
        close(here)


def _kernel_has_openat2() -> bool:
    if _call is None:
        return False
    try:
        root = os.open("/", FOLDER_FLAGS)
        try:
            close(_openat2(root, b".", FOLDER_FLAGS))
        finally:
            close(root)
    except OSError:  # ENOSYS before Linux 5.6; EPERM in some sandboxes
        return False
    return True


#: Whether links inside the store are followed safely; without it they are refused.
HAS_OPENAT2 = _kernel_has_openat2()

open_without_links = _openat2 if HAS_OPENAT2 else _walk
"""Open ``path`` below the folder descriptor ``folder``, with these flags and without making a file; the new descriptor.
The path is relative, with "/" between names, and bytes, since names are UTF-8 whatever the locale says.

Raises ``OSError``: ``ELOOP`` or ``ENOTDIR`` where a part is a symbolic link, else as ``open``. With ``O_PATH |
O_NOFOLLOW`` the last one may be a link, and is opened itself.
"""


open_on_one_mount = functools.partial(_openat2, resolve=_ON_ONE_MOUNT)
"""As ``open_without_links``; ``EXDEV`` if the path leads over a mount point. Needs ``HAS_OPENAT2``."""
