# Net::HTTP, which comes with Ruby: `ruby client.rb URL KEY` prints what became of each case as JSON.
require "json"
require "net/http"
require "securerandom"
require "stringio"

ADDRESS = URI("#{ARGV[0]}/send-email")

def mail(**fields)
  { subject: "s", recipient: "you@postroom.example", body: "b", key: ARGV[1] }.merge(fields).to_json
end

# One connection, that is kept.
def connected(&block) = Net::HTTP.start(ADDRESS.host, ADDRESS.port, nil, read_timeout: 120, write_timeout: 120, max_retries: 0, &block)

def post(client, body, headers = {}, chunked: false)
  request = Net::HTTP::Post.new(ADDRESS, { "Content-Type" => "application/json" }.merge(headers))
  if chunked
    request["Transfer-Encoding"] = "chunked"
    request.body_stream = StringIO.new(body)
  else
    request.body = body
  end
  answer = client.request(request)
  [answer.code.to_i, answer.body]
rescue StandardError => error
  [error.inspect, nil]
end

def in_turn(*bodies) = connected { |client| bodies.map { |body| post(client, body).first } }

def replayed
  again = { "Idempotency-Key" => SecureRandom.uuid }
  first, second = connected { |client| Array.new(2) { post(client, mail, again) } }
  [first[0], second[0], first[1] == second[1]]
end

parallel = Array.new(8) { Thread.new { in_turn(*Array.new(10) { mail }) } }.flat_map(&:value).uniq.sort_by(&:to_s)
puts({
  "post" => in_turn(mail),
  "large" => in_turn(mail(body: "x" * 5_000_000)),
  "chunked" => connected { |client| [post(client, mail(body: "x" * 100_000), chunked: true).first] },
  "parallel" => parallel,
  "replay" => replayed,
  "401" => in_turn(mail(key: "wrong"), mail),
  "422" => in_turn(mail(recipient: "nobody"), mail),
  "413" => in_turn(" " * 60_000_000, mail),
}.to_json)
