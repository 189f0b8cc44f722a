"""What time limits go by that another machine keeps too."""

from __future__ import annotations

import time

#: By so many seconds a holder takes its right for over before the store does: their clocks do not run alike.
MARGIN_SECONDS = 1.0


def boot_clock() -> float:
    """As ``time.monotonic``, but it goes on while the machine sleeps, where the system has such a clock (Linux)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
