#!/usr/bin/env bash
# promtool checks the metrics, the alerts and the dashboard (tests/monitoring).
set -eu
command -v promtool >/dev/null && exit 0
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends prometheus >/dev/null
# Debian starts the server; only promtool is needed.
if command -v systemctl >/dev/null; then
  $sudo systemctl disable --now prometheus prometheus-node-exporter >/dev/null 2>&1 || true
fi
