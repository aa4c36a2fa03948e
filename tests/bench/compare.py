"""What an operation costs in two builds, one after the other in turn, so that what else the machine does
falls on both.

usage: compare.py OLD NEW [ROUNDS [SECONDS]]

OLD and NEW are directories that hold `nexusgrid` and `nexusgrid-bench`, the same bench in both. Prints the
medians of the CPU of all nodes per operation, and of the rounds' ratios.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

WORKLOADS = "PUT 4 KiB,PUT 1 MiB,GET 4 KiB,GET 1 MiB"


def measure(build: Path, seconds: str) -> dict[str, float]:
    """CPU of one round by workload, in milliseconds per operation."""
    command = [build / "nexusgrid-bench", "--json", "--only", WORKLOADS, "--seconds", seconds]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {
        f"{line['workload']}, {line['clients']} clients": line["server_cpu_ms_per_operation"]
        for line in lines
        if "workload" in line
    }


def main() -> None:
    old, new = Path(sys.argv[1]), Path(sys.argv[2])
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 7
    seconds = sys.argv[4] if len(sys.argv) > 4 else "5"
    costs: dict[str, list[tuple[float, float]]] = {}
    for number in range(1, rounds + 1):
        # Who comes first changes, too.
        if number % 2:
            before, after = measure(old, seconds), measure(new, seconds)
        else:
            after, before = measure(new, seconds), measure(old, seconds)
        for workload, cost in before.items():
            costs.setdefault(workload, []).append((cost, after[workload]))
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    print(f"| CPU of all nodes, ms per operation, medians of {rounds} rounds | old | new | new/old | of each round |")
    print("|---|---|---|---|---|")
    for workload, pairs in costs.items():
        ratios = sorted(new / old for old, new in pairs)
        middle = [statistics.median(column) for column in zip(*pairs)]
        told = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| {workload} | {middle[0]:.3f} | {middle[1]:.3f} | {middle[1] / middle[0]:.2f} | {told} |")


main()
