"""Two mounts of one bucket, on two nodes: what one does the other sees with its next call.

    drive_two.py MOUNT-A MOUNT-B
"""

import errno
import fcntl
import mmap
import multiprocessing
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

A, B = Path(sys.argv[1]), Path(sys.argv[2])
APPENDS = 40
ROUNDS = 15
PATIENCE = 30


def fails(number, call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        assert error.errno == number, f"{call}{arguments}: {error}"
        return
    raise AssertionError(f"{call}{arguments} did not fail")


def names():
    """Each is looked at by the other before (so that its kernel could remember), and right after."""
    for one, other, dir in [(A, B, "ab"), (B, A, "ba")]:
        fails(errno.ENOENT, os.stat, other / dir)
        (one / dir).mkdir()
        assert (other / dir).is_dir()
        fails(errno.ENOENT, os.stat, other / dir / "f")
        (one / dir / "f").write_bytes(b"first")
        assert (other / dir / "f").read_bytes() == b"first"
        (one / dir / "f").write_bytes(b"the second")
        assert (other / dir / "f").read_bytes() == b"the second"
        with open(one / dir / "f", "ab") as file:
            file.write(b" and more")
        assert (other / dir / "f").stat().st_size == 19
        assert (other / dir / "f").read_bytes() == b"the second and more"
        os.truncate(one / dir / "f", 3)
        assert (other / dir / "f").read_bytes() == b"the"
        (one / dir / "f").chmod(0o4751)
        assert (other / dir / "f").stat().st_mode & 0o7777 == 0o4751
        os.chown(one / dir / "f", 12, 34)
        assert ((other / dir / "f").stat().st_uid, (other / dir / "f").stat().st_gid) == (12, 34)
        os.utime(one / dir / "f", ns=(1_000_000_007, 2_000_000_009))
        seen = (other / dir / "f").stat()
        assert (seen.st_atime_ns, seen.st_mtime_ns) == (1_000_000_007, 2_000_000_009)
        fails(errno.ENODATA, os.getxattr, other / dir / "f", "user.colour")
        os.setxattr(one / dir / "f", "user.colour", b"green")
        assert os.getxattr(other / dir / "f", "user.colour") == b"green"
        os.removexattr(one / dir / "f", "user.colour")
        assert os.listxattr(other / dir / "f") == []
        os.link(one / dir / "f", one / dir / "hard")
        assert (other / dir / "hard").stat().st_nlink == 2
        assert (other / dir / "hard").stat().st_ino == (other / dir / "f").stat().st_ino
        os.symlink("f", one / dir / "soft")
        assert os.readlink(other / dir / "soft") == "f"
        os.rename(one / dir / "f", one / dir / "g")
        assert sorted(os.listdir(other / dir)) == ["g", "hard", "soft"]
        fails(errno.ENOENT, os.stat, other / dir / "f")
        assert (other / dir / "g").read_bytes() == b"the"
        os.unlink(one / dir / "g")
        fails(errno.ENOENT, os.stat, other / dir / "g")
        assert (other / dir / "hard").stat().st_nlink == 1
        fails(errno.ENOTEMPTY, os.rmdir, other / dir)
        # Each removes what the other made.
        os.unlink(other / dir / "hard")
        os.unlink(other / dir / "soft")
        os.rmdir(other / dir)
        fails(errno.ENOENT, os.stat, one / dir)


def removed_while_open():
    (A / "open").write_bytes(b"still here")
    with open(B / "open", "rb") as file:
        os.unlink(A / "open")
        fails(errno.ENOENT, os.stat, B / "open")
        assert file.read() == b"still here"
    (A / "over").write_bytes(b"old")
    with open(B / "over", "rb") as file:
        (A / "new").write_bytes(b"new")
        os.rename(A / "new", A / "over")
        assert file.read() == b"old"
    assert (B / "over").read_bytes() == b"new"
    os.unlink(B / "over")


def side_by_side(work):
    """Runs `work(mount, which, ready)` in a process for each mount, both at once."""
    barrier = multiprocessing.Barrier(2, timeout=PATIENCE)
    ones = [
        multiprocessing.Process(target=work, args=(mount, which, barrier))
        for which, mount in enumerate([A, B])
    ]
    for one in ones:
        one.start()
    for one in ones:
        one.join()
        assert one.exitcode == 0, f"{work.__name__} in one of the mounts"


def append(mount, which, barrier):
    log = os.open(mount / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    barrier.wait()
    for number in range(APPENDS):
        line = f"{which} {number:05}".ljust(40, ".") + "\n"
        assert os.write(log, line.encode()) == len(line)
    os.close(log)


def appends():
    side_by_side(append)
    for mount in (A, B):
        lines = (mount / "log").read_text().splitlines()
        assert all(len(line) == 40 for line in lines)
        for which in range(2):
            numbers = [int(line[2:7]) for line in lines if line[0] == str(which)]
            assert numbers == list(range(APPENDS)), f"{which} as seen by {mount}: {numbers}"
    os.unlink(A / "log")


def side_by_side_writes():
    """D5: bytes of whoever's are stored last win, range by range."""
    for last, expected in [(0, b"aaaaaaaabbbb"), (1, b"aaaabbbbbbbb")]:
        (A / "both").write_bytes(b"............")
        files = [os.open(mount / "both", os.O_WRONLY) for mount in (A, B)]
        os.pwrite(files[0], b"aaaaaaaa", 0)
        os.pwrite(files[1], b"bbbbbbbb", 4)
        os.close(files[1 - last])
        os.close(files[last])
        for mount in (A, B):
            assert (mount / "both").read_bytes() == expected, (last, (mount / "both").read_bytes())
    os.unlink(A / "both")


def times():
    """N5: of a write, not of its being stored."""
    file = os.open(A / "timed", os.O_WRONLY | os.O_CREAT)
    os.fsync(file)
    before = time.time_ns()
    os.write(file, b"x")
    behind = time.time_ns()
    while time.time_ns() < behind + 20_000_000:
        pass
    os.close(file)
    for mount in (A, B):
        assert before <= (mount / "timed").stat().st_mtime_ns <= behind
    os.unlink(A / "timed")


def mapped(mount, which, barrier):
    file = os.open(mount / "mapped", os.O_RDWR)
    with mmap.mmap(file, 0) as pages:
        barrier.wait()
        for number in range(ROUNDS):
            # Both kinds meet each other.
            lock = (fcntl.lockf, fcntl.flock)[(number + which) % 2]
            lock(file, fcntl.LOCK_EX)
            pages[:8] = struct.pack("<q", struct.unpack("<q", pages[:8])[0] + 1)
            lock(file, fcntl.LOCK_UN)
    os.close(file)


def mapped_counter():
    """L3, of what was written through memory and never synced."""
    (A / "mapped").write_bytes(bytes(10_000))
    side_by_side(mapped)
    for mount in (A, B):
        assert struct.unpack("<q", (mount / "mapped").read_bytes()[:8])[0] == 2 * ROUNDS
    os.unlink(A / "mapped")


class Alarm(Exception):
    pass


def alarmed(_signal, _frame):
    raise Alarm


def wait_in_a_circle(mount, which, barrier):
    file = os.open(mount / "circle", os.O_RDWR)
    fcntl.lockf(file, fcntl.LOCK_EX, 1, which)
    barrier.wait()
    if which == 0:
        # The other waits for this byte until this wait has ended by its signal.
        signal.signal(signal.SIGALRM, alarmed)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX, 1, 1)
            raise AssertionError("two have one lock")
        except Alarm:
            pass
    else:
        signal.alarm(PATIENCE)
        fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
    os.close(file)


def circle():
    """L4: nobody hears of a deadlock, and a signal ends it."""
    (A / "circle").write_bytes(b"01")
    side_by_side(wait_in_a_circle)
    os.unlink(B / "circle")


def powers():
    """P2: set-id bits and device nodes do nothing."""
    os.mknod(A / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    fails(errno.EACCES, os.open, B / "null", os.O_RDONLY)
    shutil.copy(shutil.which("id"), A / "id")
    (A / "id").chmod(0o4755)
    said = subprocess.run([B / "id", "-u"], user=65534, group=65534, extra_groups=[], capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (0, "65534\n"), said
    os.unlink(A / "null")
    os.unlink(A / "id")


def under_a_lock(lock, name):
    def count(mount, _which, barrier):
        file = os.open(mount / name, os.O_RDWR)
        barrier.wait()
        for _ in range(ROUNDS):
            lock(file, fcntl.LOCK_EX)
            value = int(os.pread(file, 20, 0))
            os.pwrite(file, b"%d" % (value + 1), 0)
            lock(file, fcntl.LOCK_UN)
        os.close(file)

    return count


def counters():
    for lock in (fcntl.lockf, fcntl.flock):
        name = f"counter-{lock.__name__}"
        (A / name).write_bytes(b"0")
        side_by_side(under_a_lock(lock, name))
        for mount in (A, B):
            assert (mount / name).read_bytes() == b"%d" % (2 * ROUNDS), (mount / name).read_bytes()
        os.unlink(B / name)


def exclusive():
    """Made by exactly one."""

    def make(mount, which, barrier):
        for number in range(ROUNDS):
            barrier.wait()
            try:
                os.close(os.open(mount / f"x{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                (mount / f"won-{number}-{which}").touch()
            except FileExistsError:
                pass

    side_by_side(make)
    won = [name for name in os.listdir(B) if name.startswith("won-")]
    assert len(won) == ROUNDS, won


def hold(path, lock, kind, said):
    file = os.open(path, os.O_RDWR)
    lock(file, kind)
    said.send("held")
    signal.pause()


def locks():
    (A / "locked").write_bytes(b"0123456789")
    file = os.open(B / "locked", os.O_RDWR)
    for lock, kind, tried, free in [
        (fcntl.lockf, fcntl.LOCK_EX, fcntl.LOCK_SH, False),
        (fcntl.lockf, fcntl.LOCK_SH, fcntl.LOCK_SH, True),
        (fcntl.lockf, fcntl.LOCK_SH, fcntl.LOCK_EX, False),
        (fcntl.flock, fcntl.LOCK_EX, fcntl.LOCK_SH, False),
        (fcntl.flock, fcntl.LOCK_SH, fcntl.LOCK_SH, True),
        (fcntl.flock, fcntl.LOCK_SH, fcntl.LOCK_EX, False),
    ]:
        said, saying = multiprocessing.Pipe()
        holder = multiprocessing.Process(target=hold, args=(A / "locked", lock, kind, saying))
        holder.start()
        assert said.poll(PATIENCE) and said.recv() == "held"
        if free:
            lock(file, tried | fcntl.LOCK_NB)
            lock(file, fcntl.LOCK_UN)
        else:
            fails(errno.EAGAIN, lock, file, tried | fcntl.LOCK_NB)
            if lock is fcntl.lockf:
                asked = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
                kind_held = struct.unpack("hhqqi", fcntl.fcntl(file, fcntl.F_GETLK, asked))[0]
                assert kind_held == (fcntl.F_WRLCK if kind == fcntl.LOCK_EX else fcntl.F_RDLCK)
        # Whoever waits gets it when the holder dies.
        holder.kill()
        signal.alarm(PATIENCE)
        lock(file, fcntl.LOCK_EX)
        signal.alarm(0)
        lock(file, fcntl.LOCK_UN)
        holder.join()
    # Ranges that do not touch are no trouble.
    other = os.open(A / "locked", os.O_RDWR)
    fcntl.lockf(file, fcntl.LOCK_EX, 5, 0)
    child = os.fork()
    if child == 0:
        fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 5)
        fails(errno.EAGAIN, fcntl.lockf, other, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 4)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    os.close(file)
    os.close(other)
    os.unlink(A / "locked")


multiprocessing.set_start_method("fork")
PARTS = (names, removed_while_open, appends, side_by_side_writes, times, counters, mapped_counter, exclusive, locks, circle, powers)
for part in PARTS:
    began = time.monotonic()
    part()
    print(f"{part.__name__}: {time.monotonic() - began:.1f} s", flush=True)
