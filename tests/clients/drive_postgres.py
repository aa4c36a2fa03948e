"""PostgreSQL with its data on a mount, under pgbench. Prints `running` when the load has begun.

    drive_postgres.py MOUNT SECONDS
"""

import atexit
import glob
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DATA, SECONDS = Path(sys.argv[1]) / "postgres", sys.argv[2]
PROGRAMS = max(glob.glob("/usr/lib/postgresql/*/bin"))
SOCKETS = tempfile.mkdtemp(prefix="pg-")
atexit.register(shutil.rmtree, SOCKETS, ignore_errors=True)


def run(program, *words):
    """As the user that the server insists on not being root for."""
    command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", f"{PROGRAMS}/{program}"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, f"{program} {words}: {done.stdout}\n{done.stderr}"
    return done.stdout


def server(what, *more):
    settings = f"-c listen_addresses='' -c unix_socket_directories={SOCKETS}"
    run("pg_ctl", "-D", str(DATA), "-w", "-t", "300", "-l", f"{SOCKETS}/log", "-o", settings, *more, what)


def ask(sql):
    return run("psql", "-h", SOCKETS, "-At", "-c", sql, "postgres").strip()


def check():
    """What every transaction adds to an account it adds to a teller, a branch and the history."""
    sums = ["sum(abalance) FROM pgbench_accounts", "sum(tbalance) FROM pgbench_tellers"]
    sums += ["sum(bbalance) FROM pgbench_branches", "sum(delta) FROM pgbench_history"]
    seen = {ask(f"SELECT {of}") for of in sums}
    assert len(seen) == 1, seen
    ask("CREATE EXTENSION IF NOT EXISTS amcheck")
    ask("SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relkind = 'i'")
    return int(ask("SELECT count(*) FROM pgbench_history"))


DATA.mkdir()
os.chmod(DATA.parent, 0o755)
for place in (DATA, SOCKETS):
    subprocess.run(["chown", "postgres:postgres", place], check=True)
    os.chmod(place, 0o700)
run("initdb", "-D", str(DATA), "--auth=trust", "--data-checksums", "--no-instructions")
server("start")
run("pgbench", "-h", SOCKETS, "-i", "-s", "1", "-q", "postgres")
print("running", flush=True)
said = run("pgbench", "-h", SOCKETS, "-c", "4", "-j", "2", "-T", SECONDS, "postgres")
done = check()
assert done > 0
# Killed as by a lack of power, and recovered.
server("stop", "-m", "immediate")
server("start")
assert check() == done
server("stop", "-m", "fast")
run("pg_checksums", "-D", str(DATA), "--check")
print(f"{done} transactions")
print("\n".join(line for line in said.splitlines() if "tps" in line or "latency" in line))
