"""Becomes a browser that reads its orders at descriptor 3 and answers at 4: ORDERS ANSWERS COMMAND..."""

import fcntl
import os
import sys

orders, answers = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])
os.dup2(orders, 3)
os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])
