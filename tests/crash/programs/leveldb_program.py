# LevelDB by python3-plyvel: batches of one key and one counter.
#
#   python3 leveldb_program.py prepare|run|check|damage sync|nosync
#
# Promised is each batch that was written with sync=True; with nosync each batch,
# which LevelDB does not promise: its documentation says that the last of them
# may be lost, and no more than that. The memory for what is new is small, so
# that tables are written and compacted meanwhile.
import os
import sys

import plyvel

verb, mode = sys.argv[1], sys.argv[2]
path = os.environ["PLATTER_DIR"] + "/leveldb"


def fail(reason):
    print(reason)
    sys.exit(1)


def open_database():
    # With paranoid_checks it may refuse to open a log that ends in the middle of a
    # record, as its documentation says.
    return plyvel.DB(path, create_if_missing=verb == "prepare", write_buffer_size=64 << 10)


def value(number):
    return b"%06d" % (number * 7919 % 1000003) * 1000


def key(number):
    return b"%06d" % (number * 6007 % 1000003)


if verb == "prepare":
    database = open_database()
    database.put(b"counter", b"0", sync=True)
    database.close()
elif verb == "run":
    database = open_database()
    for number in range(1, 41):
        with database.write_batch(sync=mode == "sync") as batch:
            batch.put(key(number), value(number))
            batch.put(b"counter", b"%d" % number)
        print("ACK", number, flush=True)
    database.close()
elif verb == "damage":
    largest = max((entry for entry in os.scandir(path) if entry.name.endswith((".log", ".ldb"))),
                  key=lambda entry: entry.stat().st_size)
    os.truncate(largest.path, largest.stat().st_size // 2)
else:
    with open(os.environ["PLATTER_ACKED"]) as lines:
        promised = max([0, *map(int, lines)])
    try:
        database = open_database()
        pairs = dict(database.iterator(verify_checksums=True))
        newest = int(pairs.pop(b"counter"))
        expected = {key(number): value(number) for number in range(1, newest + 1)}
        if pairs != expected:
            fail(f"Keys or values are not what was written: {len(pairs)} keys, the counter is {newest}")
        for name in expected:
            if database.get(name, verify_checksums=True) != expected[name]:
                fail("A key is not found though a scan finds it")
        database.close()
    except (plyvel.Error, KeyError) as error:
        fail(f"LevelDB cannot read the database: {error!r}")
    if newest < promised:
        fail(f"A batch that was acknowledged is gone: {promised} is promised, {newest} is there")
    print(f"{newest} batches are there, {promised} promised")
