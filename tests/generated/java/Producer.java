import java.util.Map;
import kestrel.ApiClient;
import kestrel.ApiException;
import kestrel.api.JobsApi;
import kestrel.model.EnqueueRequest;
import kestrel.model.JobToEnqueue;
import kestrel.model.Problem;
import kestrel.model.ProblemCode;
import kestrel.model.Receipt;

/** Enqueues jobs with the client that openapi-generator makes: Producer URL QUEUE KEY COUNT */
public class Producer {
    public static void main(String[] arguments) throws Exception {
        String queue = arguments[1];
        int count = Integer.parseInt(arguments[3]);
        ApiClient client = new ApiClient().setBasePath(arguments[0]);
        client.setBearerToken(arguments[2]);
        JobsApi jobs = new JobsApi(client);

        Receipt receipt = jobs.enqueueJob(queue, Map.of("to", "ada@example.org", "n", 1), null, null, null, null, null);
        check(receipt.getId() != null && receipt.getQueue().equals(queue), receipt);

        byte[] bytes = new byte[256];
        for (int i = 0; i < bytes.length; i++) {
            bytes[i] = (byte) i;
        }
        EnqueueRequest both = new EnqueueRequest()
            .addJobsItem(new JobToEnqueue().contentType("text/plain").data("Grüße an Ada"))
            .addJobsItem(new JobToEnqueue().contentType("image/png").dataBase64(bytes));
        receipt = jobs.enqueueJobs(queue, both, null, null, null, null, null);
        check(receipt.getResults().size() == 2, receipt);
        check(receipt.getResults().stream().allMatch(result -> result.getStatus() == 201), receipt);

        // The same request sent twice is stored once.
        Receipt first = jobs.enqueueJob(queue + "-once", Map.of("n", 1), "order-1", null, null, null, null);
        Receipt again = jobs.enqueueJob(queue + "-once", Map.of("n", 1), "order-1", null, null, null, null);
        check(first.getId().equals(again.getId()), again);
        try {
            jobs.enqueueJob(queue + "-once", Map.of("n", 2), "order-1", null, null, null, null);
            throw new AssertionError("the key was accepted with another body");
        } catch (ApiException error) {
            Problem problem = Problem.fromJson(error.getResponseBody());
            check(problem.getCode().equals(ProblemCode.IDEMPOTENCY_KEY_REUSED.getValue()), problem);
        }

        for (int n = 0; n < count; n++) {
            jobs.enqueueJob(queue + "-many", Map.of("n", n), null, null, null, null, null);
        }
    }

    static void check(boolean ok, Object seen) {
        if (!ok) {
            throw new AssertionError(seen);
        }
    }
}
