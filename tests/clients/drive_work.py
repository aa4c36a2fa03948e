"""Programs at work on a mount whose daemon, agent and grid are killed meanwhile: no call may fail, and
whatever was written is there.

    drive_work.py work DIRECTORY MANIFEST     works until its input ends; prints a line for each round
    drive_work.py verify DIRECTORY MANIFEST BUCKET PREFIX
                                              the same files through another mount, and by S3
"""

import hashlib
import json
import mmap
import multiprocessing
import os
import random
import sys
from pathlib import Path

WORKERS = 4
MAPPED = 64 * 4096
SCATTERED = 300_000


def work(dir, seed, stop):
    draw = random.Random(seed)
    dir.mkdir()
    log = os.open(dir / "log", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL)
    mapped_file = os.open(dir / "mapped", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.truncate(mapped_file, MAPPED)
    mapped = mmap.mmap(mapped_file, MAPPED)
    mapped_model = bytearray(MAPPED)
    scattered = os.open(dir / "scattered", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    scattered_model = bytearray()
    kept, logged, number = {}, [], 0
    while not stop.is_set():
        # Made, synced, named: what editors do.
        content = b"%d " % number * draw.randrange(1, 20_000)
        name = f"kept-{number % 6}"
        file = os.open(dir / "new", os.O_RDWR | os.O_CREAT | os.O_EXCL)
        assert os.write(file, content) == len(content)
        os.fsync(file)
        os.rename(dir / "new", dir / name)
        kept[name] = content
        assert (dir / name).read_bytes() == content
        line = b"%s %d\n" % (name.encode(), number)
        assert os.write(log, line) == len(line)
        logged.append(line)
        if number % 3 == 0:
            os.fsync(log)
        # Names come and go.
        (dir / "sub").mkdir()
        os.link(dir / name, dir / "sub/link")
        assert os.stat(dir / name).st_nlink == 2
        os.unlink(dir / "sub/link")
        os.rmdir(dir / "sub")
        if number % 5 == 4:
            # Without a name, but open: whatever comes must find it.
            os.unlink(dir / name)
            del kept[name]
            assert os.pread(file, len(content), 0) == content
        os.close(file)
        # Here and there, sometimes synced.
        at, piece = draw.randrange(SCATTERED), draw.randbytes(draw.randrange(1, 5_000))
        assert os.pwrite(scattered, piece, at) == len(piece)
        if len(scattered_model) < at + len(piece):
            scattered_model.extend(bytes(at + len(piece) - len(scattered_model)))
        scattered_model[at : at + len(piece)] = piece
        if number % 4 == 3:
            os.fsync(scattered)
        if number % 7 == 6:
            cut = draw.randrange(SCATTERED)
            os.truncate(scattered, cut)
            del scattered_model[cut:]
            scattered_model.extend(bytes(cut - len(scattered_model)))
        assert os.pread(scattered, 2 * SCATTERED, 0) == scattered_model, f"scattered, round {number}"
        page = draw.randrange(MAPPED // 4096) * 4096
        mapped[page : page + 8] = mapped_model[page : page + 8] = draw.randbytes(8)
        if number % 4 == 1:
            mapped.flush()
        number += 1
        os.write(1, f"{dir.name} {number}\n".encode())
    mapped.flush()
    mapped.close()
    os.close(mapped_file)
    os.close(scattered)
    os.close(log)
    wanted = {"log": b"".join(logged), "mapped": bytes(mapped_model), **kept}
    wanted["scattered"] = bytes(scattered_model)
    for name, content in wanted.items():
        assert (dir / name).read_bytes() == content, f"{dir.name}/{name} at the end"
    sums = {f"{dir.name}/{name}": hashlib.sha256(of).hexdigest() for name, of in wanted.items()}
    (Path(sys.argv[3]) / dir.name).write_text(json.dumps(sums))


def main():
    dir, manifest = Path(sys.argv[2]), Path(sys.argv[3])
    if sys.argv[1] == "verify":
        return verify(dir, manifest, *sys.argv[4:])
    stop = multiprocessing.Event()
    workers = [
        multiprocessing.Process(target=work, args=(dir / f"w{seed}", seed, stop))
        for seed in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    sys.stdin.read()
    stop.set()
    for worker in workers:
        worker.join()
    sys.exit(any(worker.exitcode for worker in workers))


def verify(dir, manifest, bucket, prefix):
    import boto3

    s3 = boto3.client("s3")
    sums = {}
    for part in manifest.iterdir():
        sums.update(json.loads(part.read_text()))
    assert len(sums) > WORKERS
    for path, wanted in sums.items():
        seen = hashlib.sha256((dir / path).read_bytes()).hexdigest()
        assert seen == wanted, f"{path} through the mount"
        body = s3.get_object(Bucket=bucket, Key=f"{prefix}{path}")["Body"]
        assert hashlib.sha256(body.read()).hexdigest() == wanted, f"{path} by S3"
    names = {f"{sub}/{name}" for sub in os.listdir(dir) for name in os.listdir(dir / sub)}
    assert names == set(sums), names ^ set(sums)
    print(f"{len(sums)} files are what they were")


main()
