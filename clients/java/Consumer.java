import java.io.PrintStream;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;

/**
 * Takes jobs from a queue, works on one after the other, and acks them.
 *
 * <pre>
 * javac *.java
 * QUEUE=emails java Consumer
 * </pre>
 *
 * <p>LEASE_SECONDS (60) is the length of the lease. If it is not extended in time, another consumer gets the job.
 * SIGTERM ends it with exit code 0: at once while it waits for a job, otherwise once its job is acked.
 */
final class Consumer {
    private static final int LEASE_S = leaseSeconds(Gateway.env("LEASE_SECONDS", "60"));
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    private static final ScheduledExecutorService EXTENDING = Executors.newSingleThreadScheduledExecutor();
    private static volatile boolean stopping;
    private static boolean busy;
    private static volatile int exitCode = 1;

    /** Your code. Throws if the job failed. A job may come twice: tell by its id. */
    static void work(String id, String mail) throws InterruptedException {
        Gateway.string(mail, "to").orElseThrow(() -> new IllegalArgumentException("the mail has no address"));
        var seconds = Pattern.compile("\"seconds\"\\s*:\\s*([0-9.]+)").matcher(mail);
        if (seconds.find()) {
            Thread.sleep((long) (Double.parseDouble(seconds.group(1)) * 1000)); // in place of real work
        }
        OUT.println(mail);
    }

    /** Works on the job, then acks it, or gives it back with the reason. */
    static void handle(HttpResponse<String> job) throws InterruptedException {
        String id = job.headers().firstValue("ce-id").orElse("");
        int attempt = (int) job.headers().firstValueAsLong("ce-attempt").orElse(1);
        String lease = "/leases/" + job.headers().firstValue("Lease-Id").orElseThrow();
        System.err.println(id + ": attempt " + attempt);
        var extending = EXTENDING.scheduleAtFixedRate(
            () -> extend(lease), LEASE_S * 1000L / 3, LEASE_S * 1000L / 3, TimeUnit.MILLISECONDS);
        String failure = null;
        try {
            work(id, job.body());
        } catch (RuntimeException e) {
            failure = String.valueOf(e.getMessage());
        } finally {
            extending.cancel(false);
        }
        if (failure == null) {
            settle(lease + "/ack", "");
        } else {
            System.err.println(id + " failed: " + failure);
            // The next attempt comes later each time. After the last one the job goes to the dead letters.
            int delay = Math.min(1 << Math.min(attempt, 10), 300);
            settle(lease + "/nack", "{\"reason\": " + quoted(failure) + ", \"delay\": " + delay + "}");
        }
    }

    private static int leaseSeconds(String value) {
        if (value.matches("[1-9][0-9]{0,8}")) {
            return Integer.parseInt(value);
        }
        throw Gateway.refused("LEASE_SECONDS: '" + value + "' is not a whole number of seconds from 1 on");
    }

    private static void extend(String lease) {
        try {
            Gateway.once(Gateway.post(lease + "/extend", "{\"lease_seconds\": " + LEASE_S + "}").build());
        } catch (Gateway.Failed | InterruptedException e) {
            System.err.println("not extended: " + e.getMessage());
        }
    }

    private static void settle(String path, String body) throws InterruptedException {
        try {
            Gateway.call(Gateway.post(path, body).build(), LEASE_S);
        } catch (Gateway.Failed failed) {
            // lease-expired, lease-lost, outcome-unknown: the job may come again. There is nothing to repair here.
            System.err.println("not settled: " + failed.getMessage());
        }
    }

    /** The text as a JSON string. */
    private static String quoted(String text) {
        return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"").replaceAll("\\p{Cntrl}", " ") + '"';
    }

    /** From here on an end waits until the job is finished. */
    private static synchronized void begin() {
        busy = true;
        Thread.interrupted(); // the poll had its answer already
    }

    private static synchronized void stop(Thread main) {
        stopping = true;
        if (!busy) {
            main.interrupt(); // ends the poll; the gateway sees the connection close and gives it no job
        }
    }

    private static synchronized void finish() {
        busy = false;
    }

    public static void main(String[] arguments) {
        Thread main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> { // SIGTERM
            stop(main);
            try {
                main.join();
            } catch (InterruptedException ignored) {
                // no one interrupts this thread
            }
            Runtime.getRuntime().halt(exitCode); // otherwise 143
        }));
        // format=raw: the job's own bytes in the body, everything else in headers. No JSON to take apart.
        String next = Gateway.QUEUE_PATH + "/next?format=raw&timeout=" + Gateway.WAIT_S + "&lease_seconds=" + LEASE_S;
        try {
            while (!stopping) {
                var job = Gateway.call(Gateway.request(next).GET().build(), Gateway.FOR_EVER);
                if (job.statusCode() == 200) {
                    begin();
                    handle(job);
                    finish();
                }
            }
            exitCode = 0;
        } catch (InterruptedException e) {
            exitCode = 0; // SIGTERM while it waited
        } catch (Gateway.Failed failed) {
            System.err.println("stopped: " + failed.getMessage());
        } finally {
            EXTENDING.shutdown();
        }
    }
}
