"""Uses the entries of a session store as a worker of another machine does: KIND WHERE SECONDS. Its input has one command.

``race KEY...``: five greenlets make the entry of each key. Prints how many it made of each.
``hold KEY``: has a lease of so many ``SECONDS`` until it is asked for it. Prints ``held``, and ``let go``.
"""

from gevent import monkey

monkey.patch_all()

import sys
import time

from hmacfs.sessions.leases import LeaseLocker, LeaseTimes
from hmacfs.uploads.contracts.entries import Entries
from tests.contracts.opening import open_store
from tests.contracts.session_stores import PATIENT, together

THREADS = 5


def race(entries: Entries, key: str) -> int:
    made = together(THREADS, lambda number: entries.replace(key, None, str(number), 30.0))
    return THREADS - made.count(None)


def hold(entries: Entries, key: str, seconds: float) -> None:
    lease = LeaseLocker(entries, LeaseTimes(lease=seconds)).acquire(key)
    assert lease is not None
    print("held", flush=True)
    while not lease.is_wanted():
        lease.check()
        time.sleep(0.1)
    lease.release()
    print("let go", flush=True)


if __name__ == "__main__":
    kind, where, lasting = sys.argv[1:]
    store = open_store(kind, where, timeout=PATIENT)
    store.ping()
    print("ready", flush=True)
    command, *keys = sys.stdin.readline().split()
    if command == "race":
        print(*(race(store.entries, key) for key in keys), flush=True)
    else:
        hold(store.entries, keys[0], float(lasting))
