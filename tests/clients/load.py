"""Writes, overwrites and deletes objects until told to stop, and journals what was acknowledged.

usage: load.py BUCKET JOURNAL SEED ENDPOINT [ENDPOINT ...]

Each journal line is one JSON object. `try` stands before a request is sent, `ok` after it was
acknowledged, so that `verify.py` knows which states of a key are possible after a crash.
"""

import hashlib
import json
import random
import sys
import threading

import boto3
from botocore.config import Config

THREADS = 8
KEYS_PER_THREAD = 40
SIZES = [0, 1, 900, 5_000, 70_000, 300_000, 700_000, 3_000_000]


def body_of(tag: str, size: int) -> bytes:
    """Bytes that cannot be compressed and that the tag alone determines."""
    return random.Random(tag).randbytes(size)


def client(endpoint: str):
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        config=Config(retries={"max_attempts": 1}, connect_timeout=2, read_timeout=20),
    )


def work(thread: int, bucket: str, journal, lock, seed: int, endpoints: list[str]) -> None:
    rng = random.Random(f"{seed}/{thread}")
    clients = [client(endpoint) for endpoint in endpoints]

    def note(**fields) -> None:
        with lock:
            journal.write(json.dumps(fields) + "\n")
            journal.flush()

    count = 0
    while True:
        count += 1
        key = f"load/{thread}/{rng.randrange(KEYS_PER_THREAD)}"
        tag = f"{seed}/{thread}/{count}"
        size = rng.choice(SIZES)
        s3 = rng.choice(clients)
        delete = rng.random() < 0.15
        digest = None if delete else hashlib.sha256(body_of(tag, size)).hexdigest()
        note(event="try", key=key, tag=tag, digest=digest)
        try:
            if delete:
                s3.delete_object(Bucket=bucket, Key=key)
            else:
                s3.put_object(Bucket=bucket, Key=key, Body=body_of(tag, size))
        except Exception as error:  # any failure leaves the outcome open
            note(event="failed", key=key, tag=tag, error=str(error)[:200])
            continue
        note(event="ok", key=key, tag=tag)


def main() -> None:
    bucket, journal_path, seed, *endpoints = sys.argv[1:]
    lock = threading.Lock()
    with open(journal_path, "a", encoding="utf-8") as journal:
        threads = [
            threading.Thread(
                target=work, args=(n, bucket, journal, lock, int(seed), endpoints), daemon=True
            )
            for n in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
