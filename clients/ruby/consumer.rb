# frozen_string_literal: true

# Takes jobs from a queue, works on one after the other, and acks them.
#
#   QUEUE=emails ruby consumer.rb
#
# LEASE_SECONDS (60) is the length of the lease. If it is not extended in time, another consumer gets the job.
# SIGTERM ends it with exit code 0: at once while it waits for a job, otherwise once its job is acked.

require_relative "gateway"

lease = Gateway.setting("LEASE_SECONDS", "60")
abort "LEASE_SECONDS: '#{lease}' is not a whole number of seconds from 1 on" unless lease.match?(/\A[1-9][0-9]{0,8}\z/)
LEASE_S = lease.to_i

# Your code. Raises if the job failed. A job may come twice: tell by job["id"].
def work(job)
  mail = job["data"] # a string for text; "data_base64" for bytes that are neither JSON nor text
  raise "the mail has no address" unless mail.is_a?(Hash) && mail["to"]

  sleep mail.fetch("seconds", 0) # in place of real work
  puts JSON.generate(mail)
end

# Works on the job, then acks it, or gives it back with the reason.
def handle(job)
  lease = "/leases/#{job["lease"]["id"]}"
  warn "#{job["id"]}: attempt #{job["attempt"]}"
  extended(lease) { work(job) }
rescue StandardError => error
  warn "#{job["id"]} failed: #{error.message}"
  # The next attempt comes later each time. After the last one the job goes to the dead letters.
  settle("#{lease}/nack", JSON.generate(reason: error.message, delay: [2**job["attempt"], 300].min))
else
  settle("#{lease}/ack")
end

def settle(path, json = nil)
  Gateway.call(Gateway.post(path, json), give_up_s: LEASE_S)
rescue Gateway::Failed => failed
  # lease-expired, lease-lost, outcome-unknown: the job may come again. There is nothing to repair here.
  warn "not settled: #{failed.message}"
end

# Extends the lease, again and again, while the block runs.
def extended(lease)
  extending = Thread.new do
    loop do
      sleep LEASE_S / 3.0
      Gateway.once(Gateway.post("#{lease}/extend", JSON.generate(lease_seconds: LEASE_S)))
    rescue Gateway::Failed => failed
      warn "not extended: #{failed.message}"
    end
  end
  yield
ensure
  extending.kill.join
end

busy = stopping = false
%w[TERM INT].each do |signal|
  trap(signal) do
    stopping = true
    exit unless busy # ends the poll; the gateway sees its connection close and gives it no job
  end
end

begin
  $stdout.sync = true
  until stopping
    job = Gateway.call(Gateway.get("#{Gateway::QUEUE_PATH}/next?timeout=#{Gateway::WAIT_S}&lease_seconds=#{LEASE_S}"))
    next unless job

    busy = true
    handle(job)
    busy = false
  end
rescue Gateway::Failed => failed
  abort "stopped: #{failed.message}"
end
