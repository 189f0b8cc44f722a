"""Closing files without gevent's bookkeeping, and giving them their blocks.

gevent's patched ``os.close`` looks for watchers of the descriptor, at the cost of four system calls, and makes an event
loop for a native thread that calls it. The descriptors of files never have watchers.
"""

import errno
import os
from posix import close

__all__ = ["allocate", "close"]


def allocate(fd: int, size: int) -> None:
    """Give a file of ``size`` bytes or less its blocks, all of them and now: a full disk kills a process that is the
    first to write to one through mapped memory. Raises ``OSError``."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        used = os.fstat(fd).st_size
        os.pwrite(fd, bytes(size - used), used)
