# Keep other deployments away from $folder as long as the caller sends a dot at least every $silent_s seconds.
# The lock is on the folder itself, so that nothing lies there afterwards. Where no folder can be made nobody deploys.
[ -d "$folder" ] || made=yes
if ! { command -v flock && command -v timeout && mkdir -p "$folder"; } >/dev/null 2>&1; then
    echo held
    exec cat >/dev/null
fi
exec 8<"$folder" || exit 1
flock -n 8 || { echo busy; exit 0; }
echo held
while [ "$(timeout "$silent_s" dd bs=1 count=1 2>/dev/null)" = . ]; do :; done
[ -z "$made" ] || rmdir "$folder" 2>/dev/null # where nothing was deployed
exit 0
