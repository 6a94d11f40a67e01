# A file replaced by another that is renamed over it, as editors, package
# managers and configuration tools do.
#
#   sh rename.sh prepare|run|check|damage durable|atomic|careless
#
# durable:  the new file is synced, renamed, and the folder is synced: what was
#           acknowledged is there.
# atomic:   nothing of it is synced, though other files on the disk are: the file
#           must at least be one of those that were written, and whole.
# careless: nothing is synced, but it is acknowledged as if it were durable.
set -eu
target=$PLATTER_DIR/target

fail() {
  echo "$1"
  exit 1
}

# 6,000 bytes that say which they are.
content() {
  yes "This is version $1" | head -c 6000
}

case $1 in
prepare)
  content 0 >"$target"
  ;;
run)
  version=0
  while [ "$version" -lt 10 ]; do
    version=$((version + 1))
    content "$version" >"$target.new"
    if [ "$2" = durable ]; then sync "$target.new"; fi
    mv -T "$target.new" "$target"
    case $2 in
    durable) sync "$PLATTER_DIR" ;;
    atomic)
      # Somebody else's file, whose sync makes the journal durable.
      echo "$version" >>"$PLATTER_DIR/other"
      sync "$PLATTER_DIR/other"
      ;;
    esac
    echo "ACK $version"
  done
  ;;
damage)
  truncate -s 4096 "$target"
  truncate -s 6000 "$target"
  ;;
check)
  version=$(head -n 1 "$target" | sed -n 's/^This is version \([0-9]*\)$/\1/p')
  [ -n "$version" ] || fail "The file has no version: it is $(stat -c %s "$target") bytes long"
  content "$version" | cmp -s - "$target" || fail "The file is damaged"
  promised=$(tail -n 1 "$PLATTER_ACKED")
  if [ "$2" != atomic ]; then
    [ "$version" -ge "${promised:-0}" ] ||
      fail "A version that was acknowledged is gone: $promised is promised, $version is there"
  fi
  echo "Version $version is there, ${promised:-0} promised"
  ;;
esac
