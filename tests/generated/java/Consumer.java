import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import kestrel.ApiClient;
import kestrel.ApiException;
import kestrel.api.JobsApi;
import kestrel.api.LeasesApi;
import kestrel.api.QueuesApi;
import kestrel.model.*;

/** Takes and settles jobs with the client that openapi-generator makes: Consumer URL QUEUE KEY COUNT */
public class Consumer {
    static JobsApi jobs;

    public static void main(String[] arguments) throws Exception {
        String queue = arguments[1];
        int count = Integer.parseInt(arguments[3]);
        ApiClient client = new ApiClient().setBasePath(arguments[0]);
        client.setBearerToken(arguments[2]);
        client.setReadTimeout((int) Duration.ofSeconds(30).toMillis()); // longer than the longest wait of a request
        jobs = new JobsApi(client);
        LeasesApi leases = new LeasesApi(client);

        // A job of JSON, and ack.
        LeasedJobs taken = take(queue, 60);
        check(taken.getJobs().get(0).getData().equals(Map.of("to", "ada@example.org", "n", 1.0)), taken);
        check(taken.getJobs().get(0).getAttempt() == 1, taken);
        leases.ackLease(taken.getLease().getId(), null);

        // A job of text, then ack it and take the next one in one request: bytes.
        Delivery text = jobs.nextJob(queue, 20.0, null, null);
        check(text.getData().equals("Grüße an Ada") && text.getContentType().equals("text/plain"), text);
        Delivery image = jobs.nextJob(queue, 20.0, null, text.getLease().getId());
        check(image.getContentType().equals("image/png") && image.getDataBase64().length == 256, image);
        for (int i = 0; i < 256; i++) {
            check(image.getDataBase64()[i] == (byte) i, image);
        }

        // Give it back for a second: until then the queue is empty. It comes back as its second attempt.
        NackRequest nack = new NackRequest().delay(1.0).reason("the disk is full");
        Position position = leases.nackLease(image.getLease().getId(), nack);
        check(position.getPosition().equals("tail") && position.getDueAt() != null, position);
        check(empty(queue), queue);
        taken = take(queue, 30);
        check(taken.getJobs().get(0).getId().equals(image.getId()), taken);
        check(taken.getJobs().get(0).getAttempt() == 2, taken);
        String lease = taken.getLease().getId();
        Lease extended = leases.extendLease(lease, new ExtendRequest().leaseSeconds(120.0));
        check(extended.getExpiresAt().isAfter(taken.getLease().getExpiresAt()), extended);
        leases.rejectLease(lease, new RejectRequest().reason("not an image"));
        check(new QueuesApi(client).getDeadLetters(queue, null).getItems() == 1, queue);

        // What is settled cannot be settled in another way.
        try {
            leases.ackLease(lease, null);
            throw new AssertionError("a rejected job was acked");
        } catch (ApiException error) {
            Problem problem = Problem.fromJson(error.getResponseBody());
            check(problem.getCode().equals(ProblemCode.LEASE_SETTLED.getValue()), problem);
        }

        // Many jobs, settled in tens.
        Set<Object> numbers = new HashSet<>();
        List<String> held = new ArrayList<>();
        while (numbers.size() < count) {
            taken = take(queue + "-many", 60);
            Map<?, ?> data = (Map<?, ?>) taken.getJobs().get(0).getData();
            check(numbers.add(data.get("n")), data);
            held.add(taken.getLease().getId());
            if (held.size() == 10) {
                SettleResults settled = leases.settleLeases(new SettleRequest().acks(held));
                check(settled.getResults().stream().allMatch(result -> result.getStatus() == 204), settled);
                held = new ArrayList<>();
            }
        }

        // Nothing is left. The request that was sent twice has stored one job. A nack needs no body.
        check(empty(queue + "-many"), queue);
        Delivery once = jobs.nextJob(queue + "-once", null, null, null);
        leases.nackLease(once.getLease().getId(), null);
        once = jobs.nextJob(queue + "-once", 20.0, null, null);
        check(once.getAttempt() == 2, once);
        check(jobs.nextJob(queue + "-once", 0.0, null, once.getLease().getId()) == null, once);
    }

    /** The next job of a queue and its lease. */
    static LeasedJobs take(String queue, double leaseSeconds) throws ApiException {
        LeasedJobs taken = jobs.leaseJobs(queue, new LeaseRequest().timeout(20.0).leaseSeconds(leaseSeconds));
        check(taken.getLease() != null, "no job came");
        return taken;
    }

    /** Whether no job is ready. */
    static boolean empty(String queue) throws ApiException {
        return jobs.leaseJobs(queue, new LeaseRequest().timeout(0.0)).getJobs().isEmpty();
    }

    static void check(boolean ok, Object seen) {
        if (!ok) {
            throw new AssertionError(seen);
        }
    }
}
