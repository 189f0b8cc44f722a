"""Starts a server as a test does, prints its folder and process, and waits to be killed."""

import time

from tests.servers import Daemon, folder_of

with folder_of("nobody") as ended:
    Daemon(["sleep", "600"], folder=ended).kill()
with folder_of("nobody") as folder:
    # A server with a worker, each in the way of the other's end.
    server = Daemon(["sh", "-c", "trap '' TERM HUP; sleep 600 & wait"], folder=folder)
    print(folder, server.pid, flush=True)
    time.sleep(600)
