"""What clients of S3 and programs on a mount do to the same names.

    drive_s3.py MOUNT BUCKET        (endpoint and credentials from the environment)
"""

import errno
import hashlib
import os
import stat
import sys
import time
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

MOUNT, BUCKET = Path(sys.argv[1]), sys.argv[2]
s3 = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))


def put(key, body=b"", **more):
    return s3.put_object(Bucket=BUCKET, Key=key, Body=body, **more)


def get(key):
    return s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()


def etag(key):
    return s3.head_object(Bucket=BUCKET, Key=key)["ETag"]


def delete(key):
    s3.delete_object(Bucket=BUCKET, Key=key)


def keys(prefix=""):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def gone(key):
    try:
        etag(key)
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"] == 404
    return False


def fails(number, call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        assert error.errno == number, f"{call}{arguments}: {error}"
        return
    raise AssertionError(f"{call}{arguments} did not fail")


def shown(name, is_dir=False):
    """How the mount shows a name that POSIX cannot say."""
    raw = name.encode()
    escaped = raw.replace(b"%", b"%25").replace(b"\0", b"%00")
    text = b".~nx-" + (b"d-" if is_dir else b"f-") + escaped
    if len(text) > 255:
        digest = hashlib.sha256(raw).hexdigest()[:16].encode()
        start = raw[:70].replace(b"%", b"%25").replace(b"\0", b"%00")
        text = b".~nx-" + (b"D-" if is_dir else b"F-") + start + b"-" + digest
    return os.fsdecode(text)


LONG = "l" * 300
# Key, and the path that the mount shows it under.
ODD = [
    ("odd/a", "odd/" + shown("a")),
    ("odd/a/b", "odd/a/b"),
    ("odd/a//b", f"odd/a/{shown('', True)}/b"),
    ("odd/a/", "odd/a/" + shown("")),
    ("odd/..", "odd/" + shown("..")),
    ("odd/.", "odd/" + shown(".")),
    ("odd/../up", f"odd/{shown('..', True)}/up"),
    ("odd/" + LONG, "odd/" + shown(LONG)),
    ("odd/" + LONG + "/deep", f"odd/{shown(LONG, True)}/deep"),
    ("odd/" + "n" * 255, "odd/" + "n" * 255),
    ("odd/" + "n" * 256, "odd/" + shown("n" * 256)),
    ("odd/100%", "odd/100%"),
    ("odd/gr\u00fc\u00dfe \u4f60\u597d \U0001f600", "odd/gr\u00fc\u00dfe \u4f60\u597d \U0001f600"),
    ("odd/a-b", "odd/a-b"),
    ("odd/a.b", "odd/a.b"),
    ("odd/ space ", "odd/ space "),
    ("odd/back\\slash", "odd/back\\slash"),
    ("odd/+&?#*", "odd/+&?#*"),
    ("odd/.~nx-f-x", "odd/" + shown(".~nx-f-x")),
]


def odd_keys():
    for number, (key, _) in enumerate(ODD):
        put(key, b"%d" % number)
    assert keys("odd/") == sorted((key for key, _ in ODD), key=str.encode)
    for number, (key, path) in enumerate(ODD):
        assert (MOUNT / path).read_bytes() == b"%d" % number, key
        assert get(key) == b"%d" % number, key
    below = {path.split("/")[1] for _, path in ODD if path.count("/") >= 1}
    assert set(os.listdir(MOUNT / "odd")) == below, set(os.listdir(MOUNT / "odd")) ^ below
    # What is shown is what a program needs to walk, read, write and remove.
    for directory, _, files in os.walk(MOUNT / "odd"):
        for name in files:
            assert (Path(directory) / name).read_bytes().isdigit()
    for number, (key, path) in enumerate(ODD):
        if number % 2 == 0:
            (MOUNT / path).write_bytes(b"written %d" % number)
            assert get(key) == b"written %d" % number, key
            os.unlink(MOUNT / path)
            assert gone(key), key
        else:
            delete(key)
            fails(errno.ENOENT, os.stat, MOUNT / path)
    assert keys("odd/") == [], keys("odd/")
    # Nobody makes new names under the escape.
    fails(errno.EINVAL, os.mkdir, MOUNT / shown("made", True))


def both_ways():
    (MOUNT / "dir").mkdir()
    (MOUNT / "dir/file").write_bytes(b"from the mount")
    assert get("dir/file") == b"from the mount"
    put("dir/object", b"from S3")
    assert (MOUNT / "dir/object").read_bytes() == b"from S3"
    put("deep/er/est", b"x")
    assert os.listdir(MOUNT / "deep/er") == ["est"]
    delete("deep/er/est")
    fails(errno.ENOENT, os.stat, MOUNT / "deep")
    # One that mkdir made stays when it is empty.
    delete("dir/object")
    delete("dir/file")
    assert (MOUNT / "dir").is_dir() and os.listdir(MOUNT / "dir") == []
    os.rmdir(MOUNT / "dir")
    put("marker/")
    assert (MOUNT / "marker").is_dir()
    (MOUNT / "one").write_bytes(b"1")
    os.rename(MOUNT / "one", MOUNT / "two")
    assert gone("one") and get("two") == b"1"
    s3.copy_object(Bucket=BUCKET, Key="copy", CopySource={"Bucket": BUCKET, "Key": "two"})
    assert (MOUNT / "copy").read_bytes() == b"1"
    (MOUNT / "copy").write_bytes(b"2")
    assert (get("two"), get("copy")) == (b"1", b"2")
    os.link(MOUNT / "two", MOUNT / "hard")
    assert get("hard") == b"1"
    delete("two")
    assert get("hard") == b"1" and (MOUNT / "hard").stat().st_nlink == 1
    os.symlink("hard", MOUNT / "soft")
    os.mkfifo(MOUNT / "pipe")
    assert not {"soft", "pipe"} & set(keys())
    for name in ("copy", "hard", "soft", "pipe"):
        os.unlink(MOUNT / name)


def owners():
    path = MOUNT / "owned"
    path.write_bytes(b"before")
    os.chown(path, 1234, 567)
    path.chmod(0o640)
    put("owned", b"after, by S3")
    seen = path.stat()
    assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (1234, 567, 0o640)
    assert path.read_bytes() == b"after, by S3" and seen.st_size == 12
    path.unlink()


def removed_while_open():
    (MOUNT / "open").write_bytes(b"x" * 100_000)
    with open(MOUNT / "open", "rb") as file:
        delete("open")
        fails(errno.ENOENT, os.stat, MOUNT / "open")
        assert file.read() == b"x" * 100_000
        assert os.fstat(file.fileno()).st_nlink == 0


def etags():
    path, seen = MOUNT / "changing", []
    for content in (b"one", b"two", b"two"):
        path.write_bytes(content)
        seen.append(etag("changing"))
    with open(path, "r+b") as file:
        file.seek(1)
        file.write(b"W")
    seen.append(etag("changing"))
    with open(path, "ab") as file:
        file.write(b"more")
    seen.append(etag("changing"))
    os.truncate(path, 2)
    seen.append(etag("changing"))
    assert len(set(seen)) == len(seen), seen
    assert get("changing") == b"tW"
    try:
        put("changing", b"no", IfMatch=seen[0])
        raise AssertionError("a condition that does not hold held")
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    put("changing", b"yes", IfMatch=seen[-1])
    assert path.read_bytes() == b"yes"
    path.unlink()


def large():
    """Several parts of an upload, read and changed in the middle by the mount."""
    part = os.urandom(5 << 20)
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="large")["UploadId"]
    place = {"Bucket": BUCKET, "Key": "large", "UploadId": upload}
    parts = []
    for number in (1, 2):
        answer = s3.upload_part(PartNumber=number, Body=part, **place)
        parts.append({"PartNumber": number, "ETag": answer["ETag"]})
    s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **place)
    expected = bytearray(part + part)
    assert (MOUNT / "large").read_bytes() == expected
    with open(MOUNT / "large", "r+b") as file:
        file.seek((5 << 20) - 3)
        file.write(b"across")
    expected[(5 << 20) - 3 : (5 << 20) + 3] = b"across"
    assert get("large") == expected
    (MOUNT / "large").unlink()


for part in (odd_keys, both_ways, owners, removed_while_open, etags, large):
    began = time.monotonic()
    part()
    print(f"{part.__name__}: {time.monotonic() - began:.1f} s", flush=True)
