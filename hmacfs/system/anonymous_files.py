"""Files without a name (O_TMPFILE, see open(2)): nobody sees them, and nothing of them is left."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from hmacfs.system.descriptors import close
from hmacfs.system.ownership import STORED_FILE_MODE

#: What ``open_anonymous`` fails with where the file system has none; outside of Linux: EISDIR.
NO_ANONYMOUS_FILES_ERRNOS = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})


def open_anonymous(folder: Path) -> int:
    """The descriptor of a new one, to be read and written, on the file system of that folder. Raises ``OSError``."""
    anonymous = getattr(os, "O_TMPFILE", os.O_DIRECTORY)
    return os.open(folder, os.O_RDWR | anonymous | os.O_CLOEXEC, STORED_FILE_MODE)


def has_anonymous_files(folder: Path) -> bool:
    """Whether its file system has them, as far as this process may find out."""
    try:
        close(open_anonymous(folder))
    except OSError as error:
        return error.errno not in NO_ANONYMOUS_FILES_ERRNOS
    return True
