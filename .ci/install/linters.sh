#!/usr/bin/env bash
# The linters of openapi.yaml that npm has (tests/contract_file/test_linters.py). openapi-spec-validator comes with the dev extra.
set -eu
folder="${KESTREL_GATEWAY_TEST_LINTERS:-$HOME/.cache/kestrel-gateway/linters}"
pinned="@redocly/cli@2.77.0 @stoplight/spectral-cli@6.16.3"
[ "$(cat "$folder/pinned" 2>/dev/null)" = "$pinned" ] && exit 0
command -v npm >/dev/null || { echo "no npm, so no linters of openapi.yaml: their tests are skipped"; exit 0; }
mkdir -p "$folder"
# Two packages, so without quotes.
# shellcheck disable=SC2086
timeout 300 npm install --prefix "$folder" --no-save --no-audit --no-fund --ignore-scripts --loglevel=error $pinned
echo "$pinned" >"$folder/pinned"
