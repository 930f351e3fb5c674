// Takes and settles jobs with the client that openapi-generator makes: consumer URL QUEUE KEY COUNT
package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"log"
	"os"
	"strconv"

	"example.org/jobs/kestrel"
)

func main() {
	url, queue, key := os.Args[1], os.Args[2], os.Args[3]
	count, err := strconv.Atoi(os.Args[4])
	check(err == nil, err)
	configuration := kestrel.NewConfiguration()
	configuration.Servers = kestrel.ServerConfigurations{{URL: url}}
	ctx := context.WithValue(context.Background(), kestrel.ContextAccessToken, key)
	client := kestrel.NewAPIClient(configuration)
	jobs, leases := client.JobsAPI, client.LeasesAPI

	// The next job of a queue and its lease.
	take := func(queue string, leaseSeconds float64) (kestrel.Job, kestrel.LeaseHandle) {
		request := kestrel.NewLeaseRequest()
		request.SetTimeout(20)
		request.SetLeaseSeconds(leaseSeconds)
		taken, _, err := jobs.LeaseJobs(ctx, queue).LeaseRequest(*request).Execute()
		check(err == nil && len(taken.Jobs) == 1, err)
		return taken.Jobs[0], taken.GetLease()
	}
	// Whether no job is ready.
	empty := func(queue string) bool {
		request := kestrel.NewLeaseRequest()
		request.SetTimeout(0)
		taken, _, err := jobs.LeaseJobs(ctx, queue).LeaseRequest(*request).Execute()
		check(err == nil, err)
		return len(taken.Jobs) == 0
	}

	// A job of JSON, and ack.
	job, lease := take(queue, 60)
	check(job.Data.(map[string]any)["to"] == "ada@example.org" && job.Attempt == 1, job)
	_, err = leases.AckLease(ctx, lease.Id).Execute()
	check(err == nil, err)

	// A job of text, then ack it and take the next one in one request: bytes.
	text, _, err := jobs.NextJob(ctx, queue).Timeout(20).Execute()
	check(err == nil && text.Data == "Grüße an Ada" && text.ContentType == "text/plain", text, err)
	image, _, err := jobs.NextJob(ctx, queue).Timeout(20).Ack(text.Lease.Id).Execute()
	check(err == nil && image.ContentType == "image/png", image, err)
	content, err := base64.StdEncoding.DecodeString(image.GetDataBase64())
	expected := make([]byte, 256)
	for i := range expected {
		expected[i] = byte(i)
	}
	check(err == nil && bytes.Equal(content, expected), content, err)

	// Give it back for a second: until then the queue is empty. It comes back as its second attempt.
	nack := kestrel.NewNackRequest()
	nack.SetDelay(1)
	nack.SetReason("the disk is full")
	position, _, err := leases.NackLease(ctx, image.Lease.Id).NackRequest(*nack).Execute()
	check(err == nil && position.Position == "tail" && position.HasDueAt(), position, err)
	check(empty(queue))
	job, lease = take(queue, 30)
	check(job.GetId() == image.GetId() && job.Attempt == 2, job)
	extended, _, err := leases.ExtendLease(ctx, lease.Id).ExtendRequest(*kestrel.NewExtendRequest(120)).Execute()
	check(err == nil && extended.ExpiresAt.After(lease.ExpiresAt), extended, err)
	reject := kestrel.NewRejectRequest()
	reject.SetReason("not an image")
	_, _, err = leases.RejectLease(ctx, lease.Id).RejectRequest(*reject).Execute()
	check(err == nil, err)
	letters, _, err := client.QueuesAPI.GetDeadLetters(ctx, queue).Execute()
	check(err == nil && letters.Items == 1, letters, err)

	// What is settled cannot be settled in another way.
	_, err = leases.AckLease(ctx, lease.Id).Execute()
	check(code(err) == kestrel.LEASE_SETTLED, err)

	// Many jobs, settled in tens.
	seen := map[float64]bool{}
	held := []string{}
	for len(seen) < count {
		job, lease := take(queue+"-many", 60)
		n := job.Data.(map[string]any)["n"].(float64)
		check(!seen[n], n)
		seen[n] = true
		held = append(held, lease.Id)
		if len(held) == 10 {
			settled, _, err := leases.SettleLeases(ctx).SettleRequest(kestrel.SettleRequest{Acks: held}).Execute()
			check(err == nil && len(settled.Results) == 10, settled, err)
			for _, result := range settled.Results {
				check(result.Status == 204, result)
			}
			held = nil
		}
	}

	// Nothing is left. The request that was sent twice has stored one job. A nack needs no body.
	check(empty(queue + "-many"))
	once, _, err := jobs.NextJob(ctx, queue+"-once").Execute()
	check(err == nil, err)
	_, _, err = leases.NackLease(ctx, once.Lease.Id).Execute()
	check(err == nil, err)
	once, _, err = jobs.NextJob(ctx, queue+"-once").Timeout(20).Execute()
	check(err == nil && once.Attempt == 2, once, err)
	none, answer, err := jobs.NextJob(ctx, queue+"-once").Ack(once.Lease.Id).Timeout(0).Execute()
	check(err == nil && answer.StatusCode == 204, none, err)
}

// code is what the problem document of an answer says; "" for other errors.
func code(err error) kestrel.ProblemCode {
	var answer *kestrel.GenericOpenAPIError
	if errors.As(err, &answer) {
		if problem, ok := answer.Model().(kestrel.Problem); ok {
			return kestrel.ProblemCode(problem.Code)
		}
	}
	return ""
}

func check(ok bool, seen ...any) {
	if !ok {
		log.Panicln(seen...)
	}
}
