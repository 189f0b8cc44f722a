"""How many instructions a small request costs the server, outside of the kernel. A busy machine does not change that.

Counted by valgrind's callgrind, in one process over a socket pair: python -m bench.instructions

Without a log, as in the comparison with other servers: what its default level adds, a line per request, is seen with
--log-level info.

The figure is of one Python, one libc and one machine's processor features: compare within one run. For another state of
the project: git worktree add ../before COMMIT, and python -m bench.instructions --against ../before. It is run by its
own ``bench.in_process``, which it must have.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.contenders import ROOT, Unavailable, program
from bench.requests import Kind, kinds

WARM_UP = 100
REQUESTS = 200


class Server:
    """``bench.in_process`` of one tree under callgrind, with the log's level if it is to have one."""

    def __init__(self, tree: Path, folder: Path, log_level: str | None = None) -> None:
        self._out = folder / "callgrind.out"
        mine, theirs = socket.socketpair()
        for end in (mine, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={self._out}"]
        command += [sys.executable, "-m", "bench.in_process", str(theirs.fileno())]
        command += [log_level] if log_level else []
        # What Python decides by chance would move the figure by a per cent.
        environ = {**os.environ, "PYTHONPATH": str(tree.resolve()), "PYTHONHASHSEED": "0"}
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=tree, env=environ, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, stderr=log
            )
        theirs.close()
        self._socket = mine
        if not (self._process.stdout and self._process.stdout.readline()):
            raise RuntimeError((folder / "log").read_text(errors="replace")[-2000:])

    def ask(self, data: bytes) -> int:
        """The status of the answer, which is read to its end."""
        self._socket.sendall(data)
        received = b""
        while b"\r\n\r\n" not in received:
            more = self._socket.recv(65536)
            if not more:
                raise RuntimeError("the server has closed the connection")
            received += more
        head, _, body = received.partition(b"\r\n\r\n")
        found = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        left = (int(found[1]) if found else 0) - len(body)
        while left > 0:
            left -= len(self._socket.recv(65536))
        return int(head.split()[1])

    def count(self, kind: Kind, numbers: Iterable[int]) -> float:
        """Instructions of one request of that kind, the mean over those numbers."""
        asked = 0
        self._control("--zero")
        for number in numbers:
            status = self.ask(kind.of(number))
            if status != kind.status:
                raise RuntimeError(f"{kind.name}: {status} instead of {kind.status}")
            asked += 1
        self._control("--dump")
        dumps = sorted(self._out.parent.glob("callgrind.out.*"), key=lambda path: int(path.suffix[1:]))
        found = re.search(r"^totals: (\d+)", dumps[-1].read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) / asked

    def start_counting(self) -> None:
        """What runs until then runs much faster."""
        self._control("--instr=on")

    def stop(self) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait()

    def _control(self, what: str) -> None:
        command = ["callgrind_control", what, str(self._process.pid)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def count(tree: Path, requests: int, log_level: str | None = None) -> dict[str, float]:
    """Instructions per request of each kind, in the project's state in that folder. Raises ``Unavailable``."""
    for name in ("valgrind", "callgrind_control"):
        program(name)
    wanted = list(kinds())
    with tempfile.TemporaryDirectory() as folder:
        server = Server(tree, Path(folder), log_level)
        try:
            for number in range(WARM_UP):
                for kind in wanted:
                    server.ask(kind.of(number))
            server.start_counting()
            # The first requests under instrumentation pay for its beginning.
            for kind in wanted:
                server.ask(kind.of(WARM_UP))
            numbers = range(WARM_UP + 1, WARM_UP + 1 + requests)
            return {kind.name: server.count(kind, numbers) for kind in wanted}
        finally:
            server.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.instructions")
    parser.add_argument("--requests", type=int, default=REQUESTS, metavar="N", help="of each kind (200)")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another state of the project, to compare with")
    parser.add_argument("--log-level", metavar="LEVEL", help="write a log; another state of the project must know this")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    try:
        ours = count(ROOT, options.requests, options.log_level)
        theirs = count(options.against, options.requests, options.log_level) if options.against else {}
    except Unavailable as error:
        print(f"bench.instructions: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({"instructions": ours, "against": theirs}))
        return 0
    for name, figure in ours.items():
        ratio = f"  {figure / theirs[name]:.3f} of {theirs[name]:,.0f}" if theirs else ""
        print(f"{name:12} {figure:12,.0f}{ratio}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
