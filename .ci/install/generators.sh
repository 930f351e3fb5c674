#!/usr/bin/env bash
# The client generators, and the libraries of the clients they make (tests/generated). Versions: tests/generated/tools.
# A part that its registry does not have is left out; the tests report that.
set -eu
cd "$(dirname "$0")/../.."
pins=tests/generated/tools
tools="${KESTREL_GATEWAY_TEST_GENERATORS:-$HOME/.cache/kestrel-gateway/generators}"
mkdir -p "$tools"
sudo=$([ "$(id -u)" = 0 ] || echo sudo)

# done_for FILE: whether what FILE pins is there already; mark FILE: from now on it is.
done_for() { cmp -s "$pins/$1" "$tools/${1%.*}.done"; }
mark() { cp "$pins/$1" "$tools/${1%.*}.done"; }

packages=(php-cli php-curl php-mbstring php-guzzlehttp-guzzle ruby ruby-typhoeus)
if ! dpkg -s "${packages[@]}" >/dev/null 2>&1; then
  $sudo apt-get update -qq
  $sudo apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null ||
    echo "no PHP or Ruby libraries: the tests of their generated clients fail"
fi

if ! done_for pom.xml; then
  if command -v java >/dev/null && command -v mvn >/dev/null; then
    rm -rf "$tools/jars"
    timeout 400 mvn -q -B -f "$pins/pom.xml" dependency:copy-dependencies -DoutputDirectory="$tools/jars" && mark pom.xml
  else
    echo "no Java or Maven, so no openapi-generator"
  fi
fi

if ! done_for requirements.txt; then
  rm -rf "$tools/python"
  python3 -m venv "$tools/python"
  timeout 400 "$tools/python/bin/pip" install -q -r "$pins/requirements.txt" && mark requirements.txt
fi

if ! done_for package-lock.json; then
  if command -v npm >/dev/null; then
    rm -rf "$tools/node"
    mkdir "$tools/node"
    cp "$pins/package.json" "$pins/package-lock.json" "$tools/node/"
    (cd "$tools/node" && timeout 400 npm ci --silent --no-audit --no-fund --ignore-scripts) && mark package-lock.json
  else
    echo "no npm, so no TypeScript clients"
  fi
fi

oapi_codegen=v2.8.2
if [ ! -x "$tools/go/oapi-codegen-$oapi_codegen" ]; then
  if command -v go >/dev/null; then
    rm -rf "$tools/go"
    GOBIN="$tools/go" timeout 500 go install "github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@$oapi_codegen" &&
      mv "$tools/go/oapi-codegen" "$tools/go/oapi-codegen-$oapi_codegen"
  else
    echo "no Go, so no Go clients"
  fi
fi
