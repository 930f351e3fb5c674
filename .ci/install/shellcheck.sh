#!/usr/bin/env bash
# Checks every shell script (tests/test_shell_scripts.py).
set -eu
command -v shellcheck >/dev/null && exit 0
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends shellcheck >/dev/null
