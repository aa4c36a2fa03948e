"""A large PUT and GET, and an upload of many parts, streamed: the client holds little either.

usage: large.py BUCKET ENDPOINT MEBIBYTES PARTS
"""

import hashlib
import io
import random
import sys
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config

CHUNK = 1 << 20


class Pseudorandom(io.RawIOBase):
    """A seekable file of `size` bytes, chunk by chunk from a seed."""

    def __init__(self, size: int) -> None:
        self.size, self.at = size, 0
        self.pool = [random.Random(n).randbytes(CHUNK) for n in range(7)]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = {0: 0, 1: self.at, 2: self.size}[whence] + offset
        return self.at

    def tell(self) -> int:
        return self.at

    def __len__(self) -> int:
        return self.size

    def readinto(self, buffer) -> int:
        number, offset = divmod(self.at, CHUNK)
        count = min(len(buffer), CHUNK - offset, self.size - self.at)
        buffer[:count] = self.pool[number % 7][offset : offset + count]
        self.at += count
        return count


def digest(stream) -> str:
    sha = hashlib.sha256()
    while data := stream.read(CHUNK):
        sha.update(data)
    return sha.hexdigest()


def main() -> None:
    bucket, endpoint = sys.argv[1], sys.argv[2]
    size, parts = int(sys.argv[3]) << 20, int(sys.argv[4])
    s3 = boto3.client(
        "s3",
        endpoint_url=endpoint,
        config=Config(
            max_pool_connections=16,
            read_timeout=120,
            s3={"payload_signing_enabled": False},
            request_checksum_calculation="when_required",
        ),
    )
    expected = digest(Pseudorandom(size))
    s3.put_object(Bucket=bucket, Key="large/one", Body=Pseudorandom(size), ContentLength=size)
    got = digest(s3.get_object(Bucket=bucket, Key="large/one")["Body"])
    if got != expected:
        sys.exit(f"the large object changed: {expected} {got}")
    print(f"PUT and GET of {size} bytes: equal")

    upload = s3.create_multipart_upload(Bucket=bucket, Key="large/parts")["UploadId"]
    part_body = random.Random("part").randbytes(5 << 20)
    tail = b"the last part may be small"

    def put_part(number: int) -> dict:
        # The parts' bodies are equal but for the source: most are copied by link, which is quick.
        if number == parts:
            answer = s3.upload_part(Bucket=bucket, Key="large/parts", UploadId=upload, PartNumber=number, Body=tail)
            return {"PartNumber": number, "ETag": answer["ETag"]}
        answer = s3.upload_part_copy(
            Bucket=bucket,
            Key="large/parts",
            UploadId=upload,
            PartNumber=number,
            CopySource={"Bucket": bucket, "Key": "large/source"},
        )
        return {"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]}

    s3.put_object(Bucket=bucket, Key="large/source", Body=part_body)
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(put_part, range(1, parts + 1)))
    s3.complete_multipart_upload(
        Bucket=bucket, Key="large/parts", UploadId=upload, MultipartUpload={"Parts": done}
    )
    length = s3.head_object(Bucket=bucket, Key="large/parts")["ContentLength"]
    if length != (parts - 1) * len(part_body) + len(tail):
        sys.exit(f"the object of {parts} parts has {length} bytes")
    middle = (parts // 2) * len(part_body)
    window = s3.get_object(Bucket=bucket, Key="large/parts", Range=f"bytes={middle - 10}-{middle + 9}")["Body"].read()
    if window != part_body[-10:] + part_body[:10]:
        sys.exit("a range across two parts is wrong")
    end = s3.get_object(Bucket=bucket, Key="large/parts", Range=f"bytes=-{len(tail)}")["Body"].read()
    if end != tail:
        sys.exit("the last part is wrong")
    print(f"an upload of {parts} parts: complete, ranges right")


if __name__ == "__main__":
    main()
