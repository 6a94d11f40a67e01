# LMDB by python3-lmdb: one key and one counter in each transaction.
#
#   python3 lmdb_program.py prepare|run|check|damage sync|nosync
#
# Promised is each transaction whose commit came back. LMDB writes pages that
# nobody refers to, syncs, writes one of two meta pages, and syncs; with nosync
# (MDB_NOSYNC) it leaves the syncs out, and its documentation says that a crash
# may then corrupt the database, unless the file system preserves the order.
import os
import sys

import lmdb

verb, mode = sys.argv[1], sys.argv[2]
path = os.environ["PLATTER_DIR"] + "/lmdb"


def fail(reason):
    print(reason)
    sys.exit(1)


def open_database():
    return lmdb.open(path, map_size=4 << 20, sync=mode == "sync" or verb != "run")


def value(number):
    return b"%06d" % (number * 7919 % 1000003) * 150


def key(number):
    return b"%06d" % (number * 6007 % 1000003)


if verb == "prepare":
    with open_database() as database, database.begin(write=True) as transaction:
        for number in range(-40, 0):
            transaction.put(b"old %03d" % -number, value(-number))
        transaction.put(b"counter", b"0")
elif verb == "run":
    with open_database() as database:
        for number in range(1, 31):
            with database.begin(write=True) as transaction:
                transaction.put(key(number), value(number))
                transaction.put(b"counter", b"%d" % number)
                # Frees pages, so that later transactions write over them.
                transaction.put(b"old %03d" % (number % 40 + 1), value(number % 40 + 1))
            print("ACK", number, flush=True)
elif verb == "damage":
    with open(path + "/data.mdb", "r+b") as file:
        file.seek(3 * 4096)
        file.write(bytes(4096 * 20))
else:
    with open(os.environ["PLATTER_ACKED"]) as lines:
        promised = max([0, *map(int, lines)])
    try:
        with open_database() as database, database.begin() as transaction:
            pairs = dict(transaction.cursor())
            newest = int(pairs.pop(b"counter"))
            expected = {b"old %03d" % number: value(number) for number in range(1, 41)}
            expected |= {key(number): value(number) for number in range(1, newest + 1)}
            if pairs != expected:
                fail(f"Keys or values are not what was written: the counter is {newest}")
            for name in expected:
                if transaction.get(name) != expected[name]:
                    fail("A key is not found though a scan finds it")
    except (lmdb.Error, KeyError) as error:
        fail(f"LMDB cannot read the database: {error!r}")
    if newest < promised:
        fail(f"A transaction that was acknowledged is gone: {promised} is promised, {newest} is there")
    print(f"{newest} transactions are there, {promised} promised")
