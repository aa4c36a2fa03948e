"""Five hundred clients at once: each must be served or told SlowDown; none may be dropped.

usage: crowd.py BUCKET CLIENTS ENDPOINT
"""

import sys
import threading
from collections import Counter

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError


def main() -> None:
    bucket, count, endpoint = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    outcomes: Counter[str] = Counter()
    lock = threading.Lock()
    gate = threading.Barrier(count)
    body = b"x" * 200_000
    s3 = boto3.client(
        "s3",
        endpoint_url=endpoint,
        config=Config(
            retries={"max_attempts": 1}, max_pool_connections=count, connect_timeout=30, read_timeout=60
        ),
    )

    def visit(number: int) -> None:
        gate.wait()
        for key in (f"crowd/{number}", f"crowd/{number}/again"):
            try:
                s3.put_object(Bucket=bucket, Key=key, Body=body)
                outcome = "served" if s3.get_object(Bucket=bucket, Key=key)["Body"].read() == body else "wrong"
            except ClientError as error:
                outcome = error.response["Error"]["Code"]
            except Exception as error:  # a dropped connection, a timeout
                outcome = f"dropped: {type(error).__name__}"
            with lock:
                outcomes[outcome] += 1

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(dict(outcomes))
    if set(outcomes) - {"served", "SlowDown"} or outcomes["served"] == 0:
        sys.exit(1)


if __name__ == "__main__":
    main()
