"""A cluster over many days, as tools/bench-delta backs it up.

pgbench's tables and the mixed tables of tools/bench-peers in one cluster; each day brings TPC-B
transactions at random keys, new rows, changes to recent rows and to a few scattered ones, deletes,
and a vacuum. Days differ in their keys, and are the same in every run.
"""

import os
import random

import peer_data
from peer_data import ROWS_PER_SCALE, SEED, mixed_rows


class Server(peer_data.Server):
    """A throwaway server with or without data checksums."""

    def create(self, checksums=True):
        super().create()
        if not checksums:
            self.run("pg_checksums", "--disable", "-D", self.data)


def fill(server, scale):
    peer_data.fill_pgbench(server, scale)
    peer_data.fill_mixed(server, scale)


def day(server, scale, number):
    """One more day."""
    rows = scale * ROWS_PER_SCALE
    server.run("pgbench", "-h", server.work, "-U", "postgres", "-n", "-c", "2", "-t", str(40 * scale),
               "--random-seed", str(SEED + number), "postgres")
    top = rows * (100 + number - 1) // 100
    server.sql(f"""
        update docs set body = body || ' revised' where id > {top} * 0.98 and id % 5 = {number % 5};
        update events set facts = facts || '{{"ok": false}}' where id > {top} * 0.95 and id % 7 = {number % 7};
        update docs set title = 'revised ' || title where id % 1009 = {number};
        update tokens set secret = md5(secret) where owner % 1511 = {number};
        delete from events where id < {rows} * 0.001 * {number};
        delete from tokens where owner % 1777 = {number};
    """)
    for kind in ("docs", "events", "tokens"):
        more = rows // (500 if kind == "tokens" else 100)
        first = rows + 1 + (number - 1) * more
        server.sql(f"copy {kind} from stdin;\n", mixed_rows(random.Random(f"{SEED}{kind}{number}"), first, more, kind))
    server.sql("vacuum;")


def prepare(pg_bin, work, scale, days, checksums):
    """Makes day0.tar … day<days>.tar in `work`."""
    server = Server(pg_bin, work)
    server.create(checksums)
    try:
        server.start()
        fill(server, scale)
        server.sql("checkpoint;")
        server.tar(f"{work}/day0.tar")
        for number in range(1, days + 1):
            day(server, scale, number)
            server.sql("checkpoint;")
            server.tar(f"{work}/day{number}.tar")
    finally:
        server.stop()
    return [os.path.getsize(f"{work}/day{n}.tar") for n in range(days + 1)]
