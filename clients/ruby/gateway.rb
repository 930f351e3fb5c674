# frozen_string_literal: true

# Requests to the gateway, sent again while that can help. Used by producer.rb and consumer.rb.
#
# GATEWAY_URL   where the gateway is (http://127.0.0.1:8080)
# GATEWAY_KEY   the secret of a key, if the gateway asks for one
# QUEUE         the queue (emails)

require "erb"
require "json"
require "net/http"

module Gateway
  # The environment variable, or the default if it is absent or empty.
  def self.setting(name, default)
    value = ENV[name].to_s
    value.empty? ? default : value
  end

  # The URL without a slash at its end. Ends the program if it is not valid.
  def self.url(value)
    url = URI(value.sub(%r{/+\z}, ""))
    return url if value.match?(%r{\Ahttps?://[^/?#@\s][^?#@\s]*\z}) && url.host && url.port < 65_536

    raise URI::InvalidURIError
  rescue URI::InvalidURIError
    abort "GATEWAY_URL: '#{value}' is not a URL such as http://127.0.0.1:8080"
  end
  private_class_method :url

  URL = url(setting("GATEWAY_URL", "http://127.0.0.1:8080"))
  KEY = setting("GATEWAY_KEY", nil)
  if KEY && !KEY.b.match?(/\A[!-~]+\z/)
    abort "GATEWAY_KEY: a key consists of visible ASCII characters without spaces"
  end
  QUEUE_PATH = "/queues/#{ERB::Util.url_encode(setting("QUEUE", "emails"))}"
  WAIT_S = 20 # how long a poll waits at the gateway
  TIMEOUT_S = WAIT_S + 10 # longer than the wait: the gateway always answers first

  # The gateway did not do it. `code` says why and is stable; the message is for people.
  class Failed < StandardError
    attr_reader :code, :retry_after_s

    def initialize(code, detail, retryable:, retry_after_s: 0)
      super("#{code}: #{detail}")
      @code = code
      @retryable = retryable
      @retry_after_s = retry_after_s
    end

    def retryable? = @retryable
  end

  # The JSON body of the answer; nil if the body is empty. Tries again while that can help. Raises Failed.
  def self.call(request, give_up_s: Float::INFINITY)
    give_up = now_s + give_up_s
    (0..).each do |attempt|
      return once(request)
    rescue Failed => failed
      # A random pause, longer each time, so that many clients do not come back at the same moment.
      pause_s = failed.retry_after_s + rand * 0.2 * 2**[attempt, 7].min
      raise if !failed.retryable? || now_s + pause_s > give_up

      warn format("%s; next try in %.1f s", failed.message, pause_s)
      sleep pause_s
    end
  end

  # As call, with a single try.
  def self.once(request)
    request["Authorization"] = "Bearer #{KEY}" if KEY
    answer = Net::HTTP.start(URL.host, URL.port, use_ssl: URL.scheme == "https", read_timeout: TIMEOUT_S) do |http|
      http.request(request)
    end
    return answer.body.to_s.empty? ? nil : JSON.parse(answer.body) if answer.is_a?(Net::HTTPSuccess)

    raise failed(answer)
  rescue SystemCallError, IOError, SocketError, Timeout::Error, OpenSSL::SSL::SSLError, Net::ProtocolError => error
    raise Failed.new("no-answer", error.message, retryable: true)
  end

  def self.get(path) = Net::HTTP::Get.new(URL.path + path)

  # A POST; json is its body, and may be nil.
  def self.post(path, json = nil, headers = {})
    request = Net::HTTP::Post.new(URL.path + path, headers)
    request["Content-Type"] = "application/json" if json
    request.body = json.to_s
    request
  end

  def self.failed(answer)
    after_s = answer["Retry-After"].to_i
    if answer["Content-Type"].to_s.start_with?("application/problem+json")
      problem = JSON.parse(answer.body)
      return Failed.new(problem["code"], problem["detail"], retryable: problem["retryable"], retry_after_s: after_s)
    end
    # A proxy on the way answered.
    retryable = %w[429 502 503 504].include?(answer.code)
    Failed.new("http-#{answer.code}", answer.message, retryable: retryable, retry_after_s: after_s)
  end
  private_class_method :failed

  def self.now_s = Process.clock_gettime(Process::CLOCK_MONOTONIC)
  private_class_method :now_s
end
