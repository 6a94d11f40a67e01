# PostgreSQL 15 as Debian has it: one row and one counter in each transaction of
# one psql session, a checkpoint in the middle.
#
#   sh postgresql.sh prepare|run|check|damage [NAME=VALUE...]
#
# The settings are those of the run; the check starts the server without them.
# It must come up by itself, and have each transaction whose COMMIT
# came back; pages have checksums, so that a torn one is told from a sound one.
# https://www.postgresql.org/docs/15/runtime-config-wal.html says what each
# setting keeps. As root, since the server wants to be somebody else (postgres).
set -eu
verb=$1
shift
data=$PLATTER_DIR/data
for programs in /usr/lib/postgresql/*/bin; do :; done # The newest.
# A socket that is in no file system, and of this process alone.
read -r socket </proc/sys/kernel/random/uuid
socket=@platter-$socket
log=$data/server.log
export PGHOST="$socket" PGUSER=postgres PGDATABASE=postgres PGOPTIONS=

fail() {
  echo "$1"
  exit 1
}

# A command as the user whom the server wants to be.
as_postgres() {
  (cd / && exec setpriv --reuid postgres --regid postgres --clear-groups "$@")
}

start() {
  options="-k $socket -c listen_addresses= -c shared_buffers=16MB"
  for setting; do options="$options -c $setting"; done
  as_postgres "$programs/pg_ctl" -D "$data" -l "$log" -s -w -t 300 -o "$options" start >&2
}

stop() {
  as_postgres "$programs/pg_ctl" -D "$data" -s -w -m "$1" stop
}

ask() {
  psql -X -q -A -t -v ON_ERROR_STOP=1 "$@"
}

case $verb in
prepare)
  chown postgres "$PLATTER_DIR"
  as_postgres "$programs/initdb" -D "$data" -A trust --no-locale -E UTF8 \
    --data-checksums --wal-segsize=1 --no-sync >/dev/null
  start
  ask -c "CREATE TABLE entry (id integer PRIMARY KEY, text text NOT NULL)" \
    -c "CREATE INDEX by_text ON entry (text)" \
    -c "CREATE TABLE counter (value integer NOT NULL)" \
    -c "INSERT INTO counter VALUES (0)" \
    -c "INSERT INTO entry SELECT -id, repeat(md5((-id)::text), 12) FROM generate_series(1, 200) id"
  stop fast
  rm "$log"
  ;;
run)
  start "$@"
  {
    id=0
    while [ "$id" -lt 48 ]; do
      id=$((id + 1))
      echo "BEGIN;"
      echo "INSERT INTO entry VALUES ($id, repeat(md5('$id'), 12));"
      echo "UPDATE counter SET value = $id;"
      echo "UPDATE entry SET text = text WHERE id = -4 * $id;"
      echo "COMMIT;"
      printf '%s\n' "\\echo ACK $id"
      case $id in 16 | 32) echo "CHECKPOINT;" ;; esac
    done
  } | stdbuf -oL psql -X -q -v ON_ERROR_STOP=1
  # With synchronous_commit=off the last ones wait for a background process; if
  # they were lost here, that would not be the power's fault.
  tries=0
  until [ "$(ask -c "SELECT pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()")" = t ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || fail "The log is not written"
    sleep 0.1
  done
  stop immediate
  ;;
damage)
  for segment in "$data"/pg_wal/0*; do
    truncate -s 0 "$segment"
    truncate -s 1M "$segment"
  done
  ;;
check)
  promised=$(tail -n 1 "$PLATTER_ACKED")
  # Nobody pulls this plug, and without syncing it is ten times as fast.
  start fsync=off || {
    tail -n 20 "$log" || true
    fail "The server does not start: $(grep -hoE '(PANIC|FATAL): .*' "$log" | tail -n 1)"
  }
  # By scanning the table, then by its indices.
  found=$(ask -v promised="${promised:-0}" 2>&1 <<'END'
SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off;
SELECT count(*) FILTER (WHERE id > 0), coalesce(max(id), 0),
  count(*) FILTER (WHERE text <> repeat(md5(id::text), 12)),
  count(*) FILTER (WHERE id < 0), sum(hashtext(text)) FROM entry;
SELECT value FROM counter;
RESET ALL; SET enable_seqscan = off; SET enable_bitmapscan = off;
SELECT count(*) FROM (SELECT id FROM entry WHERE id > 0 ORDER BY id) ids;
SELECT sum(hashtext(text)) FROM (SELECT text FROM entry ORDER BY text) texts;
END
  ) || {
    tail -n 20 "$log"
    fail "A query fails: $(echo "$found" | grep -E 'ERROR|FATAL|PANIC|error' | tail -n 1)"
  }
  stop fast >&2 || fail "The server does not stop"
  # All pages, also those that no query came by.
  as_postgres "$programs/pg_checksums" --check -D "$data" >/dev/null 2>"$PLATTER_DIR/sums" || {
    cat "$PLATTER_DIR/sums"
    fail "Pages are torn, as their checksums say"
  }
  {
    IFS='|' read -r count newest wrong old sum
    read -r counter
    read -r by_id
    read -r by_text
  } <<END
$found
END
  [ "$newest" -ge 0 ] || newest=0
  [ "$old" = 200 ] || fail "Old rows are gone: $old of 200 are there"
  [ "$wrong" = 0 ] || fail "Rows are not what was written: $wrong"
  [ "$count" = "$newest" ] || fail "Of $newest rows there are only $count"
  [ "$by_id" = "$count" ] || fail "The primary key has $by_id rows, the table $count"
  [ "$by_text" = "$sum" ] || fail "The index over the texts has others than the table"
  [ "$counter" = "$newest" ] || fail "A part of a transaction: counter $counter, newest row $newest"
  [ "$newest" -ge "${promised:-0}" ] ||
    fail "A transaction that was acknowledged is gone: $promised is promised, $newest is there"
  echo "$newest transactions are there, ${promised:-0} promised"
  ;;
esac
