# frozen_string_literal: true

# Enqueues jobs: reads them from standard input, a line of JSON each, and prints their ids.
#
#   echo '{"to": "ada@example.org"}' | QUEUE=emails ruby producer.rb

require "securerandom"
require_relative "gateway"

GIVE_UP_S = 120

# Stores a job, given as JSON, and returns its id. Raises Gateway::Failed.
def enqueue(job)
  # One key for all tries of this job. If it was stored and the answer got lost, the next try gets that answer.
  headers = { "Idempotency-Key" => SecureRandom.uuid }
  Gateway.call(Gateway.post("#{Gateway::QUEUE_PATH}/jobs", job, headers), give_up_s: GIVE_UP_S)["id"]
end

$stdout.sync = true
$stdin.each_line.with_index(1) do |line, number|
  puts enqueue(line)
rescue Gateway::Failed => failed
  abort "line #{number} is not enqueued: #{failed.message}"
end
