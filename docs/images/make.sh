#!/bin/sh
# The README's picture: the report of `make demo`, as headless Chromium shows it. Run it after `make demo`.
set -eu
cd "$(dirname "$0")/../.."
test -f runs/report.html || { echo "make.sh: no runs/report.html; run make demo first" >&2; exit 2; }
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$profile" \
    --window-size=1200,1180 --screenshot=docs/images/report.png "file://$PWD/runs/report.html"
