"""A hundred writers race for one key by conditional writes, over several gateways: of each round one
wins, and only one, whatever dies meanwhile.

usage: race.py BUCKET ROUNDS WRITERS ENDPOINT...

Prints `round N` after each round. Odd rounds make a new key (If-None-Match: *), even ones replace what
the round before wrote (If-Match). A writer that is not told what became of its write looks: whoever
sees its own words there has won.
"""

import random
import sys
import threading

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError


def main() -> None:
    bucket, rounds, writers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    config = Config(retries={"max_attempts": 1}, max_pool_connections=writers, read_timeout=30)
    doors = [boto3.client("s3", endpoint_url=endpoint, config=config) for endpoint in sys.argv[4:]]
    etag = None
    for number in range(1, rounds + 1):
        is_new = number % 2 == 1
        key = f"race-{(number + 1) // 2}"
        condition = {"IfNoneMatch": "*"} if is_new else {"IfMatch": etag}
        won, unknown, told = [], [], []
        gate = threading.Barrier(writers)

        def write(writer: int) -> None:
            gate.wait()
            body = f"{number}/{writer}"
            while True:
                try:
                    doors[writer % len(doors)].put_object(
                        Bucket=bucket, Key=key, Body=body.encode(), **condition
                    )
                    return won.append(body)
                except ClientError as error:
                    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                    if status == 412:
                        return None
                    # Somebody else is at it: to be tried again.
                    if status == 409 or error.response["Error"]["Code"] == "SlowDown":
                        continue
                    told.append(str(error))
                    return unknown.append(body)
                except BotoCoreError:
                    return unknown.append(body)

        threads = [threading.Thread(target=write, args=[writer]) for writer in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stored = None
        while stored is None:
            try:
                stored = random.choice(doors).get_object(Bucket=bucket, Key=key)
            except (ClientError, BotoCoreError):
                continue
        found = stored["Body"].read().decode()
        etag = stored["ETag"]
        assert len(won) <= 1, f"round {number}: {won} all won"
        assert found in won + unknown, f"round {number}: {found} is there, {won} won; {told}"
        assert not won or found == won[0], f"round {number}: {won} won, {found} is there"
        print(f"round {number}", flush=True)


main()
