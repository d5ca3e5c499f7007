#!/bin/sh
# The picture of docs/inspect.md: the pictures of a trained network's page, as headless Chromium shows them.
set -eu
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
edgecv inspect efficientnet_lite0 --weights imagenet --html "$folder/page.html" > "$folder/table.txt"
sed 's|</style>|header, .totals, #layers, #what-if, #pictures h2, .absent, footer { display: none }</style>|' \
    "$folder/page.html" > "$folder/pictures.html"
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$folder/profile" \
    --window-size=1200,800 --screenshot=docs/images/inspect.png "file://$folder/pictures.html"
