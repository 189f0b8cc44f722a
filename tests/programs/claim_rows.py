"""Has rows in a shared table until it is killed: FILE PLACES KEY..."""

import sys
from pathlib import Path

from hmacfs.system.shared_rows import Row, SharedRows

rows = SharedRows(Path(sys.argv[1]), places=int(sys.argv[2]))
with rows:
    for key in sys.argv[3:]:
        rows.claim(Row(key.encode(), 7))
print("claimed", flush=True)
sys.stdin.read()
