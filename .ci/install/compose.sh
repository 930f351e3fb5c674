#!/usr/bin/env bash
# The program of the Compose Specification that validates compose files, as `docker compose config` does
# (tests/deploy/test_compose.py). It needs no container engine.
set -eu
version=v2.16.2
folder="$HOME/.cache/kestrel-gateway/compose"
[ -x "$folder/compose-config" ] && [ "$(cat "$folder/version" 2>/dev/null)" = "$version" ] && exit 0
command -v go >/dev/null || { echo "no Go, so no validator of compose files: its tests fail"; exit 0; }
GOBIN="$folder" timeout 600 go install "github.com/compose-spec/compose-go/v2/cmd@$version" ||
  { echo "no validator of compose files: its tests fail"; exit 0; }
mv "$folder/cmd" "$folder/compose-config"
echo "$version" >"$folder/version"
