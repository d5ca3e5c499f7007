# Switch to a release and prove it, or go back; runs on the device alone, whatever becomes of the connection.
# $folder: of deployments, $id: of the release, $seconds: until it has to be ready. Its last line says how it ended.
# `current` is the one link that decides what runs, exchanged by one rename(2); `pending` holds what to go back to.
cd "$folder" || exit 1
to() { rm -f "current.$$" && ln -s "releases/$1" "current.$$" && mv -Tf "current.$$" current; }
# What they write goes to a file: a pipe would be waited for as long as any child of theirs lives.
bounded() { (cd current && exec timeout -k 2 "$1" sh "./$2" </dev/null 2>&1 9>&-) >"said.$$"; }
was_late() { [ "$1" = 124 ] || [ "$1" = 137 ]; } # timeout(1): ended, or killed, by it; 126 and 127 are commands that are not there
seconds_up() { cut -d . -f 1 /proc/uptime; }
said() { cat "said.$$"; rm -f "said.$$"; }
restart() {
    [ -s current/restart ] || return 0
    bounded "$((seconds + 1))" restart && return 0
    code=$?
    why=$(said)
    ! was_late $code || why="the restart took longer than $seconds s"
    return 1
}
ready() {
    end=$(($(seconds_up) + seconds))
    [ -s current/restart ] || end=0
    while :; do
        bounded "$((seconds + 1))" probe && { why=$(said); return 0; }
        code=$?
        why=$(said)
        ! was_late $code || why="the probe took longer than $seconds s"
        [ "$(seconds_up)" -lt "$end" ] || return 1
        sleep 1
    done
}
stop() { # what $1 started, where $2 does not start it anew
    [ -s "releases/$1/stop" ] && [ "$(cat "releases/$1/stop")" != "$(cat "releases/$2/stop" 2>/dev/null)" ] || return 0
    (cd "releases/$1" && timeout -k 2 "$((seconds + 1))" sh ./stop </dev/null >/dev/null 2>&1 9>&-)
}
finish() { rm -f pending "said.$$" && printf '%s\n' "$1" >"outcome.$$" && mv -Tf "outcome.$$" "$outcome"; exit 0; }
exec 9>lock
if command -v flock >/dev/null && ! flock -n 9; then
    printf 'failed: another switch is going on\n' >"outcome.$$" && mv -Tf "outcome.$$" "$outcome"
    exit 0
fi
if [ -f pending ]; then before=$(cat pending); else before=$(readlink current | sed 's:.*/::'); fi
printf '%s' "$before" >"pending.$$" && mv -Tf "pending.$$" pending || finish "failed: no space for a file"
to "$id" || { rm -f "current.$$"; finish "failed: the link cannot be exchanged"; }
stop "$before" "$id"
if restart && ready; then finish "ready: $why"; fi
reason=$(printf '%s' "$why" | tail -n 1)
if [ -z "$before" ]; then
    rm -f current
    stop "$id" ""
    finish "failed: $reason; nothing ran before, and nothing does now"
fi
to "$before"
stop "$id" "$before"
if restart && ready; then finish "failed: $reason; went back to $before, which is ready"; fi
finish "failed: $reason; went back to $before, which does not answer either: $why"
