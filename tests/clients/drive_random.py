"""Calls drawn at random, through two mounts and by S3, against a model: each sees what all did before.

    drive_random.py MOUNT-A MOUNT-B BUCKET SEED CALLS
"""

import os
import random
import sys
from pathlib import Path

import boto3
from botocore.exceptions import ClientError

A, B, BUCKET = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
draw = random.Random(int(sys.argv[4]))
s3 = boto3.client("s3")
DIRECTORIES = ["random", "random/one", "random/one/deep"]
NAMES = [f"{dir}/{name}" for dir in DIRECTORIES for name in ("a", "b", "c-d", "e.f", "g h")]
SIZES = (0, 1, 4_000, 5_000, 70_000, 600_000)
files = {}
calls = []


def body():
    return draw.randbytes(draw.choice(SIZES))


def put(name, _mount):
    files[name] = body()
    s3.put_object(Bucket=BUCKET, Key=name, Body=files[name])


def delete(name, _mount):
    s3.delete_object(Bucket=BUCKET, Key=name)
    files.pop(name, None)


def copy(name, _mount):
    target = draw.choice(NAMES)
    try:
        s3.copy_object(Bucket=BUCKET, Key=target, CopySource={"Bucket": BUCKET, "Key": name})
        files[target] = files[name]
    except ClientError as error:
        known = error.response["Error"]["Code"]
        # Onto itself, with nothing changed, is refused.
        assert (known == "NoSuchKey" and name not in files) or target == name, (known, target)


def write(name, mount):
    files[name] = body()
    (mount / name).write_bytes(files[name])


def append(name, mount):
    piece = body()
    with open(mount / name, "ab") as file:
        file.write(piece)
    files[name] = files.get(name, b"") + piece


def scribble(name, mount):
    """Within, or behind the end."""
    if name not in files:
        return
    at, piece = draw.randrange(len(files[name]) + 20_000), body()[:9_000]
    with open(mount / name, "r+b") as file:
        file.seek(at)
        file.write(piece)
    if piece:
        old = files[name].ljust(at, b"\0")
        files[name] = old[:at] + piece + old[at + len(piece) :]


def truncate(name, mount):
    if name in files:
        size = draw.randrange(2 * len(files[name]) + 1)
        os.truncate(mount / name, size)
        files[name] = files[name][:size].ljust(size, b"\0")


def rename(name, mount):
    target = draw.choice(NAMES)
    try:
        os.rename(mount / name, mount / target)
        files[target] = files[name]
        if target != name:
            del files[name]
    except FileNotFoundError:
        assert name not in files


def unlink(name, mount):
    try:
        os.unlink(mount / name)
        del files[name]
    except FileNotFoundError:
        assert name not in files


def check(name):
    for mount in (A, B):
        try:
            seen = (mount / name).read_bytes()
        except FileNotFoundError:
            seen = None
        assert seen == files.get(name), f"{name} through {mount}"
        if seen is not None:
            assert (mount / name).stat().st_size == len(seen)
    try:
        seen = s3.get_object(Bucket=BUCKET, Key=name)["Body"].read()
    except ClientError:
        seen = None
    assert seen == files.get(name), f"{name} by S3"


def check_names():
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="random/")
    keys = {entry["Key"] for page in pages for entry in page.get("Contents", [])}
    # Directories that a mount made are none of S3's.
    assert keys == set(files), keys ^ set(files)
    for mount in (A, B):
        for dir in DIRECTORIES:
            wanted = {name.rsplit("/", 1)[1] for name in files if name.rsplit("/", 1)[0] == dir}
            seen = {entry.name for entry in os.scandir(mount / dir) if entry.is_file()}
            assert seen == wanted, (mount, dir, seen ^ wanted)


for dir in DIRECTORIES:
    (A / dir).mkdir()
try:
    for number in range(int(sys.argv[5])):
        call = draw.choice([put, delete, copy, write, write, append, scribble, scribble, truncate, rename, unlink])
        name, mount = draw.choice(NAMES), draw.choice([A, B])
        calls.append((call.__name__, name, mount.name))
        call(name, mount)
        check(name)
        check(draw.choice(NAMES))
        if number % 10 == 9:
            check_names()
except BaseException:
    print("the last calls:", *calls[-30:], sep="\n", file=sys.stderr)
    raise
print(f"{len(calls)} calls; {len(files)} files at the end")
