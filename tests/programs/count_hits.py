"""Two threads with 200 hits each in a table of windows: FILE."""

import sys
import threading
from pathlib import Path

from hmacfs.rates.table import WindowTable

table = WindowTable(Path(sys.argv[1]))


def hit() -> None:
    for _ in range(200):
        table.hit("a", 60.0)


crowd = [threading.Thread(target=hit) for _ in range(2)]
for thread in crowd:
    thread.start()
for thread in crowd:
    thread.join()
