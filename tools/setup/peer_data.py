"""The PostgreSQL data that tools/bench-peers backs up.

One cluster in three states: `base`, `again` (a second base backup of the same data) and `day`
(after scattered updates, inserts, deletes and a vacuum). Each state is a tar as pg_basebackup
writes it; base and day are also data directories of a stopped server, where files that the day
did not touch are hard links: same inode and times, as they would be on a live server, so that
tools which trust them can.
"""

import filecmp
import os
import random
import shutil
import subprocess

SEED = 20261121
ROWS_PER_SCALE = 8000  # of each mixed table; about 15 MB with indexes, like one pgbench scale


class Server:
    """A throwaway PostgreSQL without TCP, in `work`."""

    def __init__(self, pg_bin, work):
        self.bin, self.work, self.data = pg_bin, work, f"{work}/source"

    def run(self, program, *args, **options):
        options.setdefault("stdout", subprocess.DEVNULL)
        options.setdefault("stderr", subprocess.DEVNULL)
        subprocess.run([f"{self.bin}/{program}", *args], check=True, **options)

    def create(self):
        self.run("initdb", "-D", self.data, "--data-checksums", "--no-sync", "-A", "trust",
                 "-U", "postgres")
        with open(f"{self.data}/postgresql.conf", "a") as conf:
            # archive_mode=off: pg_basebackup then does not wait for an archiver.
            conf.write(f"listen_addresses=''\nunix_socket_directories='{self.work}'\n"
                       "fsync=off\nautovacuum=off\narchive_mode=off\n")

    def start(self):
        self.run("pg_ctl", "-D", self.data, "-l", f"{self.work}/server.log", "-w", "start")

    def stop(self):
        if os.path.exists(f"{self.data}/postmaster.pid"):
            self.run("pg_ctl", "-D", self.data, "-m", "fast", "-w", "stop")

    def sql(self, text, copy=None):
        """Runs SQL; `copy` is an iterator of lines that follow a COPY … FROM STDIN."""
        psql = subprocess.Popen(
            [f"{self.bin}/psql", "-h", self.work, "-U", "postgres", "-XAtqv", "ON_ERROR_STOP=1"],
            stdin=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL)
        psql.stdin.write(text)
        for line in copy or ():
            psql.stdin.write(line)
        psql.stdin.close()
        if psql.wait() != 0:
            raise SystemExit("psql failed")

    def tar(self, path):
        with open(path, "wb") as out:
            self.run("pg_basebackup", "-h", self.work, "-U", "postgres", "-D", "-", "-Ft",
                     "-X", "none", "-c", "fast", stdout=out)


def fill_pgbench(server, scale):
    server.run("pgbench", "-h", server.work, "-U", "postgres", "-i", "-q", "-s", str(scale), "postgres")


def day_pgbench(server, scale):
    """TPC-B transactions at random keys: about one for every ten 8 KiB pages, and a vacuum."""
    server.run("pgbench", "-h", server.work, "-U", "postgres", "-n", "-c", "2", "-t", str(80 * scale),
               "--random-seed", str(SEED), "postgres")
    server.sql("vacuum;")


def words(rng):
    """A vocabulary in which, as in language, few words are frequent."""
    syllables = ["ka", "lo", "mi", "ter", "an", "ver", "sa", "po", "rin", "de", "ul", "as", "con", "qui"]
    vocabulary = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(5000)]
    return vocabulary, [1 / (n + 3) for n in range(len(vocabulary))]


def mixed_rows(rng, first, count, kind):
    vocabulary, weights = words(random.Random(SEED))
    cumulative, total = [], 0
    for weight in weights:
        total += weight
        cumulative.append(total)
    for n in range(first, first + count):
        if kind == "docs":
            text = " ".join(rng.choices(vocabulary, cum_weights=cumulative, k=100))
            yield f"{n}\t{text[:40]}\t{text}\n"
        elif kind == "events":
            actor, item = rng.randrange(10000), rng.choices(vocabulary, cum_weights=cumulative, k=3)
            yield (f"{n}\t2026-11-{1 + n % 28:02}T{n % 24:02}:{n % 60:02}:00Z\t"
                   f'{{"actor": {actor}, "kind": "{item[0]}", "path": "/{item[1]}/{item[2]}", '
                   f'"ms": {rng.randrange(3000)}, "token": "{rng.getrandbits(64):016x}", "ok": true}}\n')
        else:
            yield f"{rng.getrandbits(128):032x}\t{n}\t{rng.getrandbits(256):064x}\n"


TABLES = """
create table docs(id int primary key, title text, body text);
create table events(id int primary key, at timestamptz, facts jsonb);
create table tokens(id uuid primary key, owner int, secret text);
create index on docs(title); create index on events(at);
create index on events((facts->>'actor')); create index on tokens(owner); create index on tokens(secret);
"""


def fill_mixed(server, scale):
    """Text, JSON and random keys, with their indexes."""
    server.sql(TABLES)
    for kind in ("docs", "events", "tokens"):
        rows = mixed_rows(random.Random(f"{SEED}{kind}"), 1, scale * ROWS_PER_SCALE, kind)
        server.sql(f"copy {kind} from stdin;\n", rows)
    server.sql("vacuum analyze;")


def day_mixed(server, scale):
    """A day: new rows, changes to recent ones, a few changes scattered over everything."""
    rows = scale * ROWS_PER_SCALE
    server.sql(f"""
        update docs set body = body || ' revised' where id > {rows} * 0.98;
        update events set facts = facts || '{{"ok": false}}' where id > {rows} * 0.95 and id % 3 = 0;
        update docs set title = 'revised ' || title where id % 1009 = 3;
        update tokens set secret = md5(secret) where owner % 1511 = 7;
        delete from events where id < {rows} * 0.01;
        delete from tokens where owner % 1777 = 11;
    """)
    for kind in ("docs", "events", "tokens"):
        more = rows // (500 if kind == "tokens" else 100)
        rng = random.Random(f"{SEED}{kind}day")
        server.sql(f"copy {kind} from stdin;\n", mixed_rows(rng, rows + 1, more, kind))
    server.sql("vacuum;")


DATASETS = {"pgbench": (fill_pgbench, day_pgbench), "mixed": (fill_mixed, day_mixed)}


# Directories whose contents no base backup has; the tars leave them out too.
EMPTY = ("pg_wal", "pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots",
         "pg_stat_tmp", "pg_subtrans")


def copy_stopped(source, target):
    """A stopped data directory as the tools get it that read directories."""
    def left_out(folder, names):
        if os.path.dirname(folder) == source and os.path.basename(folder) in EMPTY:
            return names
        return [n for n in names if n in ("pgsql_tmp", "postmaster.opts", "pg_internal.init")]

    shutil.copytree(source, target, symlinks=True, ignore=left_out)
    os.chmod(target, 0o700)


def link_unchanged(old_root, new_root):
    for folder, _, names in os.walk(new_root):
        for name in names:
            new = os.path.join(folder, name)
            old = old_root + new[len(new_root):]
            if os.path.exists(old) and os.stat(old).st_mtime_ns == os.stat(new).st_mtime_ns \
                    and filecmp.cmp(old, new, shallow=False):
                os.unlink(new)
                os.link(old, new)


def prepare(pg_bin, work, dataset, scale):
    """Makes {base,again,day}.tar and the directories base and day in `work`."""
    fill, change = DATASETS[dataset]
    server = Server(pg_bin, work)
    server.create()
    try:
        server.start()
        fill(server, scale)
        server.sql("checkpoint;")
        server.tar(f"{work}/base.tar")
        server.tar(f"{work}/again.tar")
        server.stop()
        copy_stopped(server.data, f"{work}/base")
        server.start()
        change(server, scale)
        server.sql("checkpoint;")
        server.tar(f"{work}/day.tar")
        server.stop()
    finally:
        server.stop()
    copy_stopped(server.data, f"{work}/day")
    link_unchanged(f"{work}/base", f"{work}/day")
    shutil.rmtree(server.data)
