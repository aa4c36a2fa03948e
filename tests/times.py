"""Where a run of the tests spent its time: seconds of each binary, and the slowest tests.

usage: times.py JUNIT_XML
"""

import sys
from xml.etree import ElementTree

SLOWEST = 15


def main() -> None:
    suites = ElementTree.parse(sys.argv[1]).getroot().findall("testsuite")
    tests = [
        (float(case.get("time") or 0), suite.get("name"), case.get("name"))
        for suite in suites
        for case in suite.findall("testcase")
    ]
    binaries: dict[str, list[float]] = {}
    for seconds, binary, _ in tests:
        binaries.setdefault(binary, []).append(seconds)
    for binary, times in sorted(binaries.items(), key=lambda one: -sum(one[1])):
        print(f"{sum(times):8.1f} s  {len(times):5} tests  {binary}")
    for seconds, binary, name in sorted(tests, reverse=True)[:SLOWEST]:
        print(f"{seconds:8.1f} s  {binary} {name}")


main()
