#!/usr/bin/env bash
# The CloudEvents SDKs (tests/foreign/test_cloudevents_sdks.py): Python, an old and a new one, JavaScript, Go and Java.
# What a registry does not serve is said here, and its test tells the rest.
set -eu
folder="$HOME/.cache/kestrel-gateway/cloudevents"
programs="$PWD/tests/foreign/cloudevents"
mkdir -p "$folder"

python_sdk() {
  [ -x "$folder/python-$1/bin/python" ] && "$folder/python-$1/bin/python" -c 'import cloudevents, requests' 2>/dev/null && return
  python3 -m venv "$folder/python-$1"
  "$folder/python-$1/bin/pip" install -q --disable-pip-version-check "cloudevents==$2" 'requests>=2.31,<3'
}

javascript_sdk() {
  command -v npm >/dev/null || return
  [ -d "$folder/javascript/node_modules/cloudevents" ] && cmp -s "$programs/javascript/package.json" "$folder/javascript/package.json" && return
  mkdir -p "$folder/javascript"
  cp "$programs/javascript/package.json" "$folder/javascript/"
  npm install --silent --no-audit --no-fund --prefix "$folder/javascript"
}

go_sdk() {
  command -v go >/dev/null || return
  (cd "$programs/go" && go build -o "$folder/go-client" .)
}

java_sdk() {
  command -v java >/dev/null && command -v mvn >/dev/null || return
  ls "$folder"/java/cloudevents-http-basic-*.jar >/dev/null 2>&1 ||
    timeout 300 mvn -q -B -f "$programs/java/pom.xml" dependency:copy-dependencies -DoutputDirectory="$folder/java"
}

for sdk in 'python_sdk 1 1.2.0' 'python_sdk 2 2.2.0' javascript_sdk go_sdk java_sdk; do
  $sdk || echo "no CloudEvents SDK: $sdk"
done
