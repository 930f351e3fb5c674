#!/usr/bin/env bash
# Python 3.14 (tests/process/test_python_versions.py), which Debian 12 lacks: a Go module carries the whole of it.
# Python 3.12 and 3.13 are tested where the machine has them.
set -eu
folder="$HOME/.cache/kestrel-gateway/python-3.14"
{ command -v python3.14 || [ -x "$folder/bin/python3.14" ]; } >/dev/null && exit 0
command -v go >/dev/null || { echo "no Go, so no Python 3.14: its test is skipped"; exit 0; }
module="$(go mod download -json github.com/kluctl/go-embed-python@v0.0.0-3.14.6-20260610-1 |
  sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')"
[ -n "$module" ] || { echo "no Python 3.14: its test is skipped"; exit 0; }
rm -rf "$folder.new"
mkdir -p "$folder.new"
cp -r "$module"/python/internal/data/linux-amd64/{bin,lib} "$folder.new"
chmod -R u+w "$folder.new"
find "$folder.new" -name '*.gz' -exec gunzip {} +
chmod +x "$folder.new/bin/python3.14"
mv "$folder.new" "$folder"
