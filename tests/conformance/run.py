#!/usr/bin/env python3
"""Runs the Ceph project's S3 conformance suite against a grid of several nodes, whole, and writes
what came out as docs/s3-conformance.md.

usage: run.py --suite CHECKOUT [--nexusgrid PROGRAM] [--nodes 3] [--report FILE] [-- PYTEST ARGS]

The suite is not part of this repository: give a checkout of github.com/ceph/s3-tests. Nothing of it
is filtered or skipped; what fails is listed, with the reason from reasons.json where one is known.
"""

import argparse
import atexit
import collections
import contextlib
import datetime
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import venv
import xml.etree.ElementTree as tree

HERE = pathlib.Path(__file__).resolve().parent
FILES = ["test_s3.py", "test_headers.py", "test_iam.py", "test_sts.py"]
# A test that waits for ever is a failed test.
SECONDS_PER_TEST = 300
# This test waits fifteen minutes for a session to end: it runs beside the others.
SLOW = "s3tests/functional/test_sts.py::test_assume_role_creds_expiry"
SECONDS_OF_SLOW = 1200
# Where the suite expects an OpenID Connect provider, and what that calls the grid.
PROVIDER = "http://localhost:8080/auth/realms/"
REALM = "grid"
AUDIENCE = "grid"
# Who logs in there: a service, and somebody whose token wants a tag for the session.
TAGS = {"principal_tags": {"Department": ["Engineering"]}}
PEOPLE = {
    "service": {"azp": AUDIENCE, "app_id": AUDIENCE},
    "ann": {"azp": AUDIENCE, "https://aws.amazon.com/tags": TAGS},
}
# The grid's classes beside STANDARD. The suite's sample names none, and each multiplies its cases: only
# those that are skipped without get them, in a second run.
CLASSES = "REPLICATED, REDUCED_REDUNDANCY"
WANTS_CLASSES = "or more storage classes"
# How long a day is in lifecycle rules, in seconds.
LIFECYCLE_DAY = 6
# How long records of requests wait for more, in seconds.
ACCESS_LOG_SECONDS = 4
# Where the suite thinks that it is.
REGION = "default"


def python_of(cache):
    """A Python with the suite's packages, made once."""
    place = cache / "conformance"
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
        packages = ["PyYAML", "boto3", "munch", "gevent", "isodate", "requests", "pytz"]
        packages += ["httplib2", "lxml", "pytest", "pytest-timeout", "setuptools"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


class Grid:
    """A demo grid in a directory of its own."""

    def __init__(self, program, nodes, directory, port):
        self.program, self.directory = program, directory
        arguments = ["demo", "--nodes", str(nodes), "--dir", directory, "--source", str(HERE)]
        arguments += ["--s3", f"127.0.0.1:{port}", "--rpc-port", str(port + 100)]
        # The suite sends keys of its own over plain connections.
        arguments += ["--set", "s3.sse_c_without_tls=true"]
        # It signs its forms, and some requests, as old applications do.
        arguments += ["--set", "s3.signature_v2=true"]
        # It names buckets of Ceph's tenants, and roles that users of other accounts take on by the
        # role's word alone.
        arguments += ["--set", "s3.tenant_names=true"]
        arguments += ["--set", "identity.trust_suffices=true"]
        # The suite waits a little more than five seconds for records of its requests.
        arguments += ["--set", f"s3.access_log_seconds={ACCESS_LOG_SECONDS}"]
        arguments += ["--set", f"s3.region={REGION}"]
        # It names a provider on this machine, without its audience.
        arguments += ["--set", 'identity.oidc_private=["localhost", "127.0.0.1"]']
        arguments += ["--set", f'identity.oidc_audiences=["{AUDIENCE}"]']
        # What takes a day in lifecycle rules takes as long as `lc_debug_interval` says.
        arguments += ["--set", f"timers.lifecycle_day_ms={LIFECYCLE_DAY * 1000}"]
        self.process = subprocess.Popen(
            [program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        for line in self.process.stdout:
            if line.startswith("ready "):
                words = dict(word.split("=", 1) for word in line.split()[1:])
                self.root = (words["access_key"], words["secret_key"])
                return
        raise SystemExit("the grid did not come up")

    def run(self, *arguments):
        """What a command answers."""
        answer = subprocess.run(
            [self.program, "--json", *arguments, "--dir", os.path.join(self.directory, "n1")],
            check=True,
            capture_output=True,
            text=True,
        )
        return json.loads(answer.stdout)

    def account(self, name, email, *more):
        """A new account: its id, its canonical id, and its key."""
        return self.run("account", "create", name, "--email", email, *more)

    def user(self, account, name):
        """A new user that may do everything in its account: its key."""
        place = ["--account", account["id"]]
        key = self.run("user", "create", name, "--key", *place)
        self.run("user", "attach", name, "AdministratorAccess", *place)
        return {"access_key": key["AccessKeyId"], "secret_key": key["SecretAccessKey"]}

    def key(self, account):
        """A new key that the grid keeps: its ARN."""
        return self.run("kms", "create", "--account", account["id"])["arn"]

    def stop(self):
        """Ends the grid, and whatever of it is still there."""
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Provider:
    """The OpenID Connect provider that our own tests use too."""

    def __init__(self, cache, directory):
        people = os.path.join(directory, "people.json")
        pathlib.Path(people).write_text(json.dumps(PEOPLE))
        self.environment = dict(
            os.environ,
            NODE_MODULES=str(cache / "clients" / "node_modules"),
            ISSUER=PROVIDER + REALM,
        )
        self.process = subprocess.Popen(
            self.command("serve", people), env=self.environment, stdout=subprocess.PIPE, text=True
        )
        atexit.register(self.stop)
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"no provider at {PROVIDER}: is the port taken?")

    def command(self, *arguments):
        name, *others = arguments
        return ["node", HERE.parent / "clients" / "oidc.mjs", name, "8080", *others]

    def token(self, user):
        """What somebody gets who logs in."""
        command = self.command("login", user)
        answer = subprocess.run(
            command, env=self.environment, check=True, capture_output=True, text=True
        )
        return answer.stdout.strip()

    def section(self):
        """What the suite is to know of it."""
        lines = ["[webidentity]", f"token = {self.token('service')}", f"aud = {AUDIENCE}"]
        lines += ["sub = service", f"azp = {AUDIENCE}", f"user_token = {self.token('ann')}"]
        return lines + ["thumbprint = " + "0" * 40, f"KC_REALM = {REALM}"]

    def stop(self):
        self.process.kill()
        self.process.wait()


def configuration(grid, port, classes, provider):
    """The suite's configuration: an account for each of the users it knows. `s3 alt` is a user
    in the account of `iam`, which gives it policies, by the name that the suite knows it by; ARNs
    of that account go without its number, as the suite expects of roles and users there."""
    emails = {
        "s3 main": "tester@example.com",
        "s3 alt": "john.doe@example.com",
        "s3 tenant": "tenant@example.com",
        "iam root": "account1@example.com",
        "iam alt root": "account2@example.com",
    }
    accounts = {
        section: grid.account(
            section.split(" ", 1)[1].replace(" ", ""),
            email,
            *(["--bare-arns"] if section == "s3 alt" else []),
        )
        for section, email in emails.items()
    }
    accounts["iam"] = dict(accounts["s3 alt"])
    emails["iam"] = emails["s3 alt"]
    alt = accounts["s3 alt"]
    alt.update(grid.user(alt, alt["canonical_id"]))
    keys = [grid.key(accounts["s3 main"]) for _ in range(2)]
    lines = ["[DEFAULT]", "host = 127.0.0.1", f"port = {port}", "is_secure = False"]
    lines += ["ssl_verify = False", "[fixtures]", "bucket prefix = s3-{random}-"]
    lines += ["iam name prefix = s3-tests-", "iam path prefix = /s3-tests/"]
    for section, made in accounts.items():
        # Who calls is told the account's id; who is granted something is named by the other.
        user_id = made["id"] if section == "iam root" else made["canonical_id"]
        lines += [
            f"[{section}]",
            f"display_name = {made['name']}",
            f"user_id = {user_id}",
            f"email = {emails[section]}",
            "api_name = default",
            f"access_key = {made['access_key']}",
            f"secret_key = {made['secret_key']}",
            f"kms_keyid = {keys[0]}",
            f"kms_keyid2 = {keys[1]}",
            f"lc_debug_interval = {LIFECYCLE_DAY}",
            # Each class beside STANDARD multiplies the cases; the suite's own sample names none.
            *([f"storage_classes = {classes}"] if classes else []),
            # Whose buckets a tenant's name stands before.
            f"tenant = {made['name'] if section == 's3 tenant' else ''}".rstrip(),
        ]
    lines += provider.section()
    return "\n".join(lines) + "\n"


def marked(python, suite, environment):
    """The tests that the suite itself says AWS does not pass."""
    command = [python, "-m", "pytest", "--collect-only", "-q", "-m", "fails_on_aws"]
    command += [f"s3tests/functional/{name}" for name in FILES]
    found = subprocess.run(command, cwd=suite, env=environment, capture_output=True, text=True)
    return {line.split("::")[-1] for line in found.stdout.splitlines() if "::" in line}


def outcomes(junit):
    """Name of each test, its file, whether it passed, and the last line of why not."""
    for case in tree.parse(junit).iter("testcase"):
        fault = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
        why = "" if fault is None else (fault.get("message") or fault.tag).strip()
        state = "passed" if fault is None else fault.tag
        yield case.get("name"), case.get("classname").split(".")[-1], state, why


def with_classes(command, options, config, directory, results):
    """Runs the cases again that want more classes than the suite's sample names: what came out, by
    name."""
    wanting = [(name, where) for name, where, _, why in results if WANTS_CLASSES in why]
    if not wanting:
        return {}
    place, junit = os.path.join(directory, "classes.conf"), os.path.join(directory, "classes.xml")
    text = pathlib.Path(config).read_text()
    main = "[s3 main]\n"
    pathlib.Path(place).write_text(text.replace(main, f"{main}storage_classes = {CLASSES}\n"))
    os.chmod(place, 0o600)
    cases = [f"s3tests/functional/{where}.py::{name}" for name, where in wanting]
    subprocess.run(
        [*command, f"--timeout={SECONDS_PER_TEST}", f"--junitxml={junit}", *cases],
        cwd=options.suite,
        env=dict(os.environ, S3TEST_CONF=place),
    )
    return {outcome[0]: outcome for outcome in outcomes(junit)}


def report(path, results, again, failing_on_aws, suite, program):
    version = subprocess.run(
        ["git", "-C", suite, "log", "-1", "--format=%h of %cs"], capture_output=True, text=True
    ).stdout.strip()
    ours = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip()
    reasons = json.loads((HERE / "reasons.json").read_text())
    states = {name: state for name, _, state, _ in results}
    passed = [name for name, state in states.items() if state == "passed"]
    honest = [name for name in states if name not in failing_on_aws]
    good = [name for name in honest if states[name] == "passed"]
    by_file = collections.Counter((where, state) for _, where, state, _ in results)
    classes = CLASSES.replace(", ", "` and `")
    lines = [
        "# S3 conformance",
        "",
        "Written by `make conformance`; not edited by hand. The suite is the Ceph project's",
        f"`s3-tests` at {version}, whole: no filter and no list of tests to skip.",
        "",
        f"- {ours}, {datetime.date.today().isoformat()}, {platform.machine()},",
        f"  {os.cpu_count()} cores, a grid of several nodes.",
        f"- **{len(passed)} of {len(states)} pass.**",
        f"- Of the {len(honest)} that the suite does not mark `fails_on_aws`: {len(good)}"
        f" ({100 * len(good) / max(len(honest), 1):.1f} %).",
        f"- {len(again)} of the cases want further storage classes, and the suite's sample of a"
        " configuration names none:",
        f"  they ran once more with `{classes}`.",
        "- Of what differs from S3, the grid was told to have as applications from elsewhere expect it: requests",
        "  signed by Version 2, SSE-C over plain connections, one account whose ARNs go without its number, tenants'",
        "  names before buckets', and roles whose word suffices",
        "  (`s3.signature_v2`, `s3.sse_c_without_tls`, `account create --bare-arns`, `s3.tenant_names`,",
        "  `identity.trust_suffices`). By default none of that is so.",
        "",
        "| file | passed | failed | error | skipped |",
        "| --- | --- | --- | --- | --- |",
    ]
    for where in sorted({where for where, _ in by_file}):
        row = [by_file[(where, state)] for state in ("passed", "failure", "error", "skipped")]
        lines.append(f"| `{where}` | " + " | ".join(map(str, row)) + " |")
    groups = collections.defaultdict(list)
    for name, _, state, why in results:
        if state != "passed":
            known = next((text for part, text in reasons.items() if part in name), None)
            short = " ".join(why.splitlines()[0].split()) if why else state
            groups[known or "not yet known"].append((name, short, name in failing_on_aws))
    lines += ["", "## What does not pass, and why", ""]
    for reason, names in sorted(groups.items(), key=lambda item: -len(item[1])):
        lines += [f"### {reason} ({len(names)})", ""]
        for name, short, aws in sorted(names):
            mark = " (`fails_on_aws`)" if aws else ""
            text = textwrap.shorten(short, 120, placeholder=" …").replace("|", "\\|")
            lines.append(f"- `{name}`{mark}: {text}")
        lines.append("")
    path.write_text("\n".join(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", required=True, help="a checkout of ceph/s3-tests")
    parser.add_argument("--nexusgrid", default=shutil.which("nexusgrid"))
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--port", type=int, default=19000)
    parser.add_argument(
        "--storage-classes", help="names of classes to try beside STANDARD, such as REPLICATED"
    )
    parser.add_argument("--report", type=pathlib.Path)
    parser.add_argument("pytest", nargs="*", help="further arguments for pytest, behind --")
    options = parser.parse_args()
    program = os.path.abspath(options.nexusgrid)
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    python = python_of(cache / "nexusgrid")
    directory = tempfile.mkdtemp(prefix="nexusgrid-conformance-")
    provider = Provider(cache / "nexusgrid", directory)
    grid = Grid(program, options.nodes, directory, options.port)
    try:
        config = os.path.join(directory, "s3tests.conf")
        text = configuration(grid, options.port, options.storage_classes, provider)
        pathlib.Path(config).write_text(text)
        os.chmod(config, 0o600)
        environment = dict(os.environ, S3TEST_CONF=config)
        junit = [os.path.join(directory, name) for name in ("junit.xml", "slow.xml")]
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options.pytest]
        others = [f"s3tests/functional/{name}" for name in FILES] + [f"--deselect={SLOW}"]
        slow = subprocess.Popen(
            [*command, f"--timeout={SECONDS_OF_SLOW}", f"--junitxml={junit[1]}", SLOW],
            cwd=options.suite,
            env=environment,
        )
        subprocess.run(
            [*command, f"--timeout={SECONDS_PER_TEST}", f"--junitxml={junit[0]}", *others],
            cwd=options.suite,
            env=environment,
        )
        plain = [*command[: len(command) - len(options.pytest)]]
        again = with_classes(plain, options, config, directory, list(outcomes(junit[0])))
        slow.wait()
        results = [outcome for name in junit for outcome in outcomes(name)]
        results = [again.get(outcome[0], outcome) for outcome in results]
        failing = marked(python, options.suite, environment)
    finally:
        grid.stop()
    passed = sum(state == "passed" for _, _, state, _ in results)
    print(f"{passed} of {len(results)} pass")
    if options.report:
        report(options.report, results, again, failing, options.suite, program)
    shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
