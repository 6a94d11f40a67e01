# git: commits one by one, each acknowledged when `git commit` has exited.
#
#   sh git.sh prepare|run|check|damage [CORE.FSYNC]
#
# The repository must be sound (git fsck --full), and each commit that was
# acknowledged reachable from the branch. git-config(1) says of core.fsync which
# parts of a repository it hardens.
set -eu
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@example.org GIT_AUTHOR_DATE="1700000000 +0000"
export GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@example.org GIT_COMMITTER_DATE="1700000000 +0000"
repository=$PLATTER_DIR/repository

fail() {
  echo "$1"
  exit 1
}

commit() {
  echo "This is version $1" >"$repository/file"
  git -C "$repository" add file
  git -C "$repository" commit -q -m "Version $1"
}

case $1 in
prepare)
  git init -q -b main "$repository"
  git -C "$repository" config gc.auto 0
  git -C "$repository" config core.fsync "$2"
  commit 0
  ;;
run)
  number=0
  while [ "$number" -lt 8 ]; do
    number=$((number + 1))
    commit "$number"
    echo "ACK $(git -C "$repository" rev-parse HEAD)"
  done
  ;;
damage)
  find "$repository/.git/objects" -type f | head -n 1 | xargs rm
  ;;
check)
  git -C "$repository" fsck --full --no-dangling 2>&1 || fail "git fsck finds the repository damaged"
  head=$(git -C "$repository" rev-parse --verify refs/heads/main) || fail "The branch is gone"
  while read -r promised; do
    git -C "$repository" merge-base --is-ancestor "$promised" "$head" ||
      {
        git -C "$repository" log --oneline "$head" || true
        echo "Promised: $promised"
        fail "A commit that was acknowledged is not on the branch"
      }
  done <"$PLATTER_ACKED"
  echo "$(git -C "$repository" rev-list --count "$head") commits are there, $(wc -l <"$PLATTER_ACKED") promised"
  ;;
esac
