# Switch to a release and prove it, or go back; runs on the device alone, whatever becomes of the connection.
# $folder: of deployments, $id: of the release, $seconds: until it has to be ready. Its last line says how it ended.
# `current` is the one link that decides what runs, exchanged by one rename(2); `pending` holds what to go back to.
cd "$folder" || exit 1
to() { rm -f "current.$$" && ln -s "releases/$1" "current.$$" && mv -Tf "current.$$" current; }
restart() { [ ! -s current/restart ] || (cd current && sh ./restart </dev/null 2>&1 9>&-); }
ready() {
    left=$seconds
    [ -s current/restart ] || left=0
    while :; do
        why=$(cd current && sh ./probe </dev/null 2>&1) && return 0
        [ "$left" -gt 0 ] || return 1
        left=$((left - 1))
        sleep 1
    done
}
finish() { rm -f pending && printf '%s\n' "$1" >"outcome.$$" && mv -Tf "outcome.$$" "$outcome"; exit 0; }
exec 9>lock
if command -v flock >/dev/null && ! flock -n 9; then
    printf 'failed: another switch is going on\n' >"outcome.$$" && mv -Tf "outcome.$$" "$outcome"
    exit 0
fi
if [ -f pending ]; then before=$(cat pending); else before=$(readlink current | sed 's:.*/::'); fi
printf '%s' "$before" >"pending.$$" && mv -Tf "pending.$$" pending || finish "failed: no space for a file"
to "$id" || { rm -f "current.$$"; finish "failed: the link cannot be exchanged"; }
if why=$(restart) && ready; then finish "ready: $why"; fi
reason=$(printf '%s' "$why" | tail -n 1)
if [ -z "$before" ]; then
    rm -f current
    finish "failed: $reason; nothing ran before, and nothing does now"
fi
to "$before"
if why=$(restart) && ready; then finish "failed: $reason; went back to $before, which is ready"; fi
finish "failed: $reason; went back to $before, which does not answer either: $why"
