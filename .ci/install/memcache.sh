#!/usr/bin/env bash
# The memcache clients of Go, Java and Ruby (tests/foreign/test_unmodified_clients.py).
set -eu
folder="$HOME/.cache/kestrel-gateway/memcache"
programs="$PWD/tests/foreign/memcache"
mkdir -p "$folder"
if command -v go >/dev/null; then
  (cd "$programs/go" && timeout 300 go build -o "$folder/go-client" .) || echo "no gomemcache: its test fails"
fi
if command -v mvn >/dev/null && ! ls "$folder"/java/spymemcached-*.jar >/dev/null 2>&1; then
  timeout 300 mvn -q -B -f "$programs/java/pom.xml" dependency:copy-dependencies -DoutputDirectory="$folder/java" ||
    echo "no spymemcached: its test fails"
fi
if ! ruby -e 'require "dalli"' 2>/dev/null; then
  sudo=$([ "$(id -u)" = 0 ] || echo sudo)
  $sudo apt-get update -qq
  $sudo apt-get install -y -qq --no-install-recommends ruby-dalli >/dev/null || echo "no dalli: its test fails"
fi
