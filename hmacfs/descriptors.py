"""Closing files without gevent's bookkeeping.

gevent's patched ``os.close`` looks for watchers of the descriptor, at the cost of four system calls, and makes an event
loop for a native thread that calls it. The descriptors of files never have watchers.
"""

from posix import close

__all__ = ["close"]
