# A Ruby program with dalli 3.0, which speaks binary memcache only: ruby client.rb PORT QUEUE
# It prints the error of its first set.
require "dalli"

client = Dalli::Client.new("127.0.0.1:#{ARGV[0]}", socket_timeout: 10)
begin
  client.set(ARGV[1], "job")
  puts "stored"
rescue Dalli::DalliError => error
  puts "#{error.class}: #{error.message}"
end
