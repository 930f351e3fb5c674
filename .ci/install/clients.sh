#!/usr/bin/env bash
# What the example clients need (tests/clients): PHP with curl, Ruby, and TypeScript from npm. Go and Java are part of
# the machine; where one is missing its tests say so.
set -eu
if ! { php -m 2>/dev/null | grep -qx curl && command -v ruby >/dev/null; }; then
  sudo=$([ "$(id -u)" = 0 ] || echo sudo)
  $sudo apt-get update -qq
  $sudo apt-get install -y -qq --no-install-recommends php-cli php-curl ruby >/dev/null
fi
folder="$HOME/.cache/kestrel-gateway/typescript"
mkdir -p "$folder"
command -v npm >/dev/null || { echo "no npm, so no TypeScript: its tests fail"; exit 0; }
if ! cmp -s clients/typescript/package.json "$folder/package.json" || [ ! -d "$folder/node_modules/typescript" ]; then
  cp clients/typescript/package.json "$folder/package.json"
  timeout 300 npm install --prefix "$folder" --no-audit --no-fund --silent || echo "no TypeScript: its tests fail"
fi
