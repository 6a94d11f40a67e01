# A partition added to a GPT disk by sgdisk, sfdisk or parted.
#
#   sh partition_table.sh prepare|run|check|damage [sgdisk|sfdisk|parted]
#
# Whenever the power fails, there must be a valid table with the partition that
# was there before, the primary one or its backup, and the new one once the
# program has exited. Valid is what UEFI calls so, section 5.3.2: the checksums of
# the header and of the entries are right. sfdisk goes by that, as firmware does.
# (sgdisk lists what it finds in spite of wrong checksums, with a word of caution.
# Linux is stricter: without `gpt` on its command line it reads no backup.)
set -eu
image=$PLATTER_IMAGE
old=3333CCCC-0000-4000-8000-000000000001
new=3333CCCC-0000-4000-8000-000000000002

fail() {
  echo "$1"
  exit 1
}

# The unique GUIDs of all partitions.
partitions() {
  sfdisk --json "$image" 2>/dev/null | grep -o '"uuid": *"[^"]*"'
}

case $1 in
prepare)
  sgdisk -o -n 1:2048:+4M -u 1:$old "$image" >/dev/null
  ;;
run)
  case $2 in
  sgdisk) sgdisk -n 2:0:+4M -u 2:$new "$image" >/dev/null ;;
  sfdisk) echo "size=4MiB, uuid=$new" | sfdisk --append --no-reread --no-tell-kernel -q "$image" ;;
  parted) parted -s "$image" mkpart two 6MiB 10MiB >/dev/null ;;
  esac
  echo "ACK $2"
  ;;
damage)
  # The entries of both tables.
  for sector in 2 $(($(stat -c %s "$image") / 512 - 33)); do
    echo x | dd of="$image" bs=1 seek=$((sector * 512)) conv=notrunc status=none
  done
  ;;
check)
  found=$(partitions) || true
  echo "$found" | grep -q "$old" || {
    echo "sgdisk says:"
    sgdisk -p -v "$image" 2>&1 || true
    echo "sfdisk says:"
    sfdisk --list "$image" 2>&1 || true
    fail "The partition that was there before is gone"
  }
  if [ -s "$PLATTER_ACKED" ]; then
    [ "$(echo "$found" | wc -l)" -ge 2 ] || fail "The new partition is gone though the program has exited"
  fi
  echo "$found"
  ;;
esac
