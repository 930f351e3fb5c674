#!/usr/bin/env bash
# The real ZooKeeper (tests/kestrel/test_zookeeper.py); its tests skip where Java, Maven or its registry is missing.
set -eu
folder="${KESTREL_GATEWAY_TEST_ZOOKEEPER:-$HOME/.cache/kestrel-gateway/zookeeper}"
ls "$folder"/zookeeper-3*.jar >/dev/null 2>&1 && exit 0
if ! command -v java >/dev/null || ! command -v mvn >/dev/null; then
  echo "no Java or Maven, so no ZooKeeper: its tests are skipped"
  exit 0
fi
timeout 300 mvn -q -B -f .ci/zookeeper.xml dependency:copy-dependencies -DoutputDirectory="$folder" ||
  echo "no ZooKeeper: its tests are skipped"
