# RocksDB by the C interface of its library (librocksdb): batches of one key and
# one counter.
#
#   python3 rocksdb_program.py prepare|run|check|damage sync|nosync
#
# Promised is each batch that was written with sync; with nosync each batch,
# which RocksDB does not promise: its documentation says that the last of them
# may be lost. The memory for what is new is small, so that tables are written
# meanwhile.
import ctypes
import ctypes.util
import os
import sys

verb, mode = sys.argv[1], sys.argv[2]
path = (os.environ["PLATTER_DIR"] + "/rocksdb").encode()
library = ctypes.CDLL(ctypes.util.find_library("rocksdb"))


def fail(reason):
    print(reason)
    sys.exit(1)


def call(name, *args, result=ctypes.c_void_p):
    function = getattr(library, "rocksdb_" + name)
    function.restype = result
    return function(*args)


def checked(name, *args, result=ctypes.c_void_p):
    """The same for functions whose last argument tells of an error."""
    error = ctypes.c_char_p()
    value = call(name, *args, ctypes.byref(error), result=result)
    if error.value is not None:
        fail(f"RocksDB says: {error.value.decode()}")
    return value


def handle(name):
    return ctypes.c_void_p(call(name))


def size(data):
    return ctypes.c_size_t(len(data))


def open_database():
    options = handle("options_create")
    call("options_set_create_if_missing", options, ctypes.c_ubyte(verb == "prepare"))
    call("options_set_paranoid_checks", options, ctypes.c_ubyte(1))
    call("options_set_write_buffer_size", options, ctypes.c_size_t(64 << 10))
    call("options_set_info_log_level", options, ctypes.c_int(4))
    return ctypes.c_void_p(checked("open", options, path))


def put(database, pairs, sync):
    options = handle("writeoptions_create")
    call("writeoptions_set_sync", options, ctypes.c_ubyte(sync))
    batch = handle("writebatch_create")
    for name, data in pairs.items():
        call("writebatch_put", batch, name, size(name), data, size(data))
    checked("write", database, options, batch)
    call("writebatch_destroy", batch)
    call("writeoptions_destroy", options)


def get_all(database):
    options = handle("readoptions_create")
    call("readoptions_set_verify_checksums", options, ctypes.c_ubyte(1))
    cursor = ctypes.c_void_p(call("create_iterator", database, options))
    call("iter_seek_to_first", cursor)
    pairs = {}
    while call("iter_valid", cursor, result=ctypes.c_ubyte):
        length = ctypes.c_size_t()
        name = ctypes.string_at(call("iter_key", cursor, ctypes.byref(length)), length.value)
        data = ctypes.string_at(call("iter_value", cursor, ctypes.byref(length)), length.value)
        pairs[name] = data
        call("iter_next", cursor)
    checked("iter_get_error", cursor)
    call("iter_destroy", cursor)
    return pairs


def value(number):
    return b"%06d" % (number * 7919 % 1000003) * 1000


def key(number):
    return b"%06d" % (number * 6007 % 1000003)


if verb == "damage":
    largest = max((entry for entry in os.scandir(path.decode()) if entry.name.endswith((".log", ".sst"))),
                  key=lambda entry: entry.stat().st_size)
    os.truncate(largest.path, largest.stat().st_size // 2)
    sys.exit(0)
database = open_database()
if verb == "prepare":
    put(database, {b"counter": b"0"}, True)
elif verb == "run":
    for number in range(1, 41):
        put(database, {key(number): value(number), b"counter": b"%d" % number}, mode == "sync")
        print("ACK", number, flush=True)
else:
    with open(os.environ["PLATTER_ACKED"]) as lines:
        promised = max([0, *map(int, lines)])
    pairs = get_all(database)
    if b"counter" not in pairs:
        fail(f"The counter is gone: {len(pairs)} keys are there")
    newest = int(pairs.pop(b"counter"))
    if pairs != {key(number): value(number) for number in range(1, newest + 1)}:
        fail(f"Keys or values are not what was written: {len(pairs)} keys, the counter is {newest}")
    if newest < promised:
        fail(f"A batch that was acknowledged is gone: {promised} is promised, {newest} is there")
    print(f"{newest} batches are there, {promised} promised")
call("close", database)
