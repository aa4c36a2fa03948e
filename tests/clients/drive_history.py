"""Names and locks through two mounts of one bucket, as a history: who asked for what when, and what came of it.

    drive_history.py MOUNT-A MOUNT-B SECONDS

Prints a line of JSON for each operation: `register`, `invoked` and `completed` (nanoseconds of one clock), and `deed`, as
`nexusgrid_tests::history` names them. A name is a register that holds a file's inode; a lock's register holds its owner.
"""

import ctypes
import errno
import fcntl
import json
import multiprocessing
import os
import random
import struct
import sys
import time
from pathlib import Path

MOUNTS, SECONDS = [Path(sys.argv[1]), Path(sys.argv[2])], float(sys.argv[3])
WORKERS_EACH = 3
PATIENCE = 60
NAMES = ["one", "two", "three"]
LOCKS = ["left", "right"]
DIR = "history"
AT_FDCWD, RENAME_NOREPLACE = -100, 1
LIBC = ctypes.CDLL(None, use_errno=True)


def rename(source, target, flags=0):
    """Whether it was done; of errors only those that say what is there are expected."""
    if LIBC.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    error = ctypes.get_errno()
    assert error in (errno.ENOENT, errno.EEXIST), f"{source} → {target}: {os.strerror(error)}"
    return False


class Worker:
    def __init__(self, number, ready):
        self.number = number
        self.dir = MOUNTS[number % 2] / DIR
        self.random = random.Random(number)
        self.history = []
        self.ready = ready
        self.files = {name: open(self.dir / name, "r+b") for name in LOCKS}
        self.held = set()

    def note(self, register, work):
        """`work` gives the deed."""
        invoked = time.monotonic_ns()
        deed = work()
        completed = time.monotonic_ns()
        self.history.append({"register": register, "invoked": invoked, "completed": completed, "deed": deed})

    def spare(self):
        """A file that nobody else knows, and its inode."""
        own = self.dir / f"spare-{self.number}"
        if not own.exists():
            os.mknod(own)
        return own, own.stat().st_ino

    def name(self, name):
        target = self.dir / name
        kind = self.random.randrange(6)

        def look():
            try:
                return {"Read": target.stat().st_ino}
            except FileNotFoundError:
                return {"Read": None}

        if kind < 3:
            return self.note(name, look)
        if kind == 3:
            # Moves what is there out of the way: what it was is seen behind that, nobody else can touch it.
            gone = self.dir / f"gone-{self.number}"
            taken = []

            def take():
                taken.append(rename(target, gone))
                return {"Read": None}

            self.note(name, take)
            if taken[0]:
                self.history[-1]["deed"] = {"Swap": [gone.stat().st_ino, None]}
            return None
        spare, inode = self.spare()
        if kind == 4:
            return self.note(name, lambda: rename(spare, target) and {"Write": inode})

        def put():
            was_put = rename(spare, target, RENAME_NOREPLACE)
            return {"Swap": [None, inode]} if was_put else {"Differs": None}

        return self.note(name, put)

    def lock(self, name):
        def ask(kind):
            what = struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)
            try:
                fcntl.fcntl(self.files[name], fcntl.F_OFD_SETLK, what)
                return True
            except BlockingIOError:
                return False

        if name in self.held:
            self.held.remove(name)
            self.note(name, lambda: ask(fcntl.F_UNLCK) and {"Swap": [self.number, None]})
            return

        def take():
            if not ask(fcntl.F_WRLCK):
                return {"Differs": None}
            self.held.add(name)
            return {"Swap": [None, self.number]}

        self.note(name, take)

    def run(self):
        self.ready.wait()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if self.random.randrange(3) == 0:
                self.lock(self.random.choice(LOCKS))
            else:
                self.name(self.random.choice(NAMES))


def work(number, ready, results):
    """Puts the worker's history, or `None`, whatever happens."""
    history = None
    try:
        worker = Worker(number, ready)
        worker.run()
        history = worker.history
    finally:
        results.put(history)


def main():
    (MOUNTS[0] / DIR).mkdir()
    for name in LOCKS:
        (MOUNTS[0] / DIR / name).write_bytes(b"")
    count = WORKERS_EACH * len(MOUNTS)
    ready, results = multiprocessing.Barrier(count, timeout=PATIENCE), multiprocessing.Queue()
    workers = [multiprocessing.Process(target=work, args=(number, ready, results)) for number in range(1, count + 1)]
    for worker in workers:
        worker.start()
    for _ in workers:
        for operation in results.get() or []:
            print(json.dumps(operation))
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0


main()
