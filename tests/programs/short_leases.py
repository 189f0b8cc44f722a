"""The server's command with leases that last for another time than usual: SECONDS ARGUMENT..."""

import sys

from hmacfs.cli import main
from hmacfs.sessions.leases import LeaseTimes

_, *others = LeaseTimes.__init__.__defaults__ or ()
LeaseTimes.__init__.__defaults__ = (float(sys.argv.pop(1)), *others)
sys.exit(main())
