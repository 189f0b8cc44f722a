"""What the server of these tests allows, and names that are new to it."""

from __future__ import annotations

import itertools

MAX_SIZE = 1024 * 1024
TTL = 3600
new_names = (f"dir {number}/fïle.bin" for number in itertools.count())
