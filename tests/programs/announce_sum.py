"""Announces a number in a file of shared sums, until its input ends: FILE NUMBER."""

import sys
from pathlib import Path

from hmacfs.system.shared_sums import SharedSums

sums = SharedSums(Path(sys.argv[1]))
sums.announce(int(sys.argv[2]))
print("announced", flush=True)
sys.stdin.read()
