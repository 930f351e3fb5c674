#!/usr/bin/env bash
# The supervisors under which workers run (tests/work/test_supervisors.py). Neither is started by the installation.
set -eu
PATH="$PATH:/usr/sbin"
command -v supervisord >/dev/null && command -v runsv >/dev/null && exit 0
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
# Packages start their services unless policy-rc.d says no. Source: invoke-rc.d(8).
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
  $sudo chmod 755 "$policy"
  trap '$sudo rm -f "$policy"' EXIT
fi
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends supervisor runit >/dev/null
