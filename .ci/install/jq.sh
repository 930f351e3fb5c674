#!/usr/bin/env bash
# The consumer in shell on the page about streams (tests/streams/test_page.py).
set -eu
command -v jq >/dev/null && command -v curl >/dev/null && exit 0
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends jq curl >/dev/null
