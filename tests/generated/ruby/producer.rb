# Enqueues jobs with the client that openapi-generator makes: ruby producer.rb URL QUEUE KEY COUNT
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
jobs = KestrelGateway::JobsApi.new

receipt = jobs.enqueue_job(queue, { to: 'ada@example.org', n: 1 })
check(receipt.id && receipt.queue == queue, receipt)

text = KestrelGateway::JobToEnqueue.new(content_type: 'text/plain', data: 'Grüße an Ada')
bytes = (0..255).to_a.pack('C*')
image = KestrelGateway::JobToEnqueue.new(content_type: 'image/png', data_base64: Base64.strict_encode64(bytes))
receipt = jobs.enqueue_jobs(queue, KestrelGateway::EnqueueRequest.new(jobs: [text, image]))
check(receipt.results.map(&:status) == [201, 201], receipt)

# The same request sent twice is stored once.
first = jobs.enqueue_job("#{queue}-once", { n: 1 }, idempotency_key: 'order-1')
again = jobs.enqueue_job("#{queue}-once", { n: 1 }, idempotency_key: 'order-1')
check(first.id == again.id, again)
begin
  jobs.enqueue_job("#{queue}-once", { n: 2 }, idempotency_key: 'order-1')
  raise 'the key was accepted with another body'
rescue KestrelGateway::ApiError => e
  check(JSON.parse(e.response_body)['code'] == 'idempotency-key-reused', e)
end

count.to_i.times { |n| jobs.enqueue_job("#{queue}-many", { n: n }) }
