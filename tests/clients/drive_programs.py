"""Programs that people use, on a mount. What is made there is compared with the same made on a local disk.

    drive_programs.py MOUNT BUCKET long|short [PART…]      (endpoint and credentials from the environment)
"""

import hashlib
import mmap
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MOUNT, BUCKET = Path(sys.argv[1]), sys.argv[2]
LONG = sys.argv[3] == "long"
SOURCES = Path("/usr/include/linux")


def run(*words, cwd=None, **more):
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, **more)
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def git(local):
    """A history with files in it, packed and loose; cloned, checked and committed to on the mount."""
    count = 5_000 if LONG else 500
    stream = [b"commit refs/heads/main\ncommitter T <t@example.org> 1700000000 +0000\ndata 5\nfirst\n"]
    for number in range(count):
        content = b"%d: %s\n" % (number, b"word " * (number % 97))
        path = b"dir-%d/sub-%d/file-%d.txt" % (number % 17, number % 5, number)
        stream.append(b"M 644 inline %s\ndata %d\n%s\n" % (path, len(content), content))
    bare, clone = MOUNT / "bare.git", MOUNT / "clone"
    quiet = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    quiet |= {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def do(*words, cwd=None, **more):
        return run("git", "-c", "gc.auto=0", *words, cwd=cwd, env=quiet, **more)

    do("init", "-q", "--bare", "-b", "main", bare)
    do("fast-import", "--quiet", cwd=bare, input=b"".join(stream))
    do("clone", "-q", bare, clone)
    assert do("status", "--porcelain", cwd=clone) == b""
    assert len(do("ls-files", cwd=clone).splitlines()) == count
    (clone / "dir-0/new").write_bytes(b"new\n")
    (clone / "dir-1/sub-1/file-1.txt").unlink()
    do("add", "-A", cwd=clone)
    do("commit", "-q", "-m", "second", cwd=clone)
    do("push", "-q", "origin", "main", cwd=clone)
    do("fsck", "--strict", cwd=clone)
    do("fsck", "--strict", cwd=bare)
    assert do("status", "--porcelain", cwd=clone) == b""
    elsewhere = local / "clone"
    do("clone", "-q", bare, elsewhere)
    run("diff", "-r", "--exclude=.git", clone, elsewhere)


def fill(path, journal, acknowledged):
    """Transactions, until killed; tells each one that is done."""
    base = sqlite3.connect(path, isolation_level=None)
    base.execute(f"PRAGMA journal_mode={journal}")
    base.execute("PRAGMA synchronous=FULL")
    base.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, pad BLOB, pair INTEGER)")
    while True:
        base.execute("BEGIN IMMEDIATE")
        last = base.execute("SELECT ifnull(max(n), 0) FROM t").fetchone()[0]
        for number in (last + 1, last + 2):
            base.execute("INSERT INTO t VALUES (?, randomblob(3000), ?)", (number, last))
        base.execute("UPDATE t SET pad = randomblob(2000) WHERE n % 7 = ?", (last % 7,))
        base.execute("COMMIT")
        os.write(acknowledged, b"%d\n" % (last + 2))


def sqlite(_local):
    """A process is killed in the middle of what it does, again and again."""
    for journal in ("delete", "wal"):
        path = MOUNT / f"{journal}.sqlite"
        for kill in range(30 if LONG else 6):
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    fill(path, journal, writer)
                finally:
                    os._exit(1)
            os.close(writer)
            last, draw = 0, random.Random(kill)
            with os.fdopen(reader) as lines:
                for _ in range(draw.randrange(1, 5)):
                    line = lines.readline()
                    assert line, "the writer ended by itself"
                    last = int(line)
                # Not always at the same place of a transaction.
                time.sleep(draw.random() / 30)
                os.kill(child, signal.SIGKILL)
                last = max([last, *(int(line) for line in lines.read().splitlines())])
            os.waitpid(child, 0)
            base = sqlite3.connect(path)
            assert base.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            rows, most = base.execute("SELECT count(*), max(n) FROM t").fetchone()
            assert rows == most and most % 2 == 0 and most >= last, (rows, most, last)
            base.close()


def special_tree(dir):
    """Of all that a copy may lose."""
    dir.mkdir()
    (dir / "plain").write_bytes(b"plain")
    os.link(dir / "plain", dir / "linked")
    os.symlink("plain", dir / "soft")
    os.symlink("nowhere/at/all", dir / "dangling")
    os.mkfifo(dir / "pipe")
    with open(dir / "sparse", "wb") as file:
        file.truncate(20_000_000)
        file.seek(7_000_000)
        file.write(b"in the middle")
    os.setxattr(dir / "plain", "user.colour", b"gr\xfcn\0")
    os.setxattr(dir / "sparse", "user.long", b"v" * 3_000)
    (dir / "sub").mkdir()
    run("setfacl", "-m", "u:1234:rw,g:77:r", dir / "plain")
    run("setfacl", "-d", "-m", "u:1234:rwx", dir / "sub")
    (dir / "sub/deep").mkdir()
    (dir / "sub/odd \n name \\").write_bytes(b"x")
    (dir / "set").write_bytes(b"x")
    os.chown(dir / "set", 1000, 1001)
    (dir / "set").chmod(0o6755)
    (dir / "sub").chmod(0o1777)
    for number, name in enumerate(["plain", "sparse", "set", "sub/deep", "sub"]):
        os.utime(dir / name, ns=(1_600_000_000_123_456_789, 1_500_000_000_000_000_001 + number))


def rsync(local):
    there, back = MOUNT / "rsynced", local / "back"
    special_tree(local / "special")
    run("rsync", "-a", f"{SOURCES}/netfilter_ipv4", local / "special/")
    # Times to the nanosecond: by itself, rsync leaves one that differs by less than a second as it is.
    copy = ["rsync", "-aHAX", "--numeric-ids", "--modify-window=-1"]
    run(*copy, "--sparse", f"{local}/special/", there)
    differences = ["-n", "-i", "--checksum", "--delete"]
    for one, other in [(local / "special", there), (there, local / "special")]:
        assert run(*copy, *differences, f"{one}/", other) == b"", (one, other)
    run(*copy, "--sparse", f"{there}/", back)
    assert run(*copy, *differences, f"{local}/special/", back) == b""
    assert (there / "plain").stat().st_nlink == 2
    with open(there / "sparse", "rb") as file:
        data = file.seek(0, os.SEEK_DATA)
        hole = file.seek(data, os.SEEK_HOLE)
    assert 6_000_000 < data <= 7_000_000 < hole < 8_000_000, (data, hole)
    for name in ("plain", "sub"):
        acl = [run("getfacl", "-n", "--omit-header", name, cwd=of) for of in (local / "special", there, back)]
        assert acl[0] == acl[1] == acl[2] and b"1234" in acl[0], acl
    for name in ("plain", "sparse", "set", "sub", "soft"):
        times = [os.lstat(of / name).st_mtime_ns for of in (local / "special", there, back)]
        assert times[0] == times[1] == times[2], (name, times)
    # What changed since is copied, and what is gone goes.
    (local / "special/plain").write_bytes(b"changed")
    (local / "special/set").unlink()
    run(*copy, "--inplace", "--delete", f"{local}/special/", there)
    run("diff", "-r", "--no-dereference", "--exclude=pipe", local / "special", there)


def tar(local):
    archive = local / "tree.tar"
    tree = SOURCES if LONG else SOURCES / "netfilter"
    run("tar", "-cf", archive, "-C", tree.parent, tree.name)
    (MOUNT / "tar").mkdir()
    run("tar", "-xf", archive, "-C", MOUNT / "tar")
    run("diff", "-r", "--no-dereference", tree, MOUNT / "tar" / tree.name)
    run("tar", "-df", archive, "-C", MOUNT / "tar")
    run("rm", "-r", MOUNT / "tar")


def compile(_local):
    """A library, a program and its rules; built twice, the second time with nothing to do."""
    dir = MOUNT / "project"
    dir.mkdir()
    count = 60 if LONG else 8
    for number in range(count):
        (dir / f"unit{number}.h").write_text(f"int unit{number}(int);\n")
        source = f'#include <stdio.h>\n#include "unit{number}.h"\nint unit{number}(int x) {{ return x + {number}; }}\n'
        (dir / f"unit{number}.c").write_text(source)
    includes = "".join(f'#include "unit{number}.h"\n' for number in range(count))
    calls = " + ".join(f"unit{number}(1)" for number in range(count))
    (dir / "main.c").write_text(f'#include <stdio.h>\n{includes}int main(void) {{ printf("%d\\n", {calls}); }}\n')
    (dir / "Makefile").write_text(
        "units := $(patsubst %.c,%.o,$(wildcard unit*.c))\n"
        "program: main.o libunits.a\n\t$(CC) -o $@ $^\n"
        "libunits.a: $(units)\n\tar rcs $@ $^\n"
        "%.o: %.c\n\t$(CC) -O1 -MMD -c -o $@ $<\n"
        "-include *.d\n"
    )
    run("make", "-j2", cwd=dir)
    assert int(run(dir / "program")) == sum(1 + number for number in range(count))
    assert b"up to date" in run("make", cwd=dir)
    (dir / "unit1.h").write_text("int unit1(int); /* anew */\n")
    assert b"unit1.c" in run("make", cwd=dir)


def source(local):
    """A library as Debian has it: fetched, unpacked, built and tested on the mount; its sources are those of a local disk."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    suite, keys = release["VERSION_CODENAME"].strip('"'), "/usr/share/keyrings/debian-archive-keyring.gpg"
    (local / "sources.list").write_text(f"deb-src [signed-by={keys}] http://deb.debian.org/debian {suite} main\n")
    (local / "lists").mkdir()
    settings = {
        "Dir::Etc::sourcelist": local / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": local / "lists",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in settings.items())]
    run(*apt, "update")
    there, here = MOUNT / "source", local / "source"
    there.mkdir()
    run(*apt, "source", "zlib", cwd=there)
    (tree,) = (entry for entry in there.iterdir() if entry.is_dir())
    run("dpkg-source", "-x", next(there.glob("*.dsc")), here)
    run("diff", "-r", "--no-dereference", here, tree)
    run("./configure", cwd=tree)
    run("make", "-j2", cwd=tree)
    assert b"*** zlib shared test OK ***" in run("make", "test", cwd=tree)
    run("make", "distclean", cwd=tree)


def big(_local):
    """One hash through dd, through memory and by S3."""
    import boto3

    size = (2 << 30) if LONG else (64 << 20)
    path, block = MOUNT / "big", 1 << 20
    draw = random.Random(1)
    written = hashlib.sha256()
    dd = subprocess.Popen(["dd", f"of={path}", "bs=1M", "iflag=fullblock", "conv=fsync", "status=none"], stdin=subprocess.PIPE)
    for _ in range(size // block):
        piece = draw.randbytes(block)
        written.update(piece)
        dd.stdin.write(piece)
    dd.stdin.close()
    assert dd.wait() == 0
    assert path.stat().st_size == size
    with open(path, "rb") as file:
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert hashlib.sha256(mapped).digest() == written.digest()
    got = hashlib.sha256()
    body = boto3.client("s3").get_object(Bucket=BUCKET, Key="big")["Body"]
    for piece in iter(lambda: body.read(block), b""):
        got.update(piece)
    assert got.digest() == written.digest()
    # Changed in memory in the middle, as virtual machines and databases do.
    with open(path, "r+b") as file:
        with mmap.mmap(file.fileno(), 0) as mapped:
            mapped[size // 2 - 5 : size // 2 + 5] = b"0123456789"
            mapped.flush()
    answer = boto3.client("s3").get_object(Bucket=BUCKET, Key="big", Range=f"bytes={size // 2 - 5}-{size // 2 + 4}")
    assert answer["Body"].read() == b"0123456789"
    path.unlink()


PARTS = (git, sqlite, rsync, tar, compile, source, big)
for part in PARTS:
    if sys.argv[4:] and part.__name__ not in sys.argv[4:]:
        continue
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as local:
        part(Path(local))
    print(f"{part.__name__}: {time.monotonic() - began:.1f} s", flush=True)
