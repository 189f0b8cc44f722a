"""``hmacfs copy-store``: copy the files of a folder into the configured store, or the other way."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from hmacfs.cli.copy_progress import Display, Tally
from hmacfs.cli.messages import explained
from hmacfs.config import find_config, load
from hmacfs.errors import HmacfsError, StorageFailed
from hmacfs.protocol.names import StoredName
from hmacfs.uploads.contracts.stores import FileReader, FileStore
from hmacfs.uploads.copying import Copied, Copying, Outcome

_PARALLEL, _MOST_PARALLEL = 8, 64
#: So many failures, and nothing that succeeded between them: it is the store that fails, and not the files.
_HOPELESS = 50
_STATUS_BY_SIGNAL = 128

_DESCRIPTION = """\
Copy the files of a folder into the store that the configuration names, or the other way. Nothing is overwritten or
deleted, a folder that is copied from is only read, and a running server may use either meanwhile. A copy that was
interrupted is resumed by the same command. Unfinished uploads stay where they are.

The exit status is 1 if there were conflicts (something else has a file's name) or failures, each of which is listed;
of folders that cannot be listed the first one is.
"""


class _Interrupted(Exception):
    """The copy is to end."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "copy-store",
        help="copy a folder's files into the configured store, or back",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    folder = parser.add_mutually_exclusive_group(required=True)
    folder.add_argument("--from-folder", type=Path, metavar="DIR", help="copy this folder into the configured store")
    folder.add_argument("--to-folder", type=Path, metavar="DIR", help="copy the configured store into this folder")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="only say how many files would be copied")
    what.add_argument(
        "--verify",
        action="store_true",
        help="copy nothing: read all files in both, list what differs or is missing",
    )
    parser.add_argument("--parallel", type=_number, default=_PARALLEL, metavar="N", help="files at once (8)")
    parser.add_argument("--quiet", action="store_true", help="no progress: only what needs attention, and the report")
    parser.add_argument("-config", "--config", type=Path, metavar="FILE", dest="copy_config", help="the TOML file")
    parser.set_defaults(run=run)


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= _MOST_PARALLEL:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed is a number from 1 to {_MOST_PARALLEL}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Copy. The exit status: 0 if all files are there, 1 for conflicts and failures, 130 for ^C. Raises
    ``ConfigError``."""
    # Needs the drivers, which no other command but ``sweep`` does.
    from hmacfs.app import open_file_reader, open_file_store
    from hmacfs.stores.open_local_store import open_source_folder, open_target_folder

    settings = load(find_config(arguments.copy_config or arguments.config, os.environ), os.environ)
    source: FileReader
    target: FileStore
    if arguments.to_folder is not None:
        target = open_target_folder(settings, arguments.to_folder, f"--to-folder {arguments.to_folder}")
        source = open_file_reader(settings)
    else:
        source = open_source_folder(settings, arguments.from_folder, f"--from-folder {arguments.from_folder}")
        target = open_file_store(settings)
    tally = Tally()
    display = Display(tally)
    run = CopyRun(source, target, tally, display, parallel=arguments.parallel)
    task = run.copying.copy
    if arguments.verify:
        task = run.copying.verify
    elif arguments.dry_run:
        task = run.copying.look
    return _run(run, task, arguments)


def _run(run: CopyRun, task: Callable[[StoredName], Copied], arguments: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tally, status, ending = run.tally, 0, ""
    try:
        if arguments.quiet:
            run.run(task)
        else:
            with run.display.running():
                if arguments.from_folder is not None:  # to list an object store twice takes long
                    run.count_ahead()
                run.run(task)
    except KeyboardInterrupt:
        status = _STATUS_BY_SIGNAL + signal.SIGINT
        ending = "interrupted: the same command goes on from here"
    except HmacfsError as error:
        status, ending = 1, f"hmacfs copy-store: {explained(error)}"
    print(tally.report())
    if not ending and tally.failed:
        ending = "some files failed: repeat the command once the cause is gone"
    if ending:
        print(ending, file=sys.stderr)
    missing = bool(tally.files[Outcome.MISSING]) and arguments.verify
    return status or int(missing or not tally.is_good)


class CopyRun:
    """Does one thing with all files of a store, ``parallel`` at once, in threads."""

    def __init__(
        self, source: FileReader, target: FileStore, tally: Tally, display: Display, *, parallel: int = _PARALLEL
    ) -> None:
        self.tally = tally
        self.display = display
        self.copying = Copying(source, target, self._note_bytes)
        self._source = source
        self._parallel = parallel
        self._unlisted: HmacfsError | None = None
        #: So that no more names are in memory than are worked at soon.
        self._places = threading.BoundedSemaphore(2 * parallel)
        self._is_ending = threading.Event()

    def run(self, task: Callable[[StoredName], Copied]) -> None:
        """Raises ``HmacfsError`` if not all files could be listed, once those that were are done; and at once if a
        store cannot be used, or fails again and again."""
        self.copying.check()
        pool = ThreadPoolExecutor(self._parallel, thread_name_prefix="copy")
        try:
            for name in self._names():
                self._places.acquire()
                if self.tally.failed_in_a_row >= _HOPELESS:
                    raise StorageFailed(f"{_HOPELESS} failures in a row: giving up")
                pool.submit(self._do, task, name)
            pool.shutdown()
            if self._unlisted is not None:
                raise self._unlisted
        finally:
            self._is_ending.set()
            pool.shutdown()

    def count_ahead(self) -> None:
        """Find out, in a thread, how many files there are."""
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        count = 0
        with suppress(HmacfsError):
            for page in self._source.names():
                if self._is_ending.is_set():
                    return
                count += len(page)
            self.tally.total = count

    def _names(self) -> Iterable[StoredName]:
        try:
            for page in self._source.names():
                yield from page
        except HmacfsError as error:
            self._unlisted = error

    def _note_bytes(self, count: int) -> None:
        if self._is_ending.is_set():
            raise _Interrupted
        self.tally.add_bytes(count)

    def _do(self, task: Callable[[StoredName], Copied], name: StoredName) -> None:
        try:
            if self._is_ending.is_set():
                return
            copied = task(name)
        except _Interrupted:
            return
        except Exception as error:
            self.tally.add_failure()
            self.display.tell(name, "failed", explained(error))
        else:
            self.tally.add(copied)
            if copied.outcome is Outcome.CONFLICT:
                self.display.tell(name, "conflict", copied.remark)
            elif copied.outcome is Outcome.MISSING and task == self.copying.verify:
                self.display.tell(name, "missing", "it is not there")
        finally:
            self._places.release()
