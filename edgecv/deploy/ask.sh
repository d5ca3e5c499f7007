# What a device is, a line "name=value" each; POSIX sh.
# $folder: where deployments lie, absolute (`folder.sh`); $root: "" but in tests.
say() { printf '%s=%s\n' "$1" "$(printf '%s' "$2" | tr -d '\0' | tr '\n' ' ')"; }
first() { [ -r "$1" ] && head -n 1 "$1"; }
say arch "$(uname -m)"
say kernel "$(uname -sr)"
say user "$(id -un)"
say system "$([ -r "$root/etc/os-release" ] && . "$root/etc/os-release" && printf '%s' "$PRETTY_NAME")"
say model "$([ -r "$root/proc/device-tree/model" ] && cat "$root/proc/device-tree/model")"
say cpu "$(sed -n 's/^model name[[:space:]]*: //p' "$root/proc/cpuinfo" | head -n 1)"
say vnni "$(grep -qwE 'avx512_vnni|avx_vnni' "$root/proc/cpuinfo" && echo yes)"
say glibc "$(getconf GNU_LIBC_VERSION 2>/dev/null | sed 's/glibc //')"
mb() { printf '%s' "$((${1:-0} / 1024))"; } # of kB; what is not said is 0
say memory_mb "$(mb "$(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' "$root/proc/meminfo")")"
say l4t "$(first "$root/etc/nv_tegra_release" | sed -n 's/^# R\([0-9]*\).*REVISION: \([0-9.]*\).*/\1.\2/p')"
say jetpack "$(dpkg-query -W -f '${Version}' nvidia-jetpack 2>/dev/null)"
say cuda "$(sed -n '/"cuda"/,/}/s/.*"version" *: *"\([0-9.]*\)".*/\1/p' "$root/usr/local/cuda/version.json" 2>/dev/null | head -n 1)"
say gpu "$(sed -n 's/^Model:[[:space:]]*//p' "$root"/proc/driver/nvidia/gpus/*/information 2>/dev/null | head -n 1)"
say clock "$(date -u +%s)"
# The system's own Python where it will do, because JetPack's TensorRT is a module of it; else the newest there is.
for each in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    command -v $each >/dev/null 2>&1 || continue
    said=$($each - 2>/dev/null <<'EOF'
import sys
print("python_version=%d.%d" % sys.version_info[:2])
if sys.version_info < (3, 10):
    sys.exit(1)
print("python=" + sys.executable)
try:
    import ensurepip, venv
    print("venv=yes")
except ImportError:
    pass
try:
    import tensorrt
    print("tensorrt=" + tensorrt.__version__)
except Exception:
    pass
EOF
    ) && { printf '%s\n' "$said"; break; }
    [ -z "$said" ] || printf '%s\n' "$said"
done
say folder "$folder"
there=$folder
while [ ! -d "$there" ]; do there=$(dirname "$there"); done
say disk_mb "$(mb "$(df -Pk "$there" | sed -n '2s/.* \([0-9][0-9]*\)  *[0-9][0-9]*% .*/\1/p')")"
[ -w "$there" ] && say writable yes
say current "$(readlink "$folder/current" | sed 's:.*/::')"
say before "$(readlink "$folder/current/before" | sed 's:.*/::')"
say service "$(cat "$folder/current/service" 2>/dev/null)"
if [ "$(id -u)" = 0 ]; then units=/etc/systemd/system own=""; else units=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user own=--user; fi
say systemd "$(XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/run/user/$(id -u)} systemctl $own show --property Version --value 2>/dev/null)"
[ -f "/var/lib/systemd/linger/$(id -un)" ] && say linger yes
for each in "$units"/edgecv-*.service; do [ -e "$each" ] && say unit "${each##*/}=$(readlink "$each" || echo "$each")"; done
[ -f "$folder/pending" ] && say pending "$(cat "$folder/pending") "
for each in "$folder"/environments/*/complete; do [ -f "$each" ] && say environment "$(basename "$(dirname "$each")")"; done
for each in "$folder"/bundles/*/bundle.json; do [ -f "$each" ] && say bundle "$(basename "$(dirname "$each")")"; done
exit 0
