"""Runs the targets of ``pure`` under Atheris, which looks for inputs that reach new code: ``python -m
tests.fuzz.guided TARGET [libFuzzer's options]`` runs one in this process, which then ends."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

#: Longer inputs are not tried: every rule shows itself in less.
_LONGEST_BYTES = 2048
#: How libFuzzer calls the files in which it leaves an input.
_KINDS = ("crash-", "timeout-", "oom-", "leak-")
#: Seconds for one input.
_TIMEOUT = 10


class Run(NamedTuple):
    """runs: inputs tried; failure: what to print, empty if there was none."""

    target: str
    runs: int
    failure: str


def run(target: str, *, seed: int, cases: int = -1, seconds: int = 0) -> Run:
    """Try so many inputs, or for so long; stop at the first that fails, and make it smaller."""
    from tests.fuzz.pure import TARGETS
    from tests.fuzz.seeds import seeds_of, words_of

    with tempfile.TemporaryDirectory(prefix="hmacfs-fuzz-") as name:
        folder = Path(name)
        corpus = folder / "corpus"
        corpus.mkdir()
        for number, data in enumerate(seeds_of(target)):
            (corpus / str(number)).write_bytes(data)
        (folder / "words").write_text("".join(f'"{word}"\n' for word in words_of(target)))
        # libFuzzer takes 0 for "make one up".
        limits = [f"-seed={seed + 1}", f"-runs={cases}", f"-max_total_time={seconds}", f"-dict={folder / 'words'}"]
        said = _start(target, folder, *limits, str(corpus))
        runs = max((int(number) for number in re.findall(r"^#(\d+)", said, re.MULTILINE)), default=0)
        found = sorted(path for path in folder.iterdir() if path.name.startswith(_KINDS))
        if not found:
            return Run(target, runs, "" if "DONE" in said else said)
        data = smallest(TARGETS[target], found[0].read_bytes())
        error = re.search(r"=== Uncaught Python exception: ===\n(.+?)\n\n", said, re.DOTALL)
        return Run(target, runs, f"{error[1] if error else said}\n{target}: smallest input: {data!r}")


def smallest(target: Callable[[bytes], None], data: bytes) -> bytes:
    """``data`` without all that the failure does not need."""

    def outcome(candidate: bytes) -> str:
        try:
            target(candidate)
        except Exception as error:
            return repr(error)
        return ""

    wanted, size = outcome(data), len(data)
    while size and wanted:
        for start in range(len(data) - size, -1, -size):
            shorter = data[:start] + data[start + size :]
            if outcome(shorter) == wanted:
                data = shorter
        size //= 2
    return data


def _start(target: str, folder: Path, *options: str) -> str:
    common = [f"-artifact_prefix={folder}/", f"-max_len={_LONGEST_BYTES}", f"-timeout={_TIMEOUT}"]
    command = [sys.executable, "-m", "tests.fuzz.guided", target, *common, *options]
    done = subprocess.run(command, capture_output=True, check=False, cwd=Path(__file__).parents[2])
    return (done.stdout + done.stderr).decode(errors="replace")


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["hmacfs"], enable_loader_override=False):
        from tests.fuzz.pure import TARGETS
    atheris.Setup(sys.argv[:1] + sys.argv[2:], TARGETS[sys.argv[1]])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
