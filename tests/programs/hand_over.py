"""Has the descriptors that it was given from 3 on, as systemd would, and becomes the server: COUNT FD... COMMAND...

``LISTEN_FDS`` in the environment says another number than there are.
"""

import os
import sys

count = int(sys.argv[1])
copies = [os.dup(int(fd)) for fd in sys.argv[2 : 2 + count]]
for place, fd in enumerate(copies, 3):
    os.dup2(fd, place)
    os.set_inheritable(place, True)
os.environ.setdefault("LISTEN_FDS", str(count))
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": ":".join(["http"] * count)}
os.execv(sys.argv[2 + count], sys.argv[2 + count :])
