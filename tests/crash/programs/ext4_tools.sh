# e2fsprogs on an ext4 file system that is not mounted.
#
#   sh ext4_tools.sh prepare|run|check|damage grow|shrink|uuid|seed|repair
#
# grow, shrink: resize2fs; uuid: tune2fs -U; seed: the same where the checksums do
# not depend on the UUID (metadata_csum_seed); repair: e2fsck -fy of a file system
# with damaged counters. Whenever the power fails, `e2fsck -fy` must be able to
# put the file system in order (exit 0 or 1, and nothing left for -fn), with its
# files in it.
set -eu
image=$PLATTER_IMAGE
uuid=3333cccc-0000-4000-8000-000000000003

fail() {
  echo "$1"
  exit 1
}

# Where nothing is moved, files need not be long, and recordings are small.
case $2 in
grow | shrink) bytes=200000 ;;
*) bytes=3000 ;;
esac

content() {
  yes "These are the lines of file $1" | head -c "$bytes"
}

digest() {
  sha256sum | cut -c -64
}

# As small as mkfs.ext4 makes them by itself: 1,024 bytes to a block, and a
# backup of the superblock where e2fsck looks for it.
make() {
  mkfs.ext4 -q -F -b 1024 -E hash_seed=$uuid,nodiscard -U 3333cccc-0000-4000-8000-000000000001 "$@"
}

# Puts a file there.
put() {
  folder=$(mktemp -d)
  content "$1" >"$folder/content"
  debugfs -w -R "write $folder/content $1" "$image" 2>/dev/null >&2
  rm -r "$folder"
}

# Takes most inodes, and the blocks of the first groups.
fill() {
  folder=$(mktemp -d)
  head -c 14M /dev/zero | tr '\0' x >"$folder/filler"
  : >"$folder/empty"
  {
    echo "write $folder/filler filler"
    for number in $(seq 140); do echo "write $folder/empty filler$number"; done
  } >"$folder/commands"
  debugfs -w -f "$folder/commands" "$image" >/dev/null 2>&1
  rm -r "$folder"
}

unfill() {
  {
    echo "rm filler"
    for number in $(seq 140); do echo "rm filler$number"; done
  } | debugfs -w -f /dev/stdin "$image" >/dev/null 2>&1
}

case $1 in
prepare)
  case $2 in
  grow) make "$image" 16M ;;
  # Small, so that little has to be rewritten, and recordings are small.
  shrink) make -N 256 "$image" ;;
  uuid) make -N 64 -J size=1 "$image" 12M ;;
  seed) make -O metadata_csum_seed -N 64 -J size=1 "$image" 12M ;;
  *) make "$image" ;;
  esac
  # What is to be shrunk has its files at the end: inodes and blocks have to move.
  if [ "$2" = shrink ]; then fill; fi
  for name in one two three four five six seven eight nine ten; do put "$name"; done
  case $2 in
  shrink) unfill ;;
  uuid | seed)
    # tune2fs asks for that.
    e2fsck -f -p "$image" >/dev/null
    ;;
  repair)
    debugfs -w -R "set_super_value free_blocks_count 1" "$image" 2>/dev/null
    debugfs -w -R "set_inode_field two links_count 7" "$image" 2>/dev/null
    debugfs -w -R "unlink four" "$image" 2>/dev/null
    ;;
  esac
  ;;
run)
  case $2 in
  grow) resize2fs "$image" ;;
  shrink) resize2fs "$image" 12M ;;
  uuid | seed) tune2fs -U $uuid "$image" ;;
  repair) e2fsck -fy "$image" || [ $? -eq 1 ] ;;
  esac
  echo "ACK $2"
  ;;
damage)
  debugfs -w -R "rm ten" "$image" 2>/dev/null
  ;;
check)
  output=$(e2fsck -fy "$image" 2>&1) || [ $? -eq 1 ] || {
    echo "$output" | tail -n 20
    fail "e2fsck cannot put it in order"
  }
  left=$(e2fsck -fn "$image" 2>&1) || {
    echo "$left" | tail -n 30
    fail "e2fsck leaves something to be done"
  }
  # What e2fsck found without a name it has put here, as #INODE.
  nameless=$(debugfs -R "ls -p /lost+found" "$image" 2>/dev/null |
    sed -n 's|^/\([0-9]*\)/[^/]*/[^/]*/[^/]*/#.*|\1|p' | while read -r inode; do
    debugfs -R "cat <$inode>" "$image" 2>/dev/null | digest
  done)
  gone=0
  renamed=0
  for name in two six seven eight nine ten; do
    expected=$(content "$name" | digest)
    if [ "$(debugfs -R "cat $name" "$image" 2>/dev/null | digest)" = "$expected" ]; then
      continue
    elif echo "$nameless" | grep -q "$expected"; then
      renamed=$((renamed + 1))
    else
      gone=$((gone + 1))
    fi
  done
  if [ "$gone" -gt 0 ] || [ "$renamed" -gt 0 ]; then
    echo "$output" | tail -n 30
    [ "$gone" -gt 0 ] || fail "Of 6 files $renamed have no name any more, and are in lost+found"
    fail "Of 6 files $gone are gone, content and all"
  fi
  if [ -s "$PLATTER_ACKED" ] && { [ "$2" = uuid ] || [ "$2" = seed ]; }; then
    dumpe2fs -h "$image" 2>/dev/null | grep -q "UUID: *$uuid" || fail "The new UUID is gone"
  fi
  echo "The file system is in order"
  ;;
esac
