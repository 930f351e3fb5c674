import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.UUID;

/**
 * Enqueues jobs: reads them from standard input, a line of JSON each, and prints their ids.
 *
 * <pre>
 * javac *.java
 * echo '{"to": "ada@example.org"}' | QUEUE=emails java Producer
 * </pre>
 */
final class Producer {
    private static final String JOBS = Gateway.QUEUE_PATH + "/jobs";
    private static final double GIVE_UP_S = 120;

    /** Stores a job, given as JSON, and returns its id. */
    static String enqueue(String job) throws Gateway.Failed, InterruptedException {
        // One key for all tries of this job. If it was stored and the answer got lost, the next try gets that answer.
        var request = Gateway.post(JOBS, job)
            .header("Idempotency-Key", UUID.randomUUID().toString())
            .build();
        return Gateway.string(Gateway.call(request, GIVE_UP_S).body(), "id").orElseThrow();
    }

    public static void main(String[] arguments) throws IOException, InterruptedException {
        var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        int number = 1;
        try {
            for (String line; (line = lines.readLine()) != null; number++) {
                System.out.println(enqueue(line));
            }
        } catch (Gateway.Failed failed) {
            System.err.println("line " + number + " is not enqueued: " + failed.getMessage());
            System.exit(1);
        }
    }
}
