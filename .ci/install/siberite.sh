#!/usr/bin/env bash
# A server that imitates Kestrel (tests/kestrel/test_imitators.py); its tests skip where Go or its module proxy lacks it.
set -eu
command -v siberite >/dev/null && exit 0
command -v go >/dev/null || { echo "no Go, so no Siberite: its tests are skipped"; exit 0; }
GOBIN="$HOME/go/bin" go install github.com/bogdanovich/siberite@latest || echo "no Siberite: its tests are skipped"
