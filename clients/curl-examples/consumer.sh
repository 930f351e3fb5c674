#!/usr/bin/env bash
# A consumer: takes job after job, runs a command on each, acks when it worked and gives the job back when it did not.
#
#   ./consumer.sh QUEUE [COMMAND [ARGUMENT...]]      for instance: ./consumer.sh emails ./send-mail
#
# The command gets the delivery as JSON on its standard input (`cat` when none is given) and must end with exit code 0
# once the work is done. SIGTERM ends the consumer once the poll (20 seconds at most) or its job is finished.
#
#   GATEWAY_URL     where the gateway listens (default http://127.0.0.1:8080); also GATEWAY
#   GATEWAY_KEY     the secret of a key, if the gateway asks for one
#   LEASE_SECONDS   seconds the command has before the job goes to another consumer (default 60); also LEASE
#   JOBS            stop after so many finished jobs (default: never)
#   TRIES           give up after so many requests without success in a row (default 10), PAUSE seconds apart (default 1)
set -uo pipefail

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

# encoded TEXT: the text as one part of a URL's path.
encoded() {
  local LC_ALL=C at character byte
  for ((at = 0; at < ${#1}; at++)); do
    character=${1:at:1}
    case $character in
      [A-Za-z0-9_.~-]) printf '%s' "$character" ;;
      *) printf -v byte '%d' "'$character" && printf '%%%02X' $((byte & 255)) ;;
    esac
  done
}

visible() {
  local LC_ALL=C
  [[ $1 =~ ^[[:graph:]]*$ ]]
}

GATEWAY=${GATEWAY:-${GATEWAY_URL:-http://127.0.0.1:8080}}
[[ $GATEWAY =~ ^https?://[^/?#@[:space:]][^?#@[:space:]]*$ ]] ||
  fail "GATEWAY_URL: '$GATEWAY' is not a URL such as http://127.0.0.1:8080"
GATEWAY=${GATEWAY%/}
LEASE=${LEASE:-${LEASE_SECONDS:-60}}
[[ $LEASE =~ ^[1-9][0-9]{0,8}$ ]] || fail "LEASE_SECONDS: '$LEASE' is not a whole number of seconds from 1 on"
visible "${GATEWAY_KEY:-}" || fail "GATEWAY_KEY: a key consists of visible ASCII characters without spaces"
QUEUE=$(encoded "${1:?usage: consumer.sh QUEUE [COMMAND [ARGUMENT...]]}") || exit
shift
[ $# -gt 0 ] || set -- cat

FILES=$(mktemp -d)
trap 'rm -rf "$FILES"' EXIT
# In a file: the arguments of a command are visible to every user of the machine.
printf '%s\n' "${GATEWAY_KEY:+Authorization: Bearer $GATEWAY_KEY}" >"$FILES/key"
stopping=
trap 'stopping=yes' INT TERM
finished=0
failures=0

# settle ack|nack: reports what became of the job.
settle() {
  curl -sS -H @"$FILES/key" --max-time 20 --retry 3 --retry-connrefused -o "$FILES/answer" -w '%{http_code}' -X POST "$GATEWAY/leases/$lease/$1"
}

until [ -n "$stopping" ] || [ "$finished" = "${JOBS:-}" ]; do
  status=$(curl -sS -H @"$FILES/key" --max-time 40 -D "$FILES/head" -o "$FILES/job" -w '%{http_code}' \
    "$GATEWAY/queues/$QUEUE/next?timeout=20&lease_seconds=$LEASE")
  case $status in
    200) failures=0 ;;
    204) failures=0 && continue ;; # nothing came in 20 seconds: ask again
    000 | 429 | 5??)
      failures=$((failures + 1))
      if [ -z "$stopping" ] && [ "$failures" -ge "${TRIES:-10}" ]; then
        echo "giving up after $failures tries" >&2
        exit 1
      fi
      [ -n "$stopping" ] || sleep "${PAUSE:-1}"
      continue
      ;;
    *)
      cat "$FILES/job" >&2
      exit 1
      ;;
  esac
  lease=$(tr -d '\r' <"$FILES/head" | awk -F': ' 'tolower($1) == "lease-id" { print $2 }')
  if [ -z "$lease" ]; then
    echo "no Lease-Id in the answer: is this a gateway?" >&2
    exit 1
  fi
  if "$@" <"$FILES/job"; then
    answer=$(settle ack)
    if [ "$answer" = 204 ]; then
      finished=$((finished + 1))
      echo "done: $lease" >&2
    else
      # 410: the lease was over before the work was; another consumer gets the job again.
      echo "not acked ($answer): $(cat "$FILES/answer")" >&2
    fi
  else
    echo "failed, given back ($(settle nack)): $lease" >&2
    [ -n "$stopping" ] || sleep "${PAUSE:-1}" # it may be the only one: do not spin
  fi
done
