"""The S3 API of a running grid, through boto3.

Reads NEXUSGRID_S3 (the endpoint), AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (an administrator's
key). Makes buckets of its own and removes them.
"""

import base64
import datetime
import hashlib
import json
import os
import struct
import time
import urllib.error
import urllib.request
import uuid
import zlib

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

ENDPOINT = os.environ["NEXUSGRID_S3"]
MIB = 1024 * 1024
PART = 5 * MIB


def client(key=None, secret=None, signature="s3v4", **config):
    return boto3.client(
        "s3",
        endpoint_url=ENDPOINT,
        region_name="us-east-1",
        aws_access_key_id=key or os.environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=secret or os.environ["AWS_SECRET_ACCESS_KEY"],
        config=Config(
            signature_version=signature,
            s3={"addressing_style": "path"},
            retries={"max_attempts": 5, "mode": "standard"},
            **config,
        ),
    )


@pytest.fixture(scope="session")
def s3():
    return client()


def empty(s3, bucket):
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        keys = [{"Key": item["Key"]} for item in page.get("Contents", [])]
        if keys:
            s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
    for upload in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
        s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])


@pytest.fixture
def bucket(s3):
    name = f"test-{uuid.uuid4().hex[:20]}"
    s3.create_bucket(Bucket=name)
    yield name
    empty(s3, name)
    s3.delete_bucket(Bucket=name)


def refused(call, code, status=None):
    """Calls, and expects this error."""
    with pytest.raises(ClientError) as caught:
        call()
    response = caught.value.response
    found = response["Error"]["Code"]
    assert found in (code if isinstance(code, tuple) else (code,)), response
    if status is not None:
        assert response["ResponseMetadata"]["HTTPStatusCode"] == status, response
    return response


def etag_of(body):
    return f'"{hashlib.md5(body).hexdigest()}"'


def pattern(size, seed=0):
    """Bytes that differ everywhere, and differ by seed."""
    block = hashlib.sha256(str(seed).encode()).digest() * 32
    count = size // len(block) + 1
    return b"".join(struct.pack(">I", n) + block[4:] for n in range(count))[:size]


# Buckets


def test_bucket_life(s3):
    name = f"test-{uuid.uuid4().hex[:20]}"
    s3.create_bucket(Bucket=name)
    # Again is fine where nothing would change, as in S3's oldest region.
    s3.create_bucket(Bucket=name)
    refused(lambda: s3.create_bucket(Bucket=name, ACL="public-read"), "BucketAlreadyExists", 409)
    assert s3.head_bucket(Bucket=name)["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert name in [item["Name"] for item in s3.list_buckets()["Buckets"]]
    assert s3.get_bucket_location(Bucket=name)["LocationConstraint"] is None
    s3.put_object(Bucket=name, Key="k", Body=b"x")
    refused(lambda: s3.delete_bucket(Bucket=name), "BucketNotEmpty", 409)
    s3.delete_object(Bucket=name, Key="k")
    # An upload that was begun is no content, and goes along.
    s3.create_multipart_upload(Bucket=name, Key="begun")
    s3.delete_bucket(Bucket=name)
    refused(lambda: s3.head_bucket(Bucket=name), ("404", "NoSuchBucket"), 404)
    refused(lambda: s3.delete_bucket(Bucket=name), "NoSuchBucket", 404)
    refused(lambda: s3.list_objects_v2(Bucket=name), "NoSuchBucket", 404)
    refused(lambda: s3.put_object(Bucket=name, Key="k", Body=b"x"), "NoSuchBucket", 404)


def test_bucket_names_and_places(s3):
    refused(lambda: s3.create_bucket(Bucket="Upper-Case"), "InvalidBucketName", 400)
    refused(lambda: s3.create_bucket(Bucket="192.168.5.4"), "InvalidBucketName", 400)
    refused(
        lambda: s3.create_bucket(
            Bucket=f"test-{uuid.uuid4().hex[:20]}",
            CreateBucketConfiguration={"LocationConstraint": "eu-west-1"},
        ),
        "InvalidLocationConstraint",
        400,
    )


def test_list_buckets_in_pages(s3, bucket):
    second = f"{bucket}-b"
    s3.create_bucket(Bucket=second)
    try:
        seen = []
        for page in s3.get_paginator("list_buckets").paginate(
            Prefix=bucket, PaginationConfig={"PageSize": 1}
        ):
            seen += [item["Name"] for item in page["Buckets"]]
        assert seen == [bucket, second]
    finally:
        s3.delete_bucket(Bucket=second)


# Objects


@pytest.mark.parametrize(
    "size", [0, 1, 4095, 4096, 4097, 65536, 65537, 512 * 1024, 512 * 1024 + 1, 8 * MIB, 8 * MIB + 1, 20 * MIB]
)
def test_sizes(s3, bucket, size):
    body = pattern(size, size)
    stored = s3.put_object(Bucket=bucket, Key="k", Body=body)
    assert stored["ETag"] == etag_of(body)
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["ContentLength"] == size
    assert got["Body"].read() == body
    head = s3.head_object(Bucket=bucket, Key="k")
    assert (head["ContentLength"], head["ETag"]) == (size, etag_of(body))


def test_metadata_and_content_headers(s3, bucket):
    sent = dict(
        ContentType="text/plain; charset=utf-8",
        CacheControl="max-age=60",
        ContentDisposition='attachment; filename="x.txt"',
        ContentEncoding="gzip",
        ContentLanguage="de",
        Metadata={"colour": "blue", "two-words": "a b", "empty": ""},
    )
    expires = datetime.datetime(2065, 10, 21, 7, 28, tzinfo=datetime.timezone.utc)
    s3.put_object(Bucket=bucket, Key="k", Body=b"hello", Expires=expires, **sent)
    for got in (s3.head_object(Bucket=bucket, Key="k"), s3.get_object(Bucket=bucket, Key="k")):
        for name, value in sent.items():
            assert got[name] == value
        assert got["ExpiresString"] == "Wed, 21 Oct 2065 07:28:00 GMT"
        assert got["ServerSideEncryption"] == "AES256"
        assert got["AcceptRanges"] == "bytes"
    s3.put_object(Bucket=bucket, Key="plain", Body=b"x")
    assert s3.head_object(Bucket=bucket, Key="plain")["ContentType"] == "binary/octet-stream"
    refused(
        lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"a": "x" * 3000}),
        "MetadataTooLarge",
        400,
    )
    # The refused PUT changed nothing.
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"hello"


def test_response_overrides(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentType="text/plain")
    got = s3.get_object(
        Bucket=bucket,
        Key="k",
        ResponseContentType="text/html",
        ResponseCacheControl="no-store",
        ResponseContentDisposition="inline",
        ResponseContentEncoding="identity",
        ResponseContentLanguage="fr",
    )
    assert (got["ContentType"], got["CacheControl"]) == ("text/html", "no-store")
    assert (got["ContentDisposition"], got["ContentLanguage"]) == ("inline", "fr")


ODD_KEYS = [
    "a b",
    "a+b",
    "a%20b",
    "a//b",
    "/lead",
    "trail/",
    "..",
    "a/../b",
    "./a",
    "back\\slash",
    "quote'\"`",
    "<xml>&amp;",
    "q?x#y&z=1",
    "tab\tkey",
    "bell\x07",
    "ümläut",
    "日本語",
    "\U0001f600",
    "~-_.!*()",
    "a:b,c;d@e$f",
    "k" * 1024,
]


def test_odd_keys(s3, bucket):
    for number, key in enumerate(ODD_KEYS):
        s3.put_object(Bucket=bucket, Key=key, Body=str(number).encode())
    for number, key in enumerate(ODD_KEYS):
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == str(number).encode(), key
    listed = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert listed == sorted(ODD_KEYS, key=lambda key: key.encode())
    copied = s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "a+b"})
    assert copied["CopyObjectResult"]["ETag"] == etag_of(b"1")
    result = s3.delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": key} for key in ODD_KEYS if key != "bell\x07"]}
    )
    assert "Errors" not in result
    s3.delete_object(Bucket=bucket, Key="bell\x07")
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["copy"]


def test_keys_that_are_files_and_directories_at_once(s3, bucket):
    keys = ["a", "a/", "a/b", "a/b/", "a/b/c", "a//", "a-b", "a.b", "a0"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    for key in keys:
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
    listed = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert listed == sorted(keys)
    s3.delete_object(Bucket=bucket, Key="a/b")
    assert s3.get_object(Bucket=bucket, Key="a/b/c")["Body"].read() == b"a/b/c"
    refused(lambda: s3.get_object(Bucket=bucket, Key="a/b"), "NoSuchKey", 404)


def test_missing_and_overlong_keys(s3, bucket):
    refused(lambda: s3.get_object(Bucket=bucket, Key="none"), "NoSuchKey", 404)
    refused(lambda: s3.head_object(Bucket=bucket, Key="none"), ("404", "NoSuchKey"), 404)
    refused(lambda: s3.put_object(Bucket=bucket, Key="k" * 1025, Body=b""), "KeyTooLongError", 400)
    # Deleting nothing is fine.
    assert s3.delete_object(Bucket=bucket, Key="none")["ResponseMetadata"]["HTTPStatusCode"] == 204


def test_overwrite_is_seen_at_once(s3, bucket):
    for number in range(20):
        body = pattern(number * 1000, number)
        s3.put_object(Bucket=bucket, Key="k", Body=body)
        assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body
        assert s3.list_objects_v2(Bucket=bucket)["Contents"][0]["Size"] == len(body)


# Ranges


def test_ranges(s3, bucket):
    size = 9 * MIB + 123
    body = pattern(size)
    s3.put_object(Bucket=bucket, Key="k", Body=body)
    cases = [
        (0, 0),
        (0, 99),
        (65535, 65536),
        (65536, 131071),
        (8 * MIB - 1, 8 * MIB),
        (8 * MIB - 70000, 8 * MIB + 70000),
        (size - 1, size - 1),
        (size - 10, size + 1000),
        (0, size * 2),
    ]
    for first, last in cases:
        got = s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={first}-{last}")
        end = min(last, size - 1)
        assert got["ContentRange"] == f"bytes {first}-{end}/{size}"
        assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert got["Body"].read() == body[first : last + 1]
    assert s3.get_object(Bucket=bucket, Key="k", Range="bytes=100-")["Body"].read() == body[100:]
    assert s3.get_object(Bucket=bucket, Key="k", Range="bytes=-7")["Body"].read() == body[-7:]
    whole = s3.get_object(Bucket=bucket, Key="k", Range=f"bytes=-{size * 2}")
    assert whole["Body"].read() == body
    refused(lambda: s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={size}-"), "InvalidRange", 416)
    refused(lambda: s3.get_object(Bucket=bucket, Key="k", Range="bytes=-0"), "InvalidRange", 416)
    head = s3.head_object(Bucket=bucket, Key="k", Range="bytes=5-9")
    assert head["ContentLength"] == 5
    assert head["ResponseMetadata"]["HTTPStatusCode"] == 206
    s3.put_object(Bucket=bucket, Key="empty", Body=b"")
    refused(lambda: s3.get_object(Bucket=bucket, Key="empty", Range="bytes=0-0"), "InvalidRange", 416)


# Conditions


def test_conditional_reads(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    modified = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    before = modified - datetime.timedelta(hours=1)
    after = modified + datetime.timedelta(hours=1)
    fine = [
        dict(IfMatch=etag),
        dict(IfNoneMatch='"other"'),
        dict(IfModifiedSince=before),
        dict(IfUnmodifiedSince=modified),
        dict(IfUnmodifiedSince=after),
        dict(IfMatch=etag, IfUnmodifiedSince=before),
        dict(IfNoneMatch='"other"', IfModifiedSince=after),
    ]
    for condition in fine:
        assert s3.get_object(Bucket=bucket, Key="k", **condition)["Body"].read() == b"x"
        s3.head_object(Bucket=bucket, Key="k", **condition)
    for condition, status in [
        (dict(IfMatch='"other"'), 412),
        (dict(IfUnmodifiedSince=before), 412),
        (dict(IfNoneMatch=etag), 304),
        (dict(IfModifiedSince=modified), 304),
        (dict(IfMatch='"other"', IfNoneMatch=etag), 412),
    ]:
        code = ("304", "NotModified") if status == 304 else ("412", "PreconditionFailed")
        for call in (s3.get_object, s3.head_object):
            response = refused(lambda: call(Bucket=bucket, Key="k", **condition), code, status)
            if status == 304:
                assert response["ResponseMetadata"]["HTTPHeaders"]["etag"] == etag


def test_conditional_writes(s3, bucket):
    put = lambda **condition: s3.put_object(Bucket=bucket, Key="k", Body=b"x", **condition)
    refused(lambda: put(IfMatch='"x"'), "NoSuchKey", 404)
    etag = put(IfNoneMatch="*")["ETag"]
    refused(lambda: put(IfNoneMatch="*"), "PreconditionFailed", 412)
    put(IfMatch=etag)
    refused(lambda: put(IfMatch='"other"'), "PreconditionFailed", 412)
    refused(lambda: s3.delete_object(Bucket=bucket, Key="k", IfMatch='"other"'), "PreconditionFailed", 412)
    s3.delete_object(Bucket=bucket, Key="k", IfMatch=etag)
    refused(lambda: s3.head_object(Bucket=bucket, Key="k"), ("404", "NoSuchKey"), 404)


def test_only_one_of_many_creates_wins(s3, bucket):
    from concurrent.futures import ThreadPoolExecutor

    def create(number):
        try:
            s3.put_object(Bucket=bucket, Key="one", Body=str(number).encode(), IfNoneMatch="*")
            return number
        except ClientError as error:
            assert error.response["Error"]["Code"] in ("PreconditionFailed", "OperationAborted")
            return None

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(create, range(16)) if number is not None]
    assert len(winners) == 1
    assert s3.get_object(Bucket=bucket, Key="one")["Body"].read() == str(winners[0]).encode()


# Deleting many


def test_multi_delete(s3, bucket):
    keys = [f"k{number:04}" for number in range(1000)]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: s3.put_object(Bucket=bucket, Key=key, Body=b""), keys))
    result = s3.delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys[:-1]] + [{"Key": "never"}]}
    )
    assert len(result["Deleted"]) == 1000 and "Errors" not in result
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == keys[-1:]
    quiet = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": keys[-1]}], "Quiet": True})
    assert "Deleted" not in quiet
    refused(
        lambda: s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": str(n)} for n in range(1001)]}),
        "MalformedXML",
        400,
    )


def test_conditional_multi_delete(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="a", Body=b"a")["ETag"]
    s3.put_object(Bucket=bucket, Key="b", Body=b"b")
    result = s3.delete_objects(
        Bucket=bucket,
        Delete={"Objects": [{"Key": "a", "ETag": etag}, {"Key": "b", "ETag": '"other"'}]},
    )
    assert [item["Key"] for item in result["Deleted"]] == ["a"]
    assert [(item["Key"], item["Code"]) for item in result["Errors"]] == [("b", "PreconditionFailed")]


# Copies


def test_copies(s3, bucket):
    body = pattern(9 * MIB)
    s3.put_object(Bucket=bucket, Key="a", Body=body, Metadata={"v": "1"}, ContentType="text/x")
    source = {"Bucket": bucket, "Key": "a"}
    done = s3.copy_object(Bucket=bucket, Key="b", CopySource=source)
    assert done["CopyObjectResult"]["ETag"] == etag_of(body)
    got = s3.get_object(Bucket=bucket, Key="b")
    assert (got["Body"].read(), got["Metadata"], got["ContentType"]) == (body, {"v": "1"}, "text/x")
    s3.copy_object(
        Bucket=bucket,
        Key="c",
        CopySource=source,
        MetadataDirective="REPLACE",
        Metadata={"v": "2"},
        ContentType="text/y",
    )
    head = s3.head_object(Bucket=bucket, Key="c")
    assert (head["Metadata"], head["ContentType"]) == ({"v": "2"}, "text/y")
    # The copy lives on without its source.
    s3.delete_object(Bucket=bucket, Key="a")
    assert s3.get_object(Bucket=bucket, Key="b")["Body"].read() == body
    refused(lambda: s3.copy_object(Bucket=bucket, Key="d", CopySource=source), "NoSuchKey", 404)
    itself = {"Bucket": bucket, "Key": "b"}
    refused(lambda: s3.copy_object(Bucket=bucket, Key="b", CopySource=itself), "InvalidRequest", 400)
    s3.copy_object(
        Bucket=bucket, Key="b", CopySource=itself, MetadataDirective="REPLACE", Metadata={"v": "3"}
    )
    assert s3.head_object(Bucket=bucket, Key="b")["Metadata"] == {"v": "3"}
    assert s3.get_object(Bucket=bucket, Key="b")["Body"].read() == body


def test_copies_between_buckets(s3, bucket):
    other = f"{bucket}-other"
    s3.create_bucket(Bucket=other)
    try:
        for size in (0, 100, 300_000, 9 * MIB):
            body = pattern(size, size)
            s3.put_object(Bucket=bucket, Key="a", Body=body)
            s3.copy_object(Bucket=other, Key="a", CopySource={"Bucket": bucket, "Key": "a"})
            assert s3.get_object(Bucket=other, Key="a")["Body"].read() == body
    finally:
        empty(s3, other)
        s3.delete_bucket(Bucket=other)


def test_conditional_copies(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="a", Body=b"a")["ETag"]
    modified = s3.head_object(Bucket=bucket, Key="a")["LastModified"]
    source = {"Bucket": bucket, "Key": "a"}
    copy = lambda **condition: s3.copy_object(Bucket=bucket, Key="b", CopySource=source, **condition)
    copy(CopySourceIfMatch=etag)
    copy(CopySourceIfNoneMatch='"other"')
    copy(CopySourceIfUnmodifiedSince=modified)
    for condition in (
        dict(CopySourceIfMatch='"other"'),
        dict(CopySourceIfNoneMatch=etag),
        dict(CopySourceIfModifiedSince=modified),
        dict(CopySourceIfUnmodifiedSince=modified - datetime.timedelta(hours=1)),
        dict(IfNoneMatch="*"),
    ):
        refused(lambda: copy(**condition), "PreconditionFailed", 412)


# Checksums

CRC32C_TABLE = []
for byte in range(256):
    value = byte
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    CRC32C_TABLE.append(value)
CRC64_TABLE = []
for byte in range(256):
    value = byte
    for _ in range(8):
        value = value >> 1 ^ (0x9A6C9329AC4BC9B5 if value & 1 else 0)
    CRC64_TABLE.append(value)


def crc32c(body):
    value = 0xFFFFFFFF
    for byte in body:
        value = value >> 8 ^ CRC32C_TABLE[(value ^ byte) & 255]
    return struct.pack(">I", value ^ 0xFFFFFFFF)


def crc64nvme(body):
    value = 0xFFFFFFFFFFFFFFFF
    for byte in body:
        value = value >> 8 ^ CRC64_TABLE[(value ^ byte) & 255]
    return struct.pack(">Q", value ^ 0xFFFFFFFFFFFFFFFF)


def xxhash(variant, body):
    """By the C library of the SDK: Python has none of its own."""
    crt = pytest.importorskip("awscrt.checksums", reason="only awscrt computes this one")
    running = getattr(crt.XXHash, variant)()
    running.update(body)
    return running.finalize()


CHECKSUMS = {
    "CRC32": lambda body: struct.pack(">I", zlib.crc32(body)),
    "CRC32C": crc32c,
    "CRC64NVME": crc64nvme,
    "SHA1": lambda body: hashlib.sha1(body).digest(),
    "SHA256": lambda body: hashlib.sha256(body).digest(),
    "SHA512": lambda body: hashlib.sha512(body).digest(),
    "MD5": lambda body: hashlib.md5(body).digest(),
    "XXHASH64": lambda body: xxhash("new_xxhash64", body),
    "XXHASH3": lambda body: xxhash("new_xxhash3_64", body),
    "XXHASH128": lambda body: xxhash("new_xxhash3_128", body),
}


def checksum(algorithm, body):
    return base64.b64encode(CHECKSUMS[algorithm](body)).decode()


@pytest.mark.parametrize("algorithm", CHECKSUMS)
def test_checksums(s3, bucket, algorithm):
    body = pattern(70_000)
    field = f"Checksum{algorithm}"
    value = checksum(algorithm, body)
    # Given in a header; further down computed by the SDK, which sends it in a trailer.
    assert s3.put_object(Bucket=bucket, Key="header", Body=body, **{field: value})[field] == value
    for read in (s3.head_object, s3.get_object):
        got = read(Bucket=bucket, Key="header", ChecksumMode="ENABLED")
        assert (got[field], got["ChecksumType"]) == (value, "FULL_OBJECT")
    wrong = checksum(algorithm, b"other")
    refused(
        lambda: s3.put_object(Bucket=bucket, Key="wrong", Body=body, **{field: wrong}), "BadDigest", 400
    )
    refused(
        lambda: s3.put_object(Bucket=bucket, Key="wrong", Body=body, **{field: "AA=="}),
        "BadDigest",
        400,
    )
    refused(lambda: s3.head_object(Bucket=bucket, Key="wrong"), ("404", "NoSuchKey"), 404)
    if algorithm in ("CRC32C", "CRC64NVME"):
        pytest.importorskip("awscrt", reason="the SDK computes this one only with awscrt")
    # The SDK computes no MD5: who wants it brings it.
    how = {field: value} if algorithm == "MD5" else {"ChecksumAlgorithm": algorithm}
    sdk = s3.put_object(Bucket=bucket, Key="sdk", Body=body, **how)
    assert sdk[field] == value
    assert s3.get_object(Bucket=bucket, Key="sdk", ChecksumMode="ENABLED")["Body"].read() == body
    attributes = s3.get_object_attributes(
        Bucket=bucket, Key="sdk", ObjectAttributes=["Checksum", "ETag", "ObjectSize", "StorageClass"]
    )
    assert attributes["Checksum"] == {field: value, "ChecksumType": "FULL_OBJECT"}
    assert (attributes["ObjectSize"], attributes["StorageClass"]) == (len(body), "STANDARD")


def test_the_default_checksum(bucket):
    plain = client(request_checksum_calculation="when_required")
    body = pattern(1000)
    stored = plain.put_object(Bucket=bucket, Key="k", Body=body)
    assert stored["ChecksumCRC64NVME"] == checksum("CRC64NVME", body)


def test_content_md5(s3, bucket):
    good = base64.b64encode(hashlib.md5(b"body").digest()).decode()
    s3.put_object(Bucket=bucket, Key="k", Body=b"body", ContentMD5=good)
    bad = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    refused(lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"body", ContentMD5=bad), "BadDigest", 400)
    refused(lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"body", ContentMD5="x"), "InvalidDigest", 400)


def test_a_copy_can_have_another_checksum(s3, bucket):
    body = pattern(100_000)
    s3.put_object(Bucket=bucket, Key="a", Body=body, ChecksumCRC32=checksum("CRC32", body))
    copied = s3.copy_object(
        Bucket=bucket, Key="b", CopySource={"Bucket": bucket, "Key": "a"}, ChecksumAlgorithm="SHA256"
    )
    assert copied["CopyObjectResult"]["ChecksumSHA256"] == checksum("SHA256", body)
    assert s3.get_object(Bucket=bucket, Key="b")["Body"].read() == body


# Listings

TREE = ["a", "a-b", "a/1", "a/2", "a/3/x", "b", "b/1", "c d/e", "ü/x", "z//y", "z/"]


def fold(keys, prefix="", delimiter=None, after=None):
    """What S3 says a listing is: names of keys and folded prefixes, in order."""
    names = []
    for key in sorted(keys, key=lambda key: key.encode()):
        if not key.startswith(prefix):
            continue
        rest = key[len(prefix) :]
        name = key
        if delimiter and delimiter in rest:
            name = prefix + rest[: rest.index(delimiter) + len(delimiter)]
        # S3's reference, ListObjectsV2, parameter delimiter: "CommonPrefixes is filtered out from
        # results if it is not lexicographically greater than the StartAfter value" (of uploads: than
        # the key-marker). So a prefix that holds the start is left out, whatever follows in it; Ceph's
        # gateway, too, moves a marker inside a prefix to that prefix's end.
        if (after is None or name.encode() > after.encode()) and name not in names:
            names.append(name)
    return names


def names(page):
    keys = [item["Key"] for item in page.get("Contents", [])]
    folded = [item["Prefix"] for item in page.get("CommonPrefixes", [])]
    return sorted(keys + folded, key=lambda key: key.encode())


@pytest.fixture(scope="module")
def tree(s3):
    name = f"test-{uuid.uuid4().hex[:20]}"
    s3.create_bucket(Bucket=name)
    for key in TREE:
        s3.put_object(Bucket=name, Key=key, Body=key.encode())
    yield name
    empty(s3, name)
    s3.delete_bucket(Bucket=name)


@pytest.mark.parametrize("prefix", ["", "a", "a/", "a/3", "b", "nothing", "z/", "ü"])
@pytest.mark.parametrize("delimiter", [None, "/", "-", "/3/", " d", "x"])
@pytest.mark.parametrize("size", [1, 2, 1000])
def test_listings(s3, tree, prefix, delimiter, size):
    extra = {"Delimiter": delimiter} if delimiter else {}
    expected = fold(TREE, prefix, delimiter)
    for paginator in ("list_objects_v2", "list_objects"):
        seen = []
        for page in s3.get_paginator(paginator).paginate(
            Bucket=tree, Prefix=prefix, PaginationConfig={"PageSize": size}, **extra
        ):
            found = names(page)
            assert len(found) <= size
            seen += found
        assert seen == expected, paginator


@pytest.mark.parametrize("after", ["", "a", "a/1", "a/", "a/3/", "az", "b", "b/0", "zz", "z/", "ü"])
@pytest.mark.parametrize("delimiter", [None, "/"])
def test_listing_from_a_key_on(s3, tree, after, delimiter):
    extra = {"Delimiter": delimiter} if delimiter else {}
    expected = fold(TREE, "", delimiter, after or None)
    assert names(s3.list_objects_v2(Bucket=tree, StartAfter=after, **extra)) == expected
    assert names(s3.list_objects(Bucket=tree, Marker=after, **extra)) == expected


def test_what_listings_say(s3, tree):
    page = s3.list_objects_v2(Bucket=tree, MaxKeys=3)
    assert (page["KeyCount"], page["MaxKeys"], page["IsTruncated"], page["Name"]) == (3, 3, True, tree)
    first = page["Contents"][0]
    assert (first["Key"], first["Size"], first["ETag"]) == ("a", 1, etag_of(b"a"))
    assert first["StorageClass"] == "STANDARD" and "Owner" not in first
    assert "Owner" in s3.list_objects_v2(Bucket=tree, FetchOwner=True)["Contents"][0]
    assert "Owner" in s3.list_objects(Bucket=tree)["Contents"][0]
    nothing = s3.list_objects_v2(Bucket=tree, MaxKeys=0)
    assert (nothing["KeyCount"], nothing["IsTruncated"]) == (0, False)
    assert s3.list_objects_v2(Bucket=tree, MaxKeys=5000)["MaxKeys"] == 1000
    refused(lambda: s3.list_objects_v2(Bucket=tree, MaxKeys=-1), "InvalidArgument", 400)
    refused(lambda: s3.list_objects_v2(Bucket=tree, ContinuationToken="!"), "InvalidArgument", 400)


def test_more_than_a_page(s3, bucket):
    from concurrent.futures import ThreadPoolExecutor

    keys = [f"dir{number % 7}/{number:05}" for number in range(2100)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: s3.put_object(Bucket=bucket, Key=key, Body=b"x"), keys))
    seen = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        seen += [item["Key"] for item in page["Contents"]]
    assert seen == sorted(keys)


# Uploads in parts


def upload(s3, bucket, key, parts, **options):
    created = s3.create_multipart_upload(Bucket=bucket, Key=key, **options)
    chosen = []
    for number, body in parts.items():
        stored = s3.upload_part(
            Bucket=bucket, Key=key, UploadId=created["UploadId"], PartNumber=number, Body=body
        )
        assert stored["ETag"] == etag_of(body)
        chosen.append({"PartNumber": number, "ETag": stored["ETag"]})
    return created["UploadId"], chosen


def complete(s3, bucket, key, upload_id, chosen, **options):
    return s3.complete_multipart_upload(
        Bucket=bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": chosen}, **options
    )


def multipart_etag(parts):
    digest = hashlib.md5(b"".join(hashlib.md5(body).digest() for body in parts)).hexdigest()
    return f'"{digest}-{len(parts)}"'


def test_parts_of_many_sizes(s3, bucket):
    parts = {number: pattern(PART + (number * 7919) % 4096, number) for number in range(1, 21)}
    upload_id, chosen = upload(s3, bucket, "k", parts)
    complete(s3, bucket, "k", upload_id, chosen)
    sizes = [len(body) for body in parts.values()]
    assert len(set(sizes)) == 20
    start = 0
    for number, body in parts.items():
        head = s3.head_object(Bucket=bucket, Key="k", PartNumber=number)
        assert (head["ContentLength"], head["PartsCount"]) == (len(body), 20)
        if number in (1, 2, 11, 20):
            part = s3.get_object(Bucket=bucket, Key="k", PartNumber=number)
            assert part["Body"].read() == body
            assert part["ContentRange"] == f"bytes {start}-{start + len(body) - 1}/{sum(sizes)}"
        start += len(body)
    refused(lambda: s3.head_object(Bucket=bucket, Key="k", PartNumber=21), ("400", "InvalidPart"), 400)
    attributes = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["ObjectParts"])
    assert [part["Size"] for part in attributes["ObjectParts"]["Parts"]] == sizes
    attributes = s3.get_object_attributes(
        Bucket=bucket, Key="k", ObjectAttributes=["ObjectParts"], PartNumberMarker=17, MaxParts=2
    )["ObjectParts"]
    assert [part["PartNumber"] for part in attributes["Parts"]] == [18, 19]
    assert attributes["IsTruncated"] and attributes["NextPartNumberMarker"] == 19


def test_upload_in_parts(s3, bucket):
    parts = {1: pattern(PART, 1), 3: pattern(PART + 777, 3), 10_000: pattern(1234, 4)}
    upload_id, chosen = upload(
        s3, bucket, "k", parts, Metadata={"a": "1"}, ContentType="text/x"
    )
    refused(lambda: s3.head_object(Bucket=bucket, Key="k"), ("404", "NoSuchKey"), 404)
    done = complete(s3, bucket, "k", upload_id, chosen)
    assert done["ETag"] == multipart_etag(list(parts.values()))
    whole = b"".join(parts.values())
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == whole
    assert (got["Metadata"], got["ContentType"], got["ETag"]) == ({"a": "1"}, "text/x", done["ETag"])
    start = 0
    for index, body in enumerate(parts.values(), 1):
        part = s3.get_object(Bucket=bucket, Key="k", PartNumber=index)
        assert part["Body"].read() == body
        assert part["PartsCount"] == 3
        assert part["ContentRange"] == f"bytes {start}-{start + len(body) - 1}/{len(whole)}"
        head = s3.head_object(Bucket=bucket, Key="k", PartNumber=index)
        assert (head["ContentLength"], head["PartsCount"]) == (len(body), 3)
        start += len(body)
    refused(lambda: s3.get_object(Bucket=bucket, Key="k", PartNumber=4), "InvalidPart", 400)
    across = s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={PART - 5}-{PART + 4}")
    assert across["Body"].read() == whole[PART - 5 : PART + 5]
    attributes = s3.get_object_attributes(
        Bucket=bucket, Key="k", ObjectAttributes=["ObjectParts", "ObjectSize", "ETag"]
    )
    assert attributes["ObjectSize"] == len(whole)
    assert attributes["ObjectParts"]["TotalPartsCount"] == 3
    # Who did not hear the answer may ask again.
    again = complete(s3, bucket, "k", upload_id, chosen)
    assert again["ETag"] == s3.head_object(Bucket=bucket, Key="k")["ETag"]


def test_parts_can_be_replaced_and_left_out(s3, bucket):
    parts = {1: pattern(PART, 1), 2: b"old", 3: b"unused"}
    upload_id, chosen = upload(s3, bucket, "k", parts)
    new = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=2, Body=b"new")
    refused(lambda: complete(s3, bucket, "k", upload_id, chosen[:2]), "InvalidPart", 400)
    chosen[1]["ETag"] = new["ETag"]
    complete(s3, bucket, "k", upload_id, chosen[:2])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == parts[1] + b"new"


def test_wrong_completions(s3, bucket):
    parts = {1: b"small", 2: b"last"}
    upload_id, chosen = upload(s3, bucket, "k", parts)
    refused(lambda: complete(s3, bucket, "k", upload_id, chosen), "EntityTooSmall", 400)
    refused(lambda: complete(s3, bucket, "k", upload_id, chosen[::-1]), "InvalidPartOrder", 400)
    missing = [{"PartNumber": 7, "ETag": chosen[0]["ETag"]}]
    refused(lambda: complete(s3, bucket, "k", upload_id, missing), "InvalidPart", 400)
    refused(lambda: complete(s3, bucket, "k", upload_id, []), "MalformedXML", 400)
    refused(lambda: complete(s3, bucket, "k", "nonsense", chosen), "NoSuchUpload", 404)
    refused(lambda: complete(s3, bucket, "other", upload_id, chosen), "NoSuchUpload", 404)
    for number in (0, 10_001):
        refused(
            lambda: s3.upload_part(
                Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=number, Body=b"x"
            ),
            "InvalidArgument",
            400,
        )
    # It is all still there.
    complete(s3, bucket, "k", upload_id, chosen[1:])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"last"


def test_abort(s3, bucket):
    upload_id, chosen = upload(s3, bucket, "k", {1: b"x"})
    s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload_id)
    refused(lambda: complete(s3, bucket, "k", upload_id, chosen), "NoSuchUpload", 404)
    refused(lambda: s3.list_parts(Bucket=bucket, Key="k", UploadId=upload_id), "NoSuchUpload", 404)
    refused(
        lambda: s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload_id), "NoSuchUpload", 404
    )
    refused(
        lambda: s3.upload_part(Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=1, Body=b"x"),
        "NoSuchUpload",
        404,
    )


def test_lists_of_parts_and_uploads(s3, bucket):
    parts = {number: str(number).encode() for number in (1, 2, 5, 9)}
    upload_id, _ = upload(s3, bucket, "dir/b", parts)
    seen = []
    for page in s3.get_paginator("list_parts").paginate(
        Bucket=bucket, Key="dir/b", UploadId=upload_id, PaginationConfig={"PageSize": 2}
    ):
        seen += [(part["PartNumber"], part["Size"], part["ETag"]) for part in page["Parts"]]
    assert seen == [(number, len(body), etag_of(body)) for number, body in parts.items()]

    others = [upload(s3, bucket, key, {})[0] for key in ("a", "dir/b", "dir/c", "e")]
    expected = sorted(
        [("a", others[0]), ("dir/b", upload_id), ("dir/b", others[1]), ("dir/c", others[2]), ("e", others[3])]
    )
    for size in (1, 2, 1000):
        seen = []
        for page in s3.get_paginator("list_multipart_uploads").paginate(
            Bucket=bucket, PaginationConfig={"PageSize": size}
        ):
            seen += [(item["Key"], item["UploadId"]) for item in page.get("Uploads", [])]
        assert sorted(seen) == expected and [key for key, _ in seen] == [key for key, _ in expected]
    page = s3.list_multipart_uploads(Bucket=bucket, Prefix="dir/")
    assert [item["Key"] for item in page["Uploads"]] == ["dir/b", "dir/b", "dir/c"]
    page = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert [item["Key"] for item in page["Uploads"]] == ["a", "e"]
    assert [item["Prefix"] for item in page["CommonPrefixes"]] == ["dir/"]


def test_parts_are_copied(s3, bucket):
    body = pattern(12 * MIB)
    s3.put_object(Bucket=bucket, Key="source +%", Body=body)
    source = {"Bucket": bucket, "Key": "source +%"}
    created = s3.create_multipart_upload(Bucket=bucket, Key="k")
    part = dict(Bucket=bucket, Key="k", UploadId=created["UploadId"], CopySource=source)
    first = s3.upload_part_copy(PartNumber=1, CopySourceRange=f"bytes=100-{PART + 99}", **part)
    assert first["CopyPartResult"]["ETag"] == etag_of(body[100 : PART + 100])
    second = s3.upload_part_copy(PartNumber=2, **part)
    assert second["CopyPartResult"]["ETag"] == etag_of(body)
    chosen = [
        {"PartNumber": 1, "ETag": first["CopyPartResult"]["ETag"]},
        {"PartNumber": 2, "ETag": second["CopyPartResult"]["ETag"]},
    ]
    size = len(body)
    for bad, code in [
        (f"bytes=0-{size}", "InvalidRange"),
        (f"bytes={size}-{size + 1}", "InvalidRange"),
        ("bytes=0-", "InvalidArgument"),
        ("bytes=-5", "InvalidArgument"),
        ("0-5", "InvalidArgument"),
    ]:
        refused(lambda: s3.upload_part_copy(PartNumber=3, CopySourceRange=bad, **part), code)
    refused(
        lambda: s3.upload_part_copy(PartNumber=3, CopySourceIfMatch='"other"', **part),
        "PreconditionFailed",
        412,
    )
    complete(s3, bucket, "k", created["UploadId"], chosen)
    s3.delete_object(Bucket=bucket, Key="source +%")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body[100 : PART + 100] + body


@pytest.mark.parametrize(
    "algorithm,kind",
    [
        ("CRC32", "COMPOSITE"),
        ("CRC32", "FULL_OBJECT"),
        ("CRC32C", "COMPOSITE"),
        ("CRC32C", "FULL_OBJECT"),
        ("CRC64NVME", "FULL_OBJECT"),
        ("SHA1", "COMPOSITE"),
        ("SHA256", "COMPOSITE"),
        ("SHA512", "COMPOSITE"),
        ("MD5", "COMPOSITE"),
        ("XXHASH64", "COMPOSITE"),
        ("XXHASH3", "COMPOSITE"),
        ("XXHASH128", "COMPOSITE"),
    ],
)
def test_checksums_of_uploads(s3, bucket, algorithm, kind):
    field = f"Checksum{algorithm}"
    # The slow CRCs in Python get small parts: one that is large enough, of zeroes, and a tail.
    parts = [bytes(PART), pattern(5000, 2)]
    created = s3.create_multipart_upload(
        Bucket=bucket, Key="k", ChecksumAlgorithm=algorithm, ChecksumType=kind
    )
    assert (created["ChecksumAlgorithm"], created["ChecksumType"]) == (algorithm, kind)
    chosen, raw = [], []
    for number, body in enumerate(parts, 1):
        value = checksum(algorithm, body)
        raw.append(base64.b64decode(value))
        part = dict(Bucket=bucket, Key="k", UploadId=created["UploadId"], PartNumber=number, Body=body)
        refused(
            lambda: s3.upload_part(**part, **{field: checksum(algorithm, b"other")}), "BadDigest", 400
        )
        stored = s3.upload_part(**part, **{field: value})
        assert stored[field] == value
        chosen.append({"PartNumber": number, "ETag": stored["ETag"], field: value})
    listed = s3.list_parts(Bucket=bucket, Key="k", UploadId=created["UploadId"])
    assert [part[field] for part in listed["Parts"]] == [part[field] for part in chosen]
    if kind == "COMPOSITE":
        digest = base64.b64encode(CHECKSUMS[algorithm](b"".join(raw))).decode()
        expected = f"{digest}-{len(parts)}"
    else:
        expected = checksum(algorithm, b"".join(parts))
    wrong = [dict(chosen[0], **{field: checksum(algorithm, b"other")}), chosen[1]]
    refused(lambda: complete(s3, bucket, "k", created["UploadId"], wrong), ("BadDigest", "InvalidPart"), 400)
    done = complete(s3, bucket, "k", created["UploadId"], chosen, ChecksumType=kind)
    assert (done[field], done["ChecksumType"]) == (expected, kind)
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (head[field], head["ChecksumType"]) == (expected, kind)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"".join(parts)


def test_impossible_checksums_of_uploads(s3, bucket):
    for algorithm, kind in [
        ("SHA256", "FULL_OBJECT"),
        ("XXHASH3", "FULL_OBJECT"),
        ("MD5", "FULL_OBJECT"),
        ("CRC64NVME", "COMPOSITE"),
    ]:
        refused(
            lambda: s3.create_multipart_upload(
                Bucket=bucket, Key="k", ChecksumAlgorithm=algorithm, ChecksumType=kind
            ),
            "InvalidRequest",
            400,
        )


def test_conditional_completion(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"first")
    upload_id, chosen = upload(s3, bucket, "k", {1: b"second"})
    refused(
        lambda: complete(s3, bucket, "k", upload_id, chosen, IfNoneMatch="*"), "PreconditionFailed", 412
    )
    refused(
        lambda: complete(s3, bucket, "k", upload_id, chosen, MpuObjectSize=7), "InvalidRequest", 400
    )
    complete(s3, bucket, "k", upload_id, chosen, IfMatch=etag_of(b"first"), MpuObjectSize=6)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"second"


def test_managed_transfers(s3, bucket, tmp_path):
    from boto3.s3.transfer import TransferConfig

    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(pattern(33 * MIB + 17))
    config = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB, max_concurrency=4)
    s3.upload_file(str(source), bucket, "big", Config=config)
    s3.download_file(bucket, "big", str(target), Config=config)
    assert source.read_bytes() == target.read_bytes()
    s3.copy({"Bucket": bucket, "Key": "big"}, bucket, "copy", Config=config)
    s3.download_file(bucket, "copy", str(target), Config=config)
    assert source.read_bytes() == target.read_bytes()


# Presigned URLs and signatures


def fetch(method, url, body=None):
    request = urllib.request.Request(url, data=body, method=method)
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_presigned_urls(s3, bucket):
    sign = lambda operation, seconds=60, **parameters: s3.generate_presigned_url(
        operation, Params={"Bucket": bucket, "Key": "k ü", **parameters}, ExpiresIn=seconds
    )
    assert fetch("PUT", sign("put_object"), b"hello")[0] == 200
    assert fetch("GET", sign("get_object")) == (200, b"hello")
    assert fetch("GET", sign("get_object", 604_800)) == (200, b"hello")
    status, reply = fetch("GET", sign("get_object", 604_801))
    assert status == 403, reply
    url = sign("get_object")
    assert fetch("DELETE", url)[0] == 403
    assert fetch("GET", url.replace("Signature=", "Signature=0"))[0] in (400, 403)
    assert fetch("GET", url + "&response-content-type=text/html")[0] == 403
    assert fetch("GET", f"{ENDPOINT}/{bucket}/k")[0] == 403
    assert fetch("DELETE", sign("delete_object"))[0] == 204


def test_wrong_credentials(bucket):
    refused(lambda: client(secret="wrong").list_objects_v2(Bucket=bucket), "SignatureDoesNotMatch", 403)
    refused(lambda: client(key="NOSUCHKEY").list_objects_v2(Bucket=bucket), "InvalidAccessKeyId", 403)
    refused(lambda: client(signature="s3").list_objects_v2(Bucket=bucket), "AccessDenied", 403)


def test_expected_owner(s3, bucket):
    refused(
        lambda: s3.list_objects_v2(Bucket=bucket, ExpectedBucketOwner="111122223333"), "AccessDenied", 403
    )


# Lists of objects, forms, renames


def test_object_lists(s3, bucket):
    of = dict(Bucket=bucket, Key="k")
    url = f"{ENDPOINT}/{bucket}/k"
    s3.put_object(**of, Body=b"x", ACL="public-read")
    assert urllib.request.urlopen(url).read() == b"x"
    acl = s3.get_object_acl(**of)
    assert [grant["Permission"] for grant in acl["Grants"]] == ["READ", "FULL_CONTROL"]
    s3.put_object_acl(**of, ACL="private")
    with pytest.raises(urllib.error.HTTPError) as closed:
        urllib.request.urlopen(url)
    assert closed.value.code == 403
    refused(lambda: s3.put_object_acl(**of, GrantRead='id="x"'), "InvalidArgument", 400)
    listed = s3.list_objects_v2(Bucket=bucket, FetchOwner=True)["Contents"]
    assert listed[0]["Owner"] == acl["Owner"]


def post(form, body, **more):
    """Sends a form as a browser does."""
    edge = "----" + uuid.uuid4().hex
    text = b""
    for name, value in (form["fields"] | more).items():
        text += f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    text += f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="a b.txt"\r\n\r\n'.encode()
    text += body + f"\r\n--{edge}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    request = urllib.request.Request(form["url"], data=text, headers=kind, method="POST")
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def test_forms(s3, bucket):
    limit = [["content-length-range", 1, 20 * MIB]]
    form = s3.generate_presigned_post(bucket, "up/${filename}", Conditions=limit, ExpiresIn=60)
    for body in (b"small\r\n--", pattern(12 * MIB)):
        assert post(form, body) == 204
        assert s3.get_object(Bucket=bucket, Key="up/a b.txt")["Body"].read() == body
    assert post(form, b"") == 400
    assert post(form, b"x", acl="public-read") == 403
    assert post(form, b"x", key="elsewhere") == 403
    signature = {"x-amz-signature": "0" * 64}
    assert post(form, b"x", **signature) == 403


def test_rename_and_deletes_on_condition(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="a/old", Body=b"x", Metadata={"m": "1"})["ETag"]
    renamed = dict(Bucket=bucket, Key="b/new", RenameSource="a/old")
    s3.rename_object(**renamed)
    assert s3.head_object(Bucket=bucket, Key="b/new")["Metadata"] == {"m": "1"}
    refused(lambda: s3.rename_object(**renamed), "NoSuchKey", 404)
    s3.rename_object(Bucket=bucket, Key="a/old", RenameSource=f"/{bucket}/b/new")
    refused(lambda: s3.delete_object(Bucket=bucket, Key="a/old", IfMatch="bad"), "PreconditionFailed", 412)
    objects = [{"Key": "a/old", "Size": 2}, {"Key": "none", "Size": 2}]
    done = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects})
    assert done["Errors"][0]["Code"] == "PreconditionFailed" and len(done["Deleted"]) == 1
    s3.delete_object(Bucket=bucket, Key="a/old", IfMatch=etag)
    refused(lambda: s3.head_object(Bucket=bucket, Key="a/old"), ("404", "NoSuchKey"), 404)


# Appends, web sites


def test_appends_at_their_offset(s3, bucket):
    append = lambda offset, body, **more: s3.put_object(
        Bucket=bucket, Key="log", Body=body, WriteOffsetBytes=offset, **more)
    first = append(0, b"0123")
    assert "Size" not in first
    second = append(4, bytes(5_000), IfMatch=first["ETag"])
    assert second["Size"] == 5_004 and second["ETag"] != first["ETag"]
    for wrong in (0, 4, 5_005):
        refused(lambda: append(wrong, b"x"), "InvalidWriteOffset", 400)
    refused(lambda: append(5_004, b"x", IfMatch=first["ETag"]), "PreconditionFailed", 412)
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/log")
    third = append(5_004, bytes(700_000))
    got = s3.get_object(Bucket=bucket, Key="log", ChecksumMode="ENABLED")
    assert got["Body"].read() == b"0123" + bytes(705_000)
    assert got["ETag"] == third["ETag"] and got["ChecksumType"] == "FULL_OBJECT"
    assert s3.get_object(Bucket=bucket, Key="copy")["ContentLength"] == 5_004


def test_a_web_site_is_laid_down_and_taken_away(s3, bucket):
    one = dict(Bucket=bucket)
    refused(lambda: s3.get_bucket_website(**one), "NoSuchWebsiteConfiguration", 404)
    site = {
        "IndexDocument": {"Suffix": "index.html"},
        "RoutingRules": [{"Condition": {"KeyPrefixEquals": "a/"}, "Redirect": {"ReplaceKeyPrefixWith": "b/"}}],
    }
    s3.put_bucket_website(**one, WebsiteConfiguration=site)
    got = s3.get_bucket_website(**one)
    assert got["RoutingRules"] == site["RoutingRules"] and got["IndexDocument"] == site["IndexDocument"]
    s3.put_object(**one, Key="k", Body=b"x", WebsiteRedirectLocation="/other")
    assert s3.head_object(**one, Key="k")["WebsiteRedirectLocation"] == "/other"
    s3.delete_bucket_website(**one)
    refused(lambda: s3.get_bucket_website(**one), "NoSuchWebsiteConfiguration", 404)


# What is not there


def test_not_implemented_operations(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    one = dict(Bucket=bucket)
    of = dict(Bucket=bucket, Key="k")
    calls = [
        lambda: s3.get_bucket_replication(**one),
        lambda: s3.restore_object(**of, RestoreRequest={"Days": 1}),
    ]
    for number, call in enumerate(calls):
        try:
            refused(call, "NotImplemented", 501)
        except (AssertionError, pytest.fail.Exception) as error:
            raise AssertionError(f"call {number}") from error
    assert s3.get_object(**of)["Body"].read() == b"x"


def test_versions(s3, bucket):
    of = dict(Bucket=bucket, Key="dir/k")
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    s3.put_object(**of, Body=b"null", Tagging="a=1")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    ids = [s3.put_object(**of, Body=body)["VersionId"] for body in (b"one", b"two")]
    marker = s3.delete_object(**of)
    assert marker["DeleteMarker"]
    refused(lambda: s3.get_object(**of), "NoSuchKey", 404)
    for version, body in zip(["null", *ids], (b"null", b"one", b"two")):
        assert s3.get_object(**of, VersionId=version)["Body"].read() == body
    assert s3.get_object_tagging(**of, VersionId="null")["TagSet"] == [{"Key": "a", "Value": "1"}]
    s3.put_object_tagging(**of, VersionId=ids[0], Tagging={"TagSet": [{"Key": "b", "Value": "2"}]})
    assert s3.head_object(**of, VersionId=ids[0])["TagCount"] == 1
    seen = []
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, PaginationConfig={"PageSize": 1}):
        seen += [entry["VersionId"] for entry in page.get("DeleteMarkers", []) + page.get("Versions", [])]
    assert seen == [marker["VersionId"], ids[1], ids[0], "null"]
    refused(lambda: s3.delete_bucket(Bucket=bucket), "BucketNotEmpty", 409)
    s3.delete_object(**of, VersionId=marker["VersionId"])
    assert s3.get_object(**of)["Body"].read() == b"two"
    gone = s3.delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": "dir/k", "VersionId": version} for version in seen[1:]]}
    )
    assert len(gone["Deleted"]) == 3 and "Errors" not in gone
    assert "Versions" not in s3.list_object_versions(Bucket=bucket)


def test_object_lock(s3, bucket):
    locked = f"{bucket}-lock"
    s3.create_bucket(Bucket=locked, ObjectLockEnabledForBucket=True)
    of = dict(Bucket=locked, Key="k")
    until = datetime.datetime(2040, 1, 1, tzinfo=datetime.timezone.utc)
    stored = s3.put_object(
        **of, Body=b"x", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=until
    )
    named = dict(**of, VersionId=stored["VersionId"])
    assert s3.get_object_retention(**named)["Retention"]["RetainUntilDate"] == until
    s3.put_object_legal_hold(**named, LegalHold={"Status": "ON"})
    refused(lambda: s3.delete_object(**named, BypassGovernanceRetention=True), "AccessDenied", 403)
    s3.put_object_legal_hold(**named, LegalHold={"Status": "OFF"})
    refused(lambda: s3.delete_object(**named), "AccessDenied", 403)
    s3.delete_object(**named, BypassGovernanceRetention=True)
    s3.delete_bucket(Bucket=locked)


def test_not_implemented_headers(s3, bucket):
    for options in (
        dict(ACL="aws-exec-read"),
        dict(ServerSideEncryption="aws:kms:dsse"),
    ):
        refused(lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"x", **options), "NotImplemented", 501)
        refused(
            lambda: s3.create_multipart_upload(Bucket=bucket, Key="k", **options), "NotImplemented", 501
        )
    refused(lambda: s3.head_object(Bucket=bucket, Key="k"), ("404", "NoSuchKey"), 404)
    s3.put_object(
        Bucket=bucket,
        Key="k",
        Body=b"x",
        ACL="private",
        ServerSideEncryption="AES256",
        StorageClass="STANDARD",
    )


def test_lifecycle_rules(s3, bucket):
    """The grid takes two seconds for a day; headers speak of real ones."""
    name, missing = dict(Bucket=bucket), "NoSuchLifecycleConfiguration"
    refused(lambda: s3.get_bucket_lifecycle_configuration(**name), missing, 404)
    rule = {"Status": "Enabled", "Filter": {"Prefix": "old/"}, "Expiration": {"Days": 1}}

    def lay_down(*rules):
        s3.put_bucket_lifecycle_configuration(**name, LifecycleConfiguration={"Rules": list(rules)})

    refused(lambda: lay_down(rule | {"Expiration": {"Days": 0}}), "InvalidArgument", 400)
    refused(lambda: lay_down(rule | {"ID": "a"}, rule | {"ID": "a"}), "InvalidArgument", 400)
    refused(lambda: lay_down(rule | {"Status": "enabled"}), "MalformedXML", 400)
    s3.put_object(**name, Key="old/before", Body=b"x")
    upload = s3.create_multipart_upload(**name, Key="old/upload")["UploadId"]
    s3.put_object(**name, Key="new/kept", Body=b"x")
    lay_down(rule | {"ID": "gone", "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}})
    got = s3.get_bucket_lifecycle_configuration(**name)
    assert got["Rules"][0]["Expiration"] == {"Days": 1}
    put = s3.put_object(**name, Key="old/after", Body=b"x")
    assert 'rule-id="gone"' in put["Expiration"]
    assert "Expiration" not in s3.head_object(**name, Key="new/kept")
    deadline = time.monotonic() + 60
    while True:
        left = [item["Key"] for item in s3.list_objects_v2(**name)["Contents"]]
        uploads = s3.list_multipart_uploads(**name).get("Uploads", [])
        if left == ["new/kept"] and not uploads:
            break
        assert time.monotonic() < deadline, (left, uploads, upload)
        time.sleep(0.2)
    s3.delete_bucket_lifecycle(**name)
    refused(lambda: s3.get_bucket_lifecycle_configuration(**name), missing, 404)


def test_storage_classes(s3, bucket):
    name, body = dict(Bucket=bucket), os.urandom(2 * MIB)
    for class_ in ("GLACIER", "STANDARD_IA", "replicated"):
        put = lambda: s3.put_object(**name, Key="k", Body=b"x", StorageClass=class_)
        refused(put, "InvalidStorageClass", 400)
    s3.put_object(**name, Key="copies", Body=body, StorageClass="REPLICATED")
    assert s3.head_object(**name, Key="copies")["StorageClass"] == "REPLICATED"
    s3.copy_object(**name, Key="coded", CopySource=f"{bucket}/copies")
    assert "StorageClass" not in s3.head_object(**name, Key="coded")
    moves = [{"Days": 1, "StorageClass": "REPLICATED"}]
    rules = [{"ID": "a", "Status": "Enabled", "Prefix": "coded", "Transitions": moves}]
    s3.put_bucket_lifecycle_configuration(**name, LifecycleConfiguration={"Rules": rules})
    deadline = time.monotonic() + 60
    while {item["StorageClass"] for item in s3.list_objects_v2(**name)["Contents"]} != {"REPLICATED"}:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    for key in ("copies", "coded"):
        assert s3.get_object(**name, Key=key)["Body"].read() == body


def test_every_reply_has_a_request_id(s3, bucket):
    good = s3.head_bucket(Bucket=bucket)["ResponseMetadata"]
    bad = refused(lambda: s3.get_object(Bucket=bucket, Key="none"), "NoSuchKey")["ResponseMetadata"]
    ids = [reply["HTTPHeaders"]["x-amz-request-id"] for reply in (good, bad)]
    assert len(set(ids)) == 2 and all(len(text) == 16 for text in ids)


# Who may do what


def service(name, key=None, secret=None, token=None):
    return boto3.client(
        name,
        endpoint_url=ENDPOINT,
        region_name="us-east-1",
        aws_access_key_id=key or os.environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=secret or os.environ["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=token,
        config=Config(s3={"addressing_style": "path"}),
    )


def policy(bucket, *actions):
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": resources}
    return {"Version": "2012-10-17", "Statement": [statement]}


def test_users_and_roles_may_what_their_policies_say(s3, bucket):
    iam, sts = service("iam"), service("sts")
    name = f"ann-{uuid.uuid4().hex[:8]}"
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    user = iam.create_user(UserName=name, Path="/team/")["User"]
    refused(lambda: iam.create_user(UserName=name.upper()), "EntityAlreadyExists", 409)
    assert sts.get_caller_identity()["Arn"].endswith(":root")
    made = iam.create_access_key(UserName=name)["AccessKey"]
    mine = service("s3", made["AccessKeyId"], made["SecretAccessKey"])
    refused(lambda: mine.get_object(Bucket=bucket, Key="k"), "AccessDenied", 403)
    document = json.dumps(policy(bucket, "s3:GetObject"))
    iam.put_user_policy(UserName=name, PolicyName="read", PolicyDocument=document)
    assert mine.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    refused(lambda: mine.put_object(Bucket=bucket, Key="k", Body=b"y"), "AccessDenied", 403)
    refused(
        lambda: service("iam", made["AccessKeyId"], made["SecretAccessKey"]).list_users(), "AccessDenied", 403
    )

    trusted = {"Effect": "Allow", "Principal": {"AWS": user["Arn"]}, "Action": "sts:AssumeRole"}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [trusted]})
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]
    document = json.dumps(policy(bucket, "s3:PutObject", "s3:GetObject"))
    iam.put_role_policy(RoleName=name, PolicyName="write", PolicyDocument=document)
    got = service("sts", made["AccessKeyId"], made["SecretAccessKey"]).assume_role(
        RoleArn=role["Arn"], RoleSessionName="nightly", Policy=json.dumps(policy(bucket, "s3:PutObject"))
    )["Credentials"]
    session = service("s3", got["AccessKeyId"], got["SecretAccessKey"], got["SessionToken"])
    session.put_object(Bucket=bucket, Key="k", Body=b"by the role")
    refused(lambda: session.get_object(Bucket=bucket, Key="k"), "AccessDenied", 403)
    iam.delete_role_policy(RoleName=name, PolicyName="write")
    iam.delete_role(RoleName=name)
    refused(lambda: session.put_object(Bucket=bucket, Key="k", Body=b"z"), "InvalidToken")

    iam.delete_access_key(UserName=name, AccessKeyId=made["AccessKeyId"])
    refused(lambda: mine.get_object(Bucket=bucket, Key="k"), "InvalidAccessKeyId", 403)
    iam.delete_user_policy(UserName=name, PolicyName="read")
    iam.delete_user(UserName=name)
    refused(lambda: iam.get_user(UserName=name), "NoSuchEntity", 404)


def test_a_bucket_policy_opens_and_a_block_closes(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    url = f"{ENDPOINT}/{bucket}/k"

    def anonymous():
        try:
            return urllib.request.urlopen(url).status
        except urllib.error.HTTPError as error:
            return error.code

    assert anonymous() == 403
    document = policy(bucket, "s3:GetObject")
    document["Statement"][0]["Principal"] = "*"
    document["Statement"][0]["Resource"] = f"arn:aws:s3:::{bucket}/*"
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(document))
    assert anonymous() == 200
    assert s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"]
    block = {"RestrictPublicBuckets": True}
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=block)
    assert anonymous() == 403
    s3.delete_public_access_block(Bucket=bucket)
    s3.delete_bucket_policy(Bucket=bucket)
    assert anonymous() == 403
    refused(lambda: s3.put_bucket_policy(Bucket=bucket, Policy="{}"), "MalformedPolicy", 400)


# Keys besides the grid's own


def test_keys_of_clients(s3, bucket):
    mine = dict(SSECustomerAlgorithm="AES256", SSECustomerKey=os.urandom(32))
    other = dict(SSECustomerAlgorithm="AES256", SSECustomerKey=os.urandom(32))
    for size in (3, 100_000, 700_000):
        body = pattern(size)
        assert s3.put_object(Bucket=bucket, Key="k", Body=body, **mine)["ETag"] != etag_of(body)
        assert s3.get_object(Bucket=bucket, Key="k", **mine)["Body"].read() == body
        for wrong in ({}, other):
            refused(lambda: s3.get_object(Bucket=bucket, Key="k", **wrong), "InvalidRequest", 400)
    ranged = s3.get_object(Bucket=bucket, Key="k", Range="bytes=99999-600000", **mine)
    assert ranged["Body"].read() == body[99999:600001]
    # Parts, and copies of parts.
    large = pattern(PART + 70_001, 1)
    upload = s3.create_multipart_upload(Bucket=bucket, Key="up", **mine)["UploadId"]
    named = dict(Bucket=bucket, Key="up", UploadId=upload, **mine)
    source = {f"CopySource{name}": value for name, value in mine.items()}
    first = s3.upload_part(PartNumber=1, Body=large, **named)["ETag"]
    copied = s3.upload_part_copy(
        PartNumber=2, CopySource={"Bucket": bucket, "Key": "k"}, **source, **named
    )["CopyPartResult"]["ETag"]
    parts = [{"PartNumber": 1, "ETag": first}, {"PartNumber": 2, "ETag": copied}]
    s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **named)
    whole = large + body
    assert s3.get_object(Bucket=bucket, Key="up", **mine)["Body"].read() == whole
    across = f"bytes={len(large) - 9}-{len(large) + 9}"
    got = s3.get_object(Bucket=bucket, Key="up", Range=across, **mine)["Body"].read()
    assert got == whole[len(large) - 9 : len(large) + 10]
    s3.copy_object(Bucket=bucket, Key="to", CopySource={"Bucket": bucket, "Key": "up"}, **source, **other)
    assert s3.get_object(Bucket=bucket, Key="to", **other)["Body"].read() == whole


def test_keys_by_name(s3, bucket):
    kms = service("kms")
    about = kms.create_key(Description="of a test")["KeyMetadata"]
    arn, alias = about["Arn"], f"alias/{bucket}"
    kms.create_alias(AliasName=alias, TargetKeyId=about["KeyId"])
    managed = dict(ServerSideEncryption="aws:kms", SSEKMSKeyId=alias)
    body = pattern(700_000)
    assert s3.put_object(Bucket=bucket, Key="k", Body=body, **managed)["SSEKMSKeyId"] == arn
    kms.rotate_key_on_demand(KeyId=arn)
    default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": arn}
    rules = {"Rules": [{"ApplyServerSideEncryptionByDefault": default}]}
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=rules)
    assert s3.put_object(Bucket=bucket, Key="by default", Body=body)["SSEKMSKeyId"] == arn
    for key in ("k", "by default"):
        got = s3.get_object(Bucket=bucket, Key=key)
        assert (got["Body"].read(), got["ServerSideEncryption"]) == (body, "aws:kms")
    sealed = kms.encrypt(KeyId=alias, Plaintext=b"few", EncryptionContext={"a": "b"})
    assert kms.decrypt(CiphertextBlob=sealed["CiphertextBlob"], EncryptionContext={"a": "b"})["Plaintext"] == b"few"
    kms.disable_key(KeyId=arn)
    refused(lambda: s3.get_object(Bucket=bucket, Key="k"), "KMS.DisabledException", 400)
    assert kms.describe_key(KeyId=alias)["KeyMetadata"]["KeyState"] == "Disabled"
    kms.enable_key(KeyId=arn)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body
    kms.delete_alias(AliasName=alias)
    kms.schedule_key_deletion(KeyId=arn, PendingWindowInDays=7)
    s3.delete_bucket_encryption(Bucket=bucket)
