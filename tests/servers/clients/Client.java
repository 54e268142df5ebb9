// java.net.http: `java Client.java URL KEY` prints what became of each case as JSON.
import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.UUID;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.Collectors;

public class Client {
    record Seen(String status, String body) {}

    static URI address;
    static String key;

    static String mail(String... fields) {
        Map<String, String> document = new TreeMap<>(
            Map.of("subject", "s", "recipient", "you@postroom.example", "body", "b", "key", key));
        for (int at = 0; at < fields.length; at += 2) document.put(fields[at], fields[at + 1]);
        return document.entrySet().stream()
            .map(each -> "\"" + each.getKey() + "\": \"" + each.getValue() + "\"")
            .collect(Collectors.joining(", ", "{", "}"));
    }

    // HTTP/2 is its default: it asks for it by an upgrade, which the service ignores.
    static HttpClient connected() {
        return HttpClient.newHttpClient();
    }

    static Seen post(HttpClient client, BodyPublisher body, String again) {
        var request = HttpRequest.newBuilder(address).timeout(Duration.ofSeconds(120))
            .header("Content-Type", "application/json").POST(body);
        if (again != null) request.header("Idempotency-Key", again);
        try {
            var answer = client.send(request.build(), BodyHandlers.ofString());
            return new Seen(String.valueOf(answer.statusCode()), answer.body());
        } catch (Exception error) {
            return new Seen("\"" + error.toString().replace('"', '\'') + "\"", null);
        }
    }

    static List<String> inTurn(String... bodies) {
        var client = connected();
        var seen = new ArrayList<String>();
        for (String body : bodies) seen.add(post(client, BodyPublishers.ofString(body), null).status());
        return seen;
    }

    static List<String> parallel() throws Exception {
        var pool = Executors.newFixedThreadPool(8);
        var running = new ArrayList<Future<List<String>>>();
        for (int number = 0; number < 8; number++)
            running.add(pool.submit(() -> {
                var bodies = new String[10];
                for (int count = 0; count < 10; count++) bodies[count] = mail();
                return inTurn(bodies);
            }));
        var found = new TreeSet<String>();
        for (var each : running) found.addAll(each.get());
        pool.shutdown();
        return new ArrayList<>(found);
    }

    public static void main(String[] words) throws Exception {
        address = URI.create(words[0] + "/send-email");
        key = words[1];
        var client = connected();
        var again = UUID.randomUUID().toString();
        var first = post(client, BodyPublishers.ofString(mail()), again);
        var second = post(client, BodyPublishers.ofString(mail()), again);
        var octets = mail("body", "x".repeat(100_000)).getBytes();
        var chunked = post(connected(), BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(octets)), null);
        var found = new TreeMap<String, List<String>>();
        found.put("post", inTurn(mail()));
        found.put("large", inTurn(mail("body", "x".repeat(5_000_000))));
        found.put("chunked", List.of(chunked.status()));
        found.put("parallel", parallel());
        found.put("replay", List.of(
            first.status(), second.status(), String.valueOf(first.body() != null && first.body().equals(second.body()))));
        found.put("401", inTurn(mail("key", "wrong"), mail()));
        found.put("422", inTurn(mail("recipient", "nobody"), mail()));
        found.put("413", inTurn(" ".repeat(60_000_000), mail()));
        System.out.println(found.entrySet().stream()
            .map(each -> "\"" + each.getKey() + "\": " + each.getValue())
            .collect(Collectors.joining(", ", "{", "}")));
        System.exit(0);
    }
}
