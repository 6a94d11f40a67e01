# e2fsprogs on an ext4 file system that is not mounted.
#
#   sh ext4_tools.sh prepare|run|check|damage grow|shrink|uuid|repair
#
# grow, shrink: resize2fs; uuid: tune2fs -U; repair: e2fsck -fy of a file system
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

content() {
  yes "These are the lines of file $1" | head -c 200000
}

# As small as mkfs.ext4 makes them by itself: 1,024 bytes to a block, and a
# backup of the superblock where e2fsck looks for it.
make() {
  mkfs.ext4 -q -F -b 1024 -E hash_seed=$uuid -U 3333cccc-0000-4000-8000-000000000001 "$image" "$1"
}

# Puts a file there.
put() {
  folder=$(mktemp -d)
  content "$1" >"$folder/content"
  debugfs -w -R "write $folder/content $1" "$image" 2>/dev/null >&2
  rm -r "$folder"
}

case $1 in
prepare)
  case $2 in
  grow) make 16M ;;
  *) make 32M ;;
  esac
  for name in one two three four five six seven eight nine ten; do put "$name"; done
  case $2 in
  shrink)
    # Room at the beginning, so that blocks of the rest have to move.
    for name in one three five; do debugfs -w -R "rm $name" "$image" 2>/dev/null; done
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
  uuid) tune2fs -f -U $uuid "$image" ;;
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
  e2fsck -fn "$image" 2>&1 || fail "e2fsck leaves something to be done"
  for name in two six seven eight nine ten; do
    found=$(debugfs -R "cat $name" "$image" 2>/dev/null | sha256sum)
    [ "$found" = "$(content "$name" | sha256sum)" ] ||
      fail "File $name is damaged"
  done
  if [ -s "$PLATTER_ACKED" ] && [ "$2" = uuid ]; then
    dumpe2fs -h "$image" 2>/dev/null | grep -q "UUID: *$uuid" || fail "The new UUID is gone"
  fi
  echo "The file system is in order"
  ;;
esac
