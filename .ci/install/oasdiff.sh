#!/usr/bin/env bash
# oasdiff names the breaking changes of openapi.yaml (stability, tests/stability).
set -eu
version=v1.37.0
folder="$HOME/.cache/kestrel-gateway/oasdiff"
[ -x "$folder/oasdiff" ] && [ "$(cat "$folder/version" 2>/dev/null)" = "$version" ] && exit 0
command -v go >/dev/null || { echo "no Go, so no oasdiff: its tests fail"; exit 0; }
GOBIN="$folder" timeout 600 go install "github.com/oasdiff/oasdiff@$version" ||
  { echo "no oasdiff: its tests fail"; exit 0; }
echo "$version" >"$folder/version"
