"""Checks a bucket against the journals of `load.py`.

usage: verify.py BUCKET ENDPOINT JOURNAL [JOURNAL ...]

Every key must hold its last acknowledged state or that of a later request whose outcome is open;
it is listed exactly if it holds bytes.
"""

import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError


def possible_states(journals: list[str]) -> dict[str, list[str | None]]:
    """Digests (None: absent) that each key may have. One thread owns a key, so order is known."""
    states: dict[str, list[str | None]] = {}
    for path in journals:
        open_tries: dict[str, str | None] = {}
        with open(path, encoding="utf-8") as journal:
            for line in journal:
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:
                    continue  # the writer was killed within the line: nothing was acknowledged by it
                key = entry["key"]
                if entry["event"] == "try":
                    open_tries[entry["tag"]] = entry["digest"]
                    states.setdefault(key, [None]).append(entry["digest"])
                elif entry["event"] == "ok":
                    states[key] = [open_tries[entry["tag"]]]
    return states


def main() -> None:
    bucket, endpoint, *journals = sys.argv[1:]
    s3 = boto3.client(
        "s3",
        endpoint_url=endpoint,
        config=Config(retries={"max_attempts": 4, "mode": "standard"}, max_pool_connections=16),
    )
    states = possible_states(journals)
    listed = set()
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="load/"):
        listed.update(item["Key"] for item in page.get("Contents", []))

    def check(key: str) -> str | None:
        try:
            body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
            found = hashlib.sha256(body).hexdigest()
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchKey":
                return f"{key}: {error}"
            found = None
        if found not in states[key]:
            return f"{key}: holds {found}, may hold {states[key]}"
        if (found is not None) != (key in listed):
            return f"{key}: holds {found}, listed: {key in listed}"
        return None

    with ThreadPoolExecutor(16) as pool:
        wrong = [message for message in pool.map(check, sorted(states)) if message]
    unknown = sorted(listed - set(states))
    acknowledged = sum(1 for options in states.values() if len(options) == 1)
    print(f"{len(states)} keys, {acknowledged} with a certain state, {len(wrong)} wrong, {len(unknown)} unknown")
    if wrong or unknown:
        print("\n".join(wrong[:20] + unknown[:20]), file=sys.stderr)
        sys.exit(1)
    if not states:
        sys.exit("the journals are empty: the load never ran")


if __name__ == "__main__":
    main()
