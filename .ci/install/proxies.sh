#!/usr/bin/env bash
# The reverse proxies in front of the gateway (tests/proxies).
set -eu
PATH="$PATH:/usr/sbin"
command -v nginx >/dev/null && command -v haproxy >/dev/null && command -v caddy >/dev/null && exit 0
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends nginx-light haproxy caddy >/dev/null
