// Takes and settles jobs with the client that oapi-codegen makes: consumer URL QUEUE KEY COUNT
package main

import (
	"bytes"
	"context"
	"log"
	"net/http"
	"os"
	"strconv"

	"example.org/jobs/kestrel"
)

func main() {
	url, queue, key := os.Args[1], os.Args[2], os.Args[3]
	count, err := strconv.Atoi(os.Args[4])
	check(err == nil, err)
	ctx := context.Background()
	gateway, err := kestrel.NewClientWithResponses(url, kestrel.WithRequestEditorFn(
		func(_ context.Context, request *http.Request) error {
			request.Header.Set("Authorization", "Bearer "+key)
			return nil
		}))
	check(err == nil, err)

	// The next job of a queue and its lease.
	take := func(queue string, leaseSeconds float64) (kestrel.Job, kestrel.LeaseHandle) {
		timeout := 20.0
		request := kestrel.LeaseRequest{Timeout: &timeout, LeaseSeconds: &leaseSeconds}
		taken, err := gateway.LeaseJobsWithResponse(ctx, queue, request)
		check(err == nil && taken.JSON200 != nil && len(taken.JSON200.Jobs) == 1, taken, err)
		return taken.JSON200.Jobs[0], *taken.JSON200.Lease
	}
	// Whether no job is ready.
	empty := func(queue string) bool {
		timeout := 0.0
		taken, err := gateway.LeaseJobsWithResponse(ctx, queue, kestrel.LeaseRequest{Timeout: &timeout})
		check(err == nil && taken.JSON200 != nil, taken, err)
		return len(taken.JSON200.Jobs) == 0
	}

	// A job of JSON, and ack.
	job, lease := take(queue, 60)
	check(job.Data.(map[string]any)["to"] == "ada@example.org" && job.Attempt == 1, job)
	acked, err := gateway.AckLeaseWithResponse(ctx, lease.Id, kestrel.AckLeaseJSONRequestBody{})
	check(err == nil && acked.StatusCode() == 204, acked, err)

	// A job of text, then ack it and take the next one in one request: bytes.
	timeout := 20.0
	next, err := gateway.NextJobWithResponse(ctx, queue, &kestrel.NextJobParams{Timeout: &timeout})
	check(err == nil && next.JSON200 != nil, next, err)
	text := next.JSON200
	check(text.Data == "Grüße an Ada" && text.ContentType == "text/plain", text)
	next, err = gateway.NextJobWithResponse(ctx, queue, &kestrel.NextJobParams{Timeout: &timeout, Ack: &text.Lease.Id})
	check(err == nil && next.JSON200 != nil, next, err)
	image := next.JSON200
	expected := make([]byte, 256)
	for i := range expected {
		expected[i] = byte(i)
	}
	check(image.ContentType == "image/png" && bytes.Equal(*image.DataBase64, expected), image)

	// Give it back for a second: until then the queue is empty. It comes back as its second attempt.
	delay, reason := 1.0, "the disk is full"
	nack := kestrel.NackRequest{Delay: &delay, Reason: &reason}
	nacked, err := gateway.NackLeaseWithResponse(ctx, image.Lease.Id, nack)
	check(err == nil && nacked.JSON200 != nil, nacked, err)
	check(nacked.JSON200.Position == "tail" && nacked.JSON200.DueAt != nil, nacked.JSON200)
	check(empty(queue))
	job, lease = take(queue, 30)
	check(*job.Id == *image.Id && job.Attempt == 2, job)
	longer := 120.0
	extended, err := gateway.ExtendLeaseWithResponse(ctx, lease.Id, kestrel.ExtendRequest{LeaseSeconds: longer})
	check(err == nil && extended.JSON200 != nil && extended.JSON200.ExpiresAt.After(lease.ExpiresAt), extended, err)
	reason = "not an image"
	rejected, err := gateway.RejectLeaseWithResponse(ctx, lease.Id, kestrel.RejectRequest{Reason: &reason})
	check(err == nil && rejected.StatusCode() < 300, rejected, err)
	letters, err := gateway.GetDeadLettersWithResponse(ctx, queue, nil)
	check(err == nil && letters.JSON200 != nil && letters.JSON200.Items == 1, letters, err)

	// What is settled cannot be settled in another way.
	acked, err = gateway.AckLeaseWithResponse(ctx, lease.Id, kestrel.AckLeaseJSONRequestBody{})
	check(err == nil && acked.ApplicationproblemJSON409.Code == string(kestrel.ProblemCodeLeaseSettled), acked, err)

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
			settled, err := gateway.SettleLeasesWithResponse(ctx, kestrel.SettleRequest{Acks: &held})
			check(err == nil && settled.JSON200 != nil && len(settled.JSON200.Results) == 10, settled, err)
			for _, result := range settled.JSON200.Results {
				check(result.Status == 204, result)
			}
			held = nil
		}
	}

	// Nothing is left. The request that was sent twice has stored one job. A nack needs no body.
	check(empty(queue + "-many"))
	next, err = gateway.NextJobWithResponse(ctx, queue+"-once", nil)
	check(err == nil && next.JSON200 != nil, next, err)
	nacked, err = gateway.NackLeaseWithBodyWithResponse(ctx, next.JSON200.Lease.Id, "", nil)
	check(err == nil && nacked.StatusCode() < 300, nacked, err)
	next, err = gateway.NextJobWithResponse(ctx, queue+"-once", &kestrel.NextJobParams{Timeout: &timeout})
	check(err == nil && next.JSON200 != nil && next.JSON200.Attempt == 2, next, err)
	timeout = 0
	next, err = gateway.NextJobWithResponse(ctx, queue+"-once", &kestrel.NextJobParams{Timeout: &timeout, Ack: &next.JSON200.Lease.Id})
	check(err == nil && next.StatusCode() == 204, next, err)
}

func check(ok bool, seen ...any) {
	if !ok {
		log.Panicln(seen...)
	}
}
