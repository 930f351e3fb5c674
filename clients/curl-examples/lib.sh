# shellcheck shell=bash
# What every example shares; sourced, not run. Prints each request and its answer, and ends the example with exit
# code 1 when an answer is not the expected one.
#
#   GATEWAY   where the gateway listens (default http://127.0.0.1:8080)
#   QUEUE     this run's own queue; it is deleted when the example ends

set -euo pipefail

GATEWAY=${GATEWAY:-http://127.0.0.1:8080}
NAME=${0##*/}
QUEUE=curl-${NAME%.sh}-$$-$RANDOM
FILES=$(mktemp -d)
trap 'curl -s -o /dev/null --max-time 5 -X DELETE "$GATEWAY/queues/$QUEUE" || true; rm -rf "$FILES"' EXIT

say() { printf '# %s\n' "$*"; }

fail() {
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}

# request CURL-ARGUMENTS...: runs curl and keeps the answer: its status in STATUS, its body, up to a zero byte, in BODY.
request() {
  printf '$ curl'
  for argument in "$@"; do
    case $argument in
      *[!A-Za-z0-9_.,:/=@%+-]*) printf " '%s'" "$argument" ;;
      *) printf ' %s' "$argument" ;;
    esac
  done
  printf '\n'
  : >"$FILES/body"
  STATUS=$(curl -sS --max-time 60 -D "$FILES/head" -o "$FILES/body" -w '%{http_code}' "$@")
  IFS= read -r -d '' BODY <"$FILES/body" || true
  printf '%s  %s\n\n' "$STATUS" "${BODY:0:300}"
}

expect_status() {
  [ "$STATUS" = "$1" ] || fail "the status should be $1, it is $STATUS"
}

# expect_in_body TEXT: the answer's body holds this very text.
expect_in_body() {
  [[ $BODY == *"$1"* ]] || fail "the body should hold $1"
}

# header NAME: that header of the answer.
header() {
  awk -v name="$1" -F': ' 'tolower($1) == tolower(name) { sub(/\r$/, ""); print substr($0, length($1) + 3) }' "$FILES/head"
}

# member NAME: the first string of that name in the answer's JSON; enough for these examples, no JSON parser.
member() {
  [[ $BODY =~ \"$1\":\"([^\"]*)\" ]] && printf '%s\n' "${BASH_REMATCH[1]}"
}

# given_a_job [BODY]: what an example needs to be there before it starts.
given_a_job() {
  say "A job to work with"
  request "$GATEWAY/queues/$QUEUE/jobs" -H 'Content-Type: application/json' -d "${1:-{\"to\":\"ada@example.org\"\}}"
  expect_status 201
}

# given_a_lease: a job, and the lease under which it was taken, as $LEASE.
given_a_lease() {
  given_a_job
  request "$GATEWAY/queues/$QUEUE/next?timeout=5&lease=30"
  expect_status 200
  LEASE=$(header Lease-Id)
  [ -n "$LEASE" ] || fail "the answer should carry a Lease-Id header"
}
