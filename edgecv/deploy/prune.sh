# Remove old releases, and of environments and bundles what no other release links to; POSIX sh, on the device.
# $folder: of deployments, $keep: how many stay besides what runs and what ran before it. Its last line says what went.
# What a process uses stays, as far as it can be seen (/proc), and nothing goes while a switch is not ended.
cd "$folder" || exit 1
name() { readlink "$1" | sed 's:.*/::'; }
exec 9>lock
if command -v flock >/dev/null && ! flock -n 9; then echo "removed nothing: a switch is going on"; exit 0; fi
runs=$(name current)
[ -n "$runs" ] && [ ! -f pending ] || { echo "removed nothing: a switch has not ended"; exit 0; }
before=$(name current/before)
used=$({
    cat /proc/[0-9]*/cmdline /proc/[0-9]*/maps
    for each in /proc/[0-9]*/cwd; do readlink "$each"; done
} 2>/dev/null | tr '\0' '\n' | grep -aoE '(environments|bundles|releases)/[0-9a-f]{12}' | sort -u)
in_use() { case "
$used
" in *"
$1
"*) ;; *) return 1 ;; esac; }
others_link() { # whether another release than $1 links as its $2 to $3
    for other in releases/*/"$2"; do
        [ "$other" = "releases/$1/$2" ] || [ "$(name "$other")" != "$3" ] || return 0
    done
    return 1
}
left=$keep gone=""
for id in $(ls -1t releases); do
    case $id in "$runs" | "$before" | *.part) continue ;; esac
    if [ "$left" -gt 0 ]; then left=$((left - 1)); continue; fi
    ! in_use "releases/$id" || continue
    environment=$(name "releases/$id/environment") bundle=$(name "releases/$id/bundle")
    others_link "$id" environment "$environment" && environment=""
    others_link "$id" bundle "$bundle" && bundle=""
    if [ -n "$environment" ]; then
        ! in_use "environments/$environment" || continue
        # what is half removed must not look whole
        rm -f "environments/$environment/complete" && rm -rf "environments/$environment" || exit 1
    fi
    if [ -n "$bundle" ]; then
        ! in_use "bundles/$bundle" || continue
        rm -f "bundles/$bundle/bundle.json" && rm -rf "bundles/$bundle" || exit 1
    fi
    rm -rf "releases/$id" || exit 1
    gone="$gone $id"
done
for each in releases/*/before; do [ ! -L "$each" ] || [ -e "$each" ] || rm -f "$each"; done
[ -n "$gone" ] && echo "removed$gone" || echo "removed nothing"
