#!/usr/bin/env bash
# buildah, and a base image made by debootstrap in place of python:3.11-slim (tests/deploy/test_image.py). No container
# engine is needed: buildah runs the steps by chroot.
set -eu
folder="$HOME/.cache/kestrel-gateway/image"
if ! { command -v buildah && command -v debootstrap && command -v ip && command -v curl; } >/dev/null; then
  sudo=$([ "$(id -u)" = 0 ] || echo sudo)
  $sudo apt-get update -qq
  $sudo apt-get install -y -qq --no-install-recommends buildah debootstrap iproute2 curl >/dev/null ||
    { echo "no buildah: the tests of the image fail"; exit 0; }
fi
[ -e "$folder/base.tar.gz" ] && exit 0
[ "$(id -u)" = 0 ] || { echo "debootstrap needs root: no base image, and its tests are skipped"; exit 0; }
new="$(mktemp -d)"
trap 'rm -rf "$new"' EXIT
timeout 600 debootstrap --variant=minbase --include=python3,python3-venv bookworm "$new" >"$new.log" 2>&1 ||
  { tail -n 3 "$new.log"; rm "$new.log"; echo "no base image: the tests of the image fail"; exit 0; }
rm -rf "$new.log" "$new"/var/cache/apt/archives/*.deb "$new"/var/lib/apt/lists/*
ln -s python3 "$new/usr/bin/python"
mkdir -p "$folder"
tar -C "$new" -c . | gzip -1 >"$folder/base.tar.gz.new"
mv "$folder/base.tar.gz.new" "$folder/base.tar.gz"
