"""What programs on a mount do in a bucket that keeps versions, and what clients of S3 see of that.

    drive_versions.py MOUNT BUCKET LOCKED_MOUNT LOCKED_BUCKET
                                    (endpoint and credentials from the environment)
"""

import errno
import os
import shutil
import sys
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

MOUNT, BUCKET, LOCKED_MOUNT, LOCKED_BUCKET = sys.argv[1:]
MOUNT, LOCKED_MOUNT = Path(MOUNT), Path(LOCKED_MOUNT)
s3 = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))


def put(key, body):
    s3.put_object(Bucket=BUCKET, Key=key, Body=body)


def history(key):
    """Bytes of each version, the newest first; None before them if a delete marker hides them."""
    listed = s3.list_object_versions(Bucket=BUCKET, Prefix=key)
    markers = [one for one in listed.get("DeleteMarkers", []) if one["Key"] == key and one["IsLatest"]]
    versions = [one["VersionId"] for one in listed.get("Versions", []) if one["Key"] == key]
    return [None] * len(markers) + [read(key, version) for version in versions]


def read(key, version):
    return s3.get_object(Bucket=BUCKET, Key=key, VersionId=version)["Body"].read()


def fails(number, call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        assert error.errno == number, f"{call}{arguments}: {error}"
        return
    raise AssertionError(f"{call}{arguments} did not fail")


def check(found, wanted):
    assert found == wanted, f"{found} instead of {wanted}"


def kept():
    file = MOUNT / "file"
    file.write_bytes(b"before there were versions")
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    file.write_bytes(b"second")
    check(history("file"), [b"second", b"before there were versions"])
    put("file", b"third, by S3")
    check(file.read_bytes(), b"third, by S3")
    with file.open("ab") as more:
        more.write(b", and more")
    check(history("file"), [b"third, by S3, and more", b"third, by S3", b"second", b"before there were versions"])
    # A large one: what is kept shares its bytes.
    large = os.urandom(9 << 20)
    put("large", large)
    with (MOUNT / "large").open("r+b") as changed:
        changed.seek(4 << 20)
        changed.write(b"changed")
    now = large[: 4 << 20] + b"changed" + large[(4 << 20) + 7 :]
    check([body == wanted for body, wanted in zip(history("large"), [now, large])], [True, True])


def removed():
    file = MOUNT / "file"
    # From now on nobody is writing it.
    put("file", b"fourth")
    before = history("file")
    file.unlink()
    check(history("file"), [None, *before])
    try:
        s3.get_object(Bucket=BUCKET, Key="file")
        raise AssertionError("it is there")
    except ClientError as error:
        check(error.response["Error"]["Code"], "NoSuchKey")
    marker = s3.list_object_versions(Bucket=BUCKET, Prefix="file")["DeleteMarkers"][0]["VersionId"]
    s3.delete_object(Bucket=BUCKET, Key="file", VersionId=marker)
    check(file.read_bytes(), b"fourth")
    # What was never given back was never a version.
    (MOUNT / "brief").write_bytes(b"brief")
    (MOUNT / "brief").unlink()
    check(history("brief"), [])


def saved():
    """As editors do: beside it, and renamed."""
    document = MOUNT / "document"
    document.write_bytes(b"one")
    put("document", b"two")
    for text in [b"three", b"four"]:
        beside = MOUNT / ".document.new"
        with beside.open("xb") as new:
            new.write(text)
            os.fsync(new.fileno())
        beside.rename(document)
        put("document", text + b" by S3")
    check(document.read_bytes(), b"four by S3")
    check(history("document"), [b"four by S3", b"four", b"three by S3", b"three", b"two", b"one"])
    check(history(".document.new"), [])


def refused():
    (MOUNT / "dir/below").mkdir(parents=True)
    (MOUNT / "dir/below/a").write_bytes(b"a")
    fails(errno.EPERM, os.link, MOUNT / "file", MOUNT / "other")
    fails(errno.EXDEV, os.rename, MOUNT / "dir", MOUNT / "moved")
    shutil.move(MOUNT / "dir", MOUNT / "moved")
    check((MOUNT / "moved/below/a").read_bytes(), b"a")
    check((MOUNT / "dir").exists(), False)
    check(history("moved/below/a"), [b"a"])
    os.symlink("file", MOUNT / "link")
    os.rename(MOUNT / "link", MOUNT / "link2")
    check((MOUNT / "link2").read_bytes(), b"fourth")


def locked():
    file = LOCKED_MOUNT / "file"
    s3.put_object(Bucket=LOCKED_BUCKET, Key="file", Body=b"locked", ChecksumAlgorithm="SHA256")
    check(file.read_bytes(), b"locked")
    check([entry.name for entry in LOCKED_MOUNT.iterdir()], ["file"])
    fails(errno.EROFS, file.unlink)
    fails(errno.EROFS, (LOCKED_MOUNT / "new").touch)
    fails(errno.EROFS, os.truncate, file, 1)
    fails(errno.EROFS, file.rename, LOCKED_MOUNT / "other")


for part in [kept, removed, saved, refused, locked]:
    part()
    print(part.__name__)
