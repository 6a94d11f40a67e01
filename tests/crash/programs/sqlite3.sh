# SQLite's own shell: one row and one counter in each transaction.
#
#   sh sqlite3.sh prepare|run|check|damage JOURNAL_MODE [SYNCHRONOUS]
#
# Promised is each transaction whose COMMIT came back; what is there besides must
# be whole. https://www.sqlite.org/pragma.html#pragma_synchronous says which
# modes keep which part of that.
set -eu
rows=24
database=$PLATTER_DIR/data.db

fail() {
  echo "$1"
  exit 1
}

case $1 in
prepare)
  # The rows are longer than a page has room for twice, and the index makes a
  # transaction touch several pages.
  mode=$(sqlite3 -bail "$database" "
    PRAGMA journal_mode = $2;
    CREATE TABLE entry (id INTEGER PRIMARY KEY, text TEXT NOT NULL);
    CREATE INDEX by_text ON entry (text);
    CREATE TABLE counter (value INTEGER NOT NULL);
    INSERT INTO counter VALUES (0);")
  [ "$mode" = "$(echo "$2" | tr '[:upper:]' '[:lower:]')" ] || fail "The journal mode is $mode"
  ;;
run)
  {
    echo ".bail on"
    echo ".output /dev/null"
    echo "PRAGMA journal_mode = $2; PRAGMA synchronous = $3; PRAGMA cache_size = 8;"
    echo ".output stdout"
    id=0
    while [ "$id" -lt "$rows" ]; do
      id=$((id + 1))
      echo "BEGIN IMMEDIATE;"
      echo "INSERT INTO entry VALUES ($id, printf('%04d%01500d', $id * 7919 % 1000, $id));"
      echo "UPDATE counter SET value = $id;"
      echo "COMMIT;"
      echo "SELECT 'ACK $id';"
    done
  } | stdbuf -oL sqlite3 "$database"
  ;;
damage)
  sqlite3 "$database" "PRAGMA wal_checkpoint(TRUNCATE)" >/dev/null
  head -c 3000 /dev/zero | dd of="$database" bs=1 seek=20000 conv=notrunc status=none
  ;;
check)
  promised=$(tail -n 1 "$PLATTER_ACKED")
  found=$(sqlite3 -bail "$database" "
    PRAGMA integrity_check;
    SELECT count(*), ifnull(max(id), 0),
      sum(text <> printf('%04d%01500d', id * 7919 % 1000, id)) FROM entry;
    SELECT value FROM counter;" 2>&1) || {
    echo "$found"
    fail "SQLite says: $(echo "$found" | grep -m 1 Error)"
  }
  [ "$(echo "$found" | sed -n 1p)" = ok ] || {
    echo "$found"
    fail "integrity_check finds damage"
  }
  IFS='|' read -r count newest wrong <<END
$(echo "$found" | sed -n 2p)
END
  counter=$(echo "$found" | sed -n 3p)
  [ "${wrong:-0}" = 0 ] || fail "Rows are not what was written: $wrong"
  [ "$count" = "$newest" ] || fail "Of $newest rows there are only $count"
  [ "$counter" = "$newest" ] || fail "A part of a transaction: counter $counter, newest row $newest"
  [ "$newest" -ge "${promised:-0}" ] ||
    fail "A transaction that was acknowledged is gone: $promised is promised, $newest is there"
  echo "$newest transactions are there, ${promised:-0} promised"
  ;;
esac
