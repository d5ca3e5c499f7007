#!/bin/sh
# Debian packages that the tests need: a real RTSP server (GStreamer's), driven by Debian's own Python; FFmpeg's tools;
# an MQTT broker; promtool, which judges metrics; a browser; an ssh server, to which is deployed.
# Idempotent: without anything to do it only asks dpkg. One line on stderr says what it did or why it cannot.
set -eu

packages="python3 python3-gi gir1.2-gstreamer-1.0 gir1.2-gst-rtsp-server-1.0
gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-tools
ffmpeg mosquitto prometheus chromium openssh-server openssh-client"
# `install-debian.sh camera`: what emulates a computer with cameras, for tests/camera.
[ "${1:-}" != camera ] || packages="qemu-system-x86 mmdebstrap debian-archive-keyring busybox-static cpio kmod udev
v4l-utils gcc libc6-dev make libelf1"

if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "install-debian.sh: this is no Debian or Ubuntu; install GStreamer's RTSP server and its Python binding by hand" >&2
    exit 1
fi

# `install-debian.sh service`: a container that systemd runs, for tests/deploy/service_checks.py.
[ "${1:-}" != service ] || packages="systemd-container python3-venv curl openssh-server openssh-client"

# `install-debian.sh image`: what builds and runs images, for tests/deploy/image_checks.py.
[ "${1:-}" != image ] || packages="buildah podman runc docker-compose mmdebstrap debian-archive-keyring
binutils binutils-aarch64-linux-gnu qemu-user-static"
# `install-debian.sh arm64`: what runs ARM64 programs, for tests/arm64.
[ "${1:-}" != arm64 ] || packages="qemu-user-static mmdebstrap debian-archive-keyring"

missing=""
for package in $packages; do
    state=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
    [ "$state" = "install ok installed" ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=""
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "install-debian.sh: needs root for: apt-get install --no-install-recommends$missing" >&2
        exit 1
    fi
    as_root="sudo"
fi

install() {
    # shellcheck disable=SC2086  # a list of words is meant
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >"$log" 2>&1
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "install-debian.sh: installing$missing" >&2
# The lists that are there may do; only when they do not (none, or too old) are they fetched anew.
if ! install; then
    $as_root apt-get update -qq >"$log" 2>&1 || true
    if ! install; then
        tail -n 5 "$log" >&2
        echo "install-debian.sh: apt-get could not install$missing" >&2
        exit 1
    fi
fi
