#!/usr/bin/env bash
# PHP as a foreign client of the queues (tests/foreign).
set -eu
php -m 2>/dev/null | grep -qx memcached && exit 0
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends php-cli php-memcached >/dev/null
