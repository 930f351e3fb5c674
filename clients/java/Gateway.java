import java.io.IOException;
import java.net.URI;
import java.net.URISyntaxException;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.ThreadLocalRandom;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Requests to the gateway, sent again while that can help.
 *
 * <p>GATEWAY_URL is where the gateway is (http://127.0.0.1:8080), GATEWAY_KEY the secret of a key, if the gateway asks
 * for one, QUEUE the queue (emails). The JDK has no JSON parser, so this reads single members with a pattern; use the parser of your project.
 */
final class Gateway {
    static final int WAIT_S = 20; // how long a poll waits at the gateway
    private static final int TIMEOUT_S = WAIT_S + 10; // longer than the wait: the gateway always answers first
    static final double FOR_EVER = Double.POSITIVE_INFINITY;

    private static final HttpClient CLIENT = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(10)).build();
    private static final String URL = url(env("GATEWAY_URL", "http://127.0.0.1:8080"));
    private static final String KEY = key(env("GATEWAY_KEY", ""));
    /** The path of the queue, such as /queues/emails. */
    static final String QUEUE_PATH =
        "/queues/" + URLEncoder.encode(env("QUEUE", "emails"), StandardCharsets.UTF_8).replace("+", "%20");

    /** The gateway did not do it. The code says why and is stable; the message is for people. */
    static final class Failed extends Exception {
        private static final long serialVersionUID = 1;
        final String code;
        final boolean retryable;
        final long retryAfterS;

        Failed(String code, String detail, boolean retryable, long retryAfterS) {
            super(code + ": " + detail);
            this.code = code;
            this.retryable = retryable;
            this.retryAfterS = retryAfterS;
        }
    }

    /** A request without its method and body. */
    static HttpRequest.Builder request(String path) {
        var request = HttpRequest.newBuilder(URI.create(URL + path)).timeout(Duration.ofSeconds(TIMEOUT_S));
        return KEY.isEmpty() ? request : request.header("Authorization", "Bearer " + KEY);
    }

    /** A POST of JSON; without a body if json is empty. */
    static HttpRequest.Builder post(String path, String json) {
        var request = request(path).POST(json.isEmpty() ? BodyPublishers.noBody() : BodyPublishers.ofString(json));
        return json.isEmpty() ? request : request.header("Content-Type", "application/json");
    }

    /** The answer, if it is 2xx. Tries again while that can help, for giveUpS seconds. */
    static HttpResponse<String> call(HttpRequest request, double giveUpS) throws Failed, InterruptedException {
        long start = System.nanoTime();
        for (int attempt = 0; ; attempt++) {
            try {
                return once(request);
            } catch (Failed failed) {
                // A random pause, longer each time, so that many clients do not come back at the same moment.
                double longestS = 0.2 * (1 << Math.min(attempt, 7));
                double pauseS = failed.retryAfterS + ThreadLocalRandom.current().nextDouble(longestS);
                if (!failed.retryable || (System.nanoTime() - start) / 1e9 + pauseS > giveUpS) {
                    throw failed;
                }
                System.err.printf("%s; next try in %.1f s%n", failed.getMessage(), pauseS);
                Thread.sleep((long) (pauseS * 1000));
            }
        }
    }

    /** As call, with a single try. */
    static HttpResponse<String> once(HttpRequest request) throws Failed, InterruptedException {
        HttpResponse<String> answer;
        try {
            answer = CLIENT.send(request, BodyHandlers.ofString());
        } catch (IOException e) {
            throw new Failed("no-answer", e.toString(), true, 0);
        }
        int status = answer.statusCode();
        if (status < 300) {
            return answer;
        }
        String after = answer.headers().firstValue("Retry-After").orElse("");
        long afterS = after.matches("[0-9]{1,9}") ? Long.parseLong(after) : 0;
        if (answer.headers().firstValue("Content-Type").orElse("").startsWith("application/problem+json")) {
            String problem = answer.body();
            boolean retryable = problem.contains("\"retryable\":true");
            throw new Failed(
                string(problem, "code").orElse(""), string(problem, "detail").orElse(""), retryable, afterS);
        }
        // A proxy on the way answered.
        boolean retryable = Set.of(429, 502, 503, 504).contains(status);
        throw new Failed("http-" + status, "not an answer of the gateway", retryable, afterS);
    }

    /** The string that is this member of a JSON object. */
    static Optional<String> string(String json, String member) {
        Matcher found = Pattern.compile("\"" + member + "\"\\s*:\\s*\"((?:[^\"\\\\]|\\\\.)*)\"").matcher(json);
        return found.find() ? Optional.of(found.group(1)) : Optional.empty();
    }

    static String env(String name, String otherwise) {
        String value = System.getenv(name);
        return value == null || value.isEmpty() ? otherwise : value;
    }

    /** The URL without a slash at its end. Ends the program if it is not valid. */
    private static String url(String value) {
        try {
            URI parsed = new URI(value);
            if (value.matches("https?://[^/?#@\\s][^?#@\\s]*") && parsed.getHost() != null && parsed.getPort() <= 65535) {
                return value.replaceAll("/+$", "");
            }
        } catch (URISyntaxException e) {
            // refused below
        }
        throw refused("GATEWAY_URL: '" + value + "' is not a URL such as http://127.0.0.1:8080");
    }

    /** The key. Ends the program if no header can hold it. */
    private static String key(String value) {
        if (value.matches("[!-~]*")) {
            return value;
        }
        throw refused("GATEWAY_KEY: a key consists of visible ASCII characters without spaces");
    }

    /** Ends the program. It returns an error only so that the compiler sees that nothing comes after it. */
    static Error refused(String message) {
        System.err.println(message);
        System.exit(1);
        return new AssertionError();
    }

    private Gateway() {}
}
