#!/usr/bin/env bash
# Debian's Chromium, Playwright for Python to drive it, and axe-core (tests/ui, make screenshots). Playwright's own
# browsers are not needed. The Python packages have a folder of their own, so `make install` does not fetch them.
set -eu
folder="${KESTREL_GATEWAY_TEST_BROWSER:-$HOME/.cache/kestrel-gateway/browser}"
pinned="playwright==1.65.2 axe-core@4.14.1"
if ! { command -v chromium && command -v pngquant; } >/dev/null; then
  sudo=$([ "$(id -u)" = 0 ] || echo sudo)
  $sudo apt-get update -qq
  $sudo apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core pngquant >/dev/null ||
    echo "no chromium: the tests of the page fail"
fi
[ "$(cat "$folder/pinned" 2>/dev/null)" = "$pinned" ] && exit 0
rm -rf "$folder"
mkdir -p "$folder"
timeout 300 python3 -m pip install -q --disable-pip-version-check --target "$folder/python" playwright==1.65.2 || { echo "no playwright: the tests of the page fail"; exit 0; }
command -v npm >/dev/null || { echo "no npm, so no axe-core: its tests fail"; exit 0; }
timeout 300 npm install --prefix "$folder" --no-save --no-audit --no-fund --ignore-scripts --loglevel=error axe-core@4.14.1
echo "$pinned" >"$folder/pinned"
