#!/usr/bin/env bash
# A consumer: takes job after job, runs a command on each, acks when it worked and gives the job back when it did not.
#
#   ./consumer.sh QUEUE [COMMAND [ARGUMENT...]]      for instance: ./consumer.sh emails ./send-mail
#
# The command gets the delivery as JSON on its standard input (`cat` when none is given) and must end with exit code 0
# once the work is done. SIGTERM ends the consumer once the poll (20 seconds at most) or the job in hand is finished.
#
#   GATEWAY   where the gateway listens (default http://127.0.0.1:8080)
#   LEASE     seconds the command has before the job goes to another consumer (default 60)
#   JOBS      stop after so many finished jobs (default: never)
#   TRIES     give up after so many requests without success in a row (default 10), PAUSE seconds apart (default 1)
set -uo pipefail

GATEWAY=${GATEWAY:-http://127.0.0.1:8080}
QUEUE=${1:?usage: consumer.sh QUEUE [COMMAND [ARGUMENT...]]}
shift
[ $# -gt 0 ] || set -- cat

FILES=$(mktemp -d)
trap 'rm -rf "$FILES"' EXIT
stopping=
trap 'stopping=yes' INT TERM
finished=0
failures=0

# settle ack|nack: tells what became of the job in hand.
settle() {
  curl -sS --max-time 20 --retry 3 --retry-connrefused -o "$FILES/answer" -w '%{http_code}' -X POST "$GATEWAY/leases/$lease/$1"
}

until [ -n "$stopping" ] || [ "$finished" = "${JOBS:-}" ]; do
  status=$(curl -sS --max-time 40 -D "$FILES/head" -o "$FILES/job" -w '%{http_code}' \
    "$GATEWAY/queues/$QUEUE/next?timeout=20&lease=${LEASE:-60}")
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
