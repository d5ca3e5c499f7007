#!/bin/sh
# image.sh [KIND]: build edgecv:KIND-ARCH, and say what it weighs. KIND: cpu, serve (cpu without video) or jetson.
# ARCH: x86_64 or aarch64; PYTHON: to build with; BUILDER: buildah, docker or podman; BASE: another base, of Python TARGET.
# BUILDER_OPTIONS: what the builder wants besides (--isolation chroot, say); OUT: where the packages are put together.
set -eu
kind=${1:-cpu} here=$(cd "$(dirname "$0")" && pwd) python=${PYTHON:-python3}
pins=constraints.txt
case $kind in
cpu) file=Containerfile extras=${EXTRAS:-cpu,page} target=${TARGET:-3.11} glibc=36 arch=${ARCH:-$(uname -m)} more="" ;;
serve) file=Containerfile extras=${EXTRAS:-edge,serve} target=${TARGET:-3.11} glibc=36 arch=${ARCH:-$(uname -m)}
    more="typer rich pyyaml" ;;
jetson) # JetPack 6: Python 3.10 and CUDA 12; its image, unlike a Jetson, lists no OpenCV
    file=Containerfile.jetson extras=${EXTRAS:-edge,page} target=${TARGET:-3.10} glibc=35 arch=aarch64
    more="cuda-bindings<13 av typer rich pyyaml" pins=constraints-jp6.txt ;;
*) echo "image.sh: KIND is cpu, serve or jetson, got '$kind'" >&2; exit 2 ;;
esac
[ -n "${BUILDER:-}" ] || for each in buildah docker podman; do command -v $each >/dev/null && BUILDER=$each && break; done
[ -n "${BUILDER:-}" ] || { echo "image.sh: no buildah, docker or podman: apt-get install buildah" >&2; exit 3; }
case $BUILDER in buildah*) build=bud ;; *) build=build ;; esac
work=${OUT:-$(mktemp -d)}
[ -n "${OUT:-}" ] || trap 'rm -rf "$work"' EXIT
platforms=""
for minor in $(seq $glibc -1 17); do platforms="$platforms --platform manylinux_2_${minor}_$arch"; done
"$python" -m pip --quiet --disable-pip-version-check wheel --no-deps --wheel-dir "$work" "$here/.."
# shellcheck disable=SC2086  # lists of words
"$python" -m pip --quiet --disable-pip-version-check install --no-compile --target "$work/packages" --python-version "$target" \
    --implementation cp --only-binary :all: $platforms --platform "manylinux2014_$arch" --constraint "$here/../$pins" \
    "$(echo "$work"/edgecv-*.whl)[$extras]" $more
"$python" "$here/trim.py" "$work/packages" "$arch" >&2
cp "$here/$file" "$work/Containerfile"
case $BUILDER in docker*) form="" ;; *) form="--format docker" ;; esac # OCI's own has no HEALTHCHECK
# shellcheck disable=SC2086
$BUILDER $build $form ${BUILDER_OPTIONS:-} ${BASE:+--build-arg BASE="$BASE"} --platform "linux/$(echo "$arch" | sed 's/x86_64/amd64/; s/aarch64/arm64/')" \
    --tag "edgecv:$kind-$arch" --file "$work/Containerfile" "$work" >&2
echo "edgecv:$kind-$arch: $(du -sm "$work/packages" | cut -f1) MiB beyond its base"
du -sm "$work"/packages/* | sort -rn | head -n 8 | sed "s:$work/packages/:    :"
