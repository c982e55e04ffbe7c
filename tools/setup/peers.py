"""The contenders of tools/bench-peers: how each one backs up, verifies and restores.

Every one encrypts. Compression is the tool's default and the nearest to capy-store's zstd 3:
restic and rustic `auto`, borg `lz4` (its default) and `zstd,3`, pgBackRest `gz` level 6 (its default) and
`zst` level 3, as it is released (files are the unit) and with its block increments, which this version
calls beta. pgBackRest gets two processes, where its default is one.

A contender gives argument lists, and files for standard input and output; nothing runs here.
"""

import os

PASSPHRASE = "measured, not guessed"


class Contender:
    """One tool, one kind of input. `self.repo` is wiped before every run."""

    input = "tar"

    def __init__(self, work):
        self.work = work
        self.repo = f"{work}/repo-{self.slug}"
        self.home = f"{work}/home-{self.slug}"
        self.env = {}

    @property
    def slug(self):
        return "".join(c if c.isalnum() else "-" for c in self.name)

    def source(self, state):
        return f"{self.work}/{state}.tar"

    def init(self):
        """Commands that make the repository; not measured."""
        return []

    def out(self):
        return f"{self.work}/restored-{self.slug}"


class Capy(Contender):
    name = "capy-store"

    def __init__(self, work, program, level):
        super().__init__(work)
        self.program = program
        self.level = ["--compression-level", level] if level else []
        self.env = {"CAPY_REPO": self.repo, "CAPY_PASSPHRASE": PASSPHRASE}

    def init(self):
        return [[self.program, "-q", "init", *self.level]]

    def backup(self, state):
        return [self.program, "-q", "backup", "--cluster", "main", "--tar", "-"], self.source(state), None

    def verify(self):
        return [self.program, "-q", "verify", "main/latest", "--level", "full"]

    def restore(self):
        return [self.program, "-q", "restore", "main/latest", "--tar", "-"], self.out()

    def restore_directory(self):
        return [self.program, "-q", "restore", "main/latest", "--to", self.out()], None


class Restic(Contender):
    def __init__(self, work, kind):
        self.input = kind
        self.name = f"restic, {kind}"
        super().__init__(work)
        self.env = {"RESTIC_REPOSITORY": self.repo, "RESTIC_PASSWORD": PASSPHRASE,
                    "RESTIC_CACHE_DIR": f"{self.home}/cache", "RESTIC_PROGRESS_FPS": "0.01"}

    def init(self):
        return [["restic", "-q", "init", "--repository-version", "2"]]

    def backup(self, state):
        start = ["restic", "-q", "backup", "--compression", "auto", "--host", "h"]
        if self.input == "tar":
            return [*start, "--stdin", "--stdin-filename", "base.tar"], self.source(state), None
        return [*start, "data"], None, self.work

    def verify(self):
        return ["restic", "-q", "check", "--read-data"]

    def restore(self):
        if self.input == "tar":
            return ["restic", "-q", "dump", "latest", "/base.tar"], self.out()
        return ["restic", "-q", "restore", "latest", "--target", self.out()], None


class Rustic(Contender):
    """The format is restic's; built by tools/setup/rustic, since no package of it is at hand. Only from
    directories: the tar that 0.11.4 gave out after three backups of one name was not the last one."""

    input = "directory"
    name = "rustic, directory"

    def __init__(self, work, program):
        super().__init__(work)
        self.program = program
        self.env = {"RUSTIC_REPOSITORY": self.repo, "RUSTIC_PASSWORD": PASSPHRASE,
                    "RUSTIC_CACHE_DIR": f"{self.home}/cache", "RUSTIC_NO_PROGRESS": "true",
                    "RUSTIC_LOG_LEVEL": "error"}

    def init(self):
        return [[self.program, "init"]]

    def backup(self, state):
        return [self.program, "backup", "--host", "h", "data"], None, self.work

    def verify(self):
        return [self.program, "check", "--read-data"]

    def restore(self):
        return [self.program, "restore", "latest", self.out()], None


class Borg(Contender):
    def __init__(self, work, kind, compression):
        self.input = kind
        self.compression = compression
        self.name = f"borg {compression.replace(',', ' ')}, {kind}"
        super().__init__(work)
        self.count = 0
        self.env = {"BORG_REPO": self.repo, "BORG_PASSPHRASE": PASSPHRASE, "BORG_BASE_DIR": self.home,
                    "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes", "LC_ALL": "C.UTF-8"}

    def init(self):
        self.count = 0
        return [["borg", "init", "-e", "repokey-blake2"]]

    def backup(self, state):
        self.count += 1
        start = ["borg", "create", "-C", self.compression, f"::b{self.count}"]
        if self.input == "tar":
            return [*start, "-"], self.source(state), None
        return [*start, "data"], None, self.work

    def verify(self):
        return ["borg", "check", "--verify-data"]

    def restore(self):
        if self.input == "tar":
            return ["borg", "extract", "--stdout", f"::b{self.count}", "stdin"], self.out()
        return ["borg", "extract", f"::b{self.count}"], None


class PgBackRest(Contender):
    """Backs up the stopped server's directory (--no-online), so that neither a checkpoint nor
    waiting for the WAL archive is counted, and everybody reads the same bytes."""

    input = "directory"

    def __init__(self, work, compression, block=False):
        self.compress_type, self.compress_level = compression.split(" ")
        self.block = block
        self.name = f"pgBackRest {compression}" + (", block (beta)" if block else "")
        super().__init__(work)
        self.config = f"{work}/{self.slug}.conf"

    def init(self):
        with open(self.config, "w") as config:
            config.write(f"""[global]
repo1-path={self.repo}
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass={PASSPHRASE}
repo1-bundle=y
repo1-retention-full=9
compress-type={self.compress_type}
compress-level={self.compress_level}
process-max=2
log-level-file=off
lock-path={self.home}/lock
log-path={self.home}/log
spool-path={self.home}/spool
""" + ("beta=y\nrepo1-block=y\n" if self.block else "") + f"[main]\npg1-path={self.work}/data\n")
        return [self.command("stanza-create", "--no-online")]

    def command(self, *words):
        return ["pgbackrest", f"--config={self.config}", "--stanza=main", *words]

    def backup(self, state):
        kind = "full" if state == "base" else "incr"
        return self.command("backup", f"--type={kind}", "--no-online"), None, self.work

    def verify(self):
        """Hashes the stored files as they are: less work than opening them, and less proof."""
        return self.command("verify", "--output=text", "--verbose")

    def restore(self):
        return self.command(f"--pg1-path={self.out()}", "--type=none", "restore"), None


def contenders(work, capy, level, rustic):
    found = [Capy(work, capy, level)] if capy else []
    found += [Rustic(work, rustic)] if rustic else []
    found += [Restic(work, "tar"), Borg(work, "tar", "lz4"), Borg(work, "tar", "zstd,3")]
    found += [Restic(work, "directory"), Borg(work, "directory", "zstd,3")]
    return found + [PgBackRest(work, "gz 6"), PgBackRest(work, "zst 3"), PgBackRest(work, "zst 3", block=True)]


def size_of(root):
    """Bytes of the files below `root`."""
    return sum(os.lstat(os.path.join(folder, name)).st_size
               for folder, _, names in os.walk(root) for name in names)
