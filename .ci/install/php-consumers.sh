#!/usr/bin/env bash
# What the PHP consumers of clients/php need (tests/php). supervisor.sh installs supervisord.
set -eu
[ -e /usr/share/php/Symfony/Component/Messenger/autoload.php ] && php -m 2>/dev/null | grep -qx memcached &&
  php -m | grep -qx curl && exit 0
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends php-cli php-curl php-memcached php-symfony-messenger \
  php-symfony-event-dispatcher >/dev/null
