"""The contenders of tools/bench-wal: how each one archives a segment and brings it back.

Every one encrypts, compresses with zstd as it does by default (pgBackRest also at level 1), uses two
processes or threads, and stores on the local disk. A contender gives the lines that PostgreSQL would hold as archive_command and
restore_command; nothing runs here.
"""

import os
import platform
import signal
import sys

PASSPHRASE = "measured, not guessed"
AHEAD_MIB = 256


def adopt_orphans():
    """Makes the workers that contenders detach children of this process, when their parents end.

    The kernel's flag for that outlives exec, and perl can set it: Python has no call for it."""
    if os.environ.pop("CAPY_BENCH_ADOPTS", None) == "1":
        return
    prctl, set_child_subreaper = {"x86_64": 157, "aarch64": 167}[platform.machine()], 36
    os.environ["CAPY_BENCH_ADOPTS"] = "1"
    script = f"syscall({prctl}, {set_child_subreaper}, 1, 0, 0, 0) == 0 or die $!; exec @ARGV or die $!"
    os.execvp("perl", ["perl", "-e", script, sys.executable, *sys.argv])


def children():
    return [int(pid) for pid in open(f"/proc/self/task/{os.getpid()}/children").read().split()]


def reap_all():
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def reap_ended():
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


class Contender:
    ends_on_request = False

    def __init__(self, work, data):
        self.work = work
        self.data = data
        self.repo = f"{work}/repo-{self.slug}"
        self.home = f"{work}/home-{self.slug}"
        self.env = {}

    def settle(self):
        """Ends what it left running, so that its processor time is counted and the next has the machine.

        What outlives its parent becomes this process's child: see `adopt_orphans`."""
        for pid in children():
            if self.ends_on_request:
                os.kill(pid, signal.SIGTERM)
        reap_all()


class Capy(Contender):
    # Its workers would stay for a while, in case that more comes.
    ends_on_request = True
    program = None

    def init(self):
        key = f"{self.home}/key"
        with open(key, "wb") as f:
            f.write(os.urandom(64))
        self.env = {"CAPY_REPO": self.repo, "CAPY_KEY_FILE": key}
        return [[self.program, "-q", "init"]]

    def fetch(self, _data=None):
        return f"{self.program} -q wal fetch --cluster main {self.fetch_options} %f %p"


class CapySync(Capy):
    name = "capy-store, one by one"
    slug = "capy-sync"
    fetch_options = "--no-prefetch"

    def push(self):
        return f"{self.program} -q wal push --cluster main %p"


class CapyAhead(Capy):
    name = "capy-store, spool and prefetch"
    slug = "capy-ahead"
    fetch_options = f"--prefetch {AHEAD_MIB}MiB"

    def push(self):
        return f"{self.program} -q wal push --cluster main --spool {self.home}/spool %p"


class PgBackRest(Contender):
    name = "pgBackRest, asynchronous"
    slug = "pgbackrest"
    level = 3

    def init(self):
        with open(f"{self.home}/conf", "w") as config:
            config.write(f"""[global]
repo1-path={self.repo}
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass={PASSPHRASE}
compress-type=zst
compress-level={self.level}
process-max=2
archive-async=y
archive-get-queue-max={AHEAD_MIB}MiB
log-level-file=off
lock-path={self.home}/lock
log-path={self.home}/log
spool-path={self.home}/spool
[main]
pg1-path={self.data}
""")
        return [self.command("stanza-create", "--no-online")]

    def command(self, *words):
        return ["pgbackrest", f"--config={self.home}/conf", "--stanza=main", *words]

    def push(self):
        return " ".join(self.command("archive-push", "%p"))

    def fetch(self, data=None):
        return " ".join(self.command(f"--pg1-path={data or self.data}", "archive-get", "%f", "%p"))


class PgBackRestFast(PgBackRest):
    """Its fastest level of zstd, which stores more."""

    name = "pgBackRest, asynchronous, level 1"
    slug = "pgbackrest-1"
    level = 1


class Copy(Contender):
    """What recovery is measured against: files that need nothing done to them."""

    name = "cp from a directory"
    slug = "cp"

    def fetch(self, _data=None):
        return f"cp {self.repo}/%f %p"


class CapyPassphrase(CapySync):
    """Opened by passphrase: Argon2id's tenth of a second comes on top, by design."""

    name = "capy-store, one by one, passphrase"
    slug = "capy-passphrase"

    def init(self):
        self.env = {"CAPY_REPO": self.repo, "CAPY_PASSPHRASE": PASSPHRASE}
        return [[self.program, "-q", "init"]]


def contenders(work, data, program):
    Capy.program = program
    return [CapySync(work, data), CapyAhead(work, data), PgBackRest(work, data), PgBackRestFast(work, data)]
