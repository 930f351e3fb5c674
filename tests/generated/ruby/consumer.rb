# Takes and settles jobs with the client that openapi-generator makes: ruby consumer.rb URL QUEUE KEY COUNT
$LOAD_PATH.unshift(File.join(__dir__, 'kestrel'))
require 'base64'
require 'kestrel_gateway'

def check(ok, seen)
  raise "unexpected: #{seen.inspect}" unless ok
end

url, queue, key, count = ARGV
KestrelGateway.configure do |config|
  config.scheme, config.host = url.split('://')
  config.access_token = key
end
JOBS = KestrelGateway::JobsApi.new
leases = KestrelGateway::LeasesApi.new

# The next job of a queue and its lease.
def take(queue, lease_seconds = 60)
  request = KestrelGateway::LeaseRequest.new(timeout: 20, lease_seconds: lease_seconds)
  taken = JOBS.lease_jobs(queue, lease_request: request)
  check(taken.lease, 'no job came')
  [taken.jobs[0], taken.lease]
end

# Whether no job is ready.
def empty?(queue)
  JOBS.lease_jobs(queue, lease_request: KestrelGateway::LeaseRequest.new(timeout: 0)).jobs.empty?
end

# A job of JSON, and ack.
job, lease = take(queue)
check(job.data == { to: 'ada@example.org', n: 1 } && job.attempt == 1, job)
leases.ack_lease(lease.id)

# A job of text, then ack it and take the next one in one request: bytes.
text = JOBS.next_job(queue, timeout: 20)
check([text.data, text.content_type] == ['Grüße an Ada', 'text/plain'], text)
image = JOBS.next_job(queue, timeout: 20, ack: text.lease.id)
check(image.content_type == 'image/png', image)
check(Base64.strict_decode64(image.data_base64) == (0..255).to_a.pack('C*'), image)

# Give it back for a second: until then the queue is empty. It comes back as its second attempt.
nack = KestrelGateway::NackRequest.new(delay: 1, reason: 'the disk is full')
position = leases.nack_lease(image.lease.id, nack_request: nack)
check(position.position == 'tail' && position.due_at, position)
check(empty?(queue), queue)
job, lease = take(queue, 30)
check(job.id == image.id && job.attempt == 2, job)
extended = leases.extend_lease(lease.id, KestrelGateway::ExtendRequest.new(lease_seconds: 120))
check(extended.expires_at > lease.expires_at, extended)
leases.reject_lease(lease.id, reject_request: KestrelGateway::RejectRequest.new(reason: 'not an image'))
check(KestrelGateway::QueuesApi.new.get_dead_letters(queue).items == 1, queue)

# What is settled cannot be settled in another way.
begin
  leases.ack_lease(lease.id)
  raise 'a rejected job was acked'
rescue KestrelGateway::ApiError => e
  check(JSON.parse(e.response_body)['code'] == 'lease-settled', e)
end

# Many jobs, settled in tens.
numbers = []
held = []
while numbers.size < count.to_i
  job, lease = take("#{queue}-many")
  numbers << job.data[:n]
  held << lease.id
  next unless held.size == 10

  settled = leases.settle_leases(KestrelGateway::SettleRequest.new(acks: held))
  check(settled.results.all? { |result| result.status == 204 }, settled)
  held = []
end
check(numbers.sort == (0...count.to_i).to_a, numbers)

# Nothing is left. The request that was sent twice has stored one job. A nack needs no body.
check(empty?("#{queue}-many"), queue)
once = JOBS.next_job("#{queue}-once")
leases.nack_lease(once.lease.id)
once = JOBS.next_job("#{queue}-once", timeout: 20)
check(once.attempt == 2, once)
check(JOBS.next_job("#{queue}-once", ack: once.lease.id, timeout: 0).nil?, once)
