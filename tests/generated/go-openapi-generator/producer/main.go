// Enqueues jobs with the client that openapi-generator makes: producer URL QUEUE KEY COUNT
package main

import (
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
	jobs := kestrel.NewAPIClient(configuration).JobsAPI

	receipt, _, err := jobs.EnqueueJob(ctx, queue).Body(map[string]any{"to": "ada@example.org", "n": 1}).Execute()
	check(err == nil && receipt.GetId() != "" && receipt.GetQueue() == queue, receipt, err)

	text := kestrel.NewJobToEnqueue()
	text.SetContentType("text/plain")
	text.SetData("Grüße an Ada")
	content := make([]byte, 256)
	for i := range content {
		content[i] = byte(i)
	}
	image := kestrel.NewJobToEnqueue()
	image.SetContentType("image/png")
	image.SetDataBase64(base64.StdEncoding.EncodeToString(content))
	both := kestrel.NewEnqueueRequest([]kestrel.JobToEnqueue{*text, *image})
	receipt, _, err = jobs.EnqueueJobs(ctx, queue).EnqueueRequest(*both).Execute()
	check(err == nil && len(receipt.Results) == 2 && receipt.Results[1].GetStatus() == 201, receipt, err)

	// The same request sent twice is stored once.
	once := jobs.EnqueueJob(ctx, queue+"-once").IdempotencyKey("order-1")
	first, _, err := once.Body(map[string]int{"n": 1}).Execute()
	check(err == nil, err)
	again, _, err := once.Body(map[string]int{"n": 1}).Execute()
	check(err == nil && first.GetId() == again.GetId(), again, err)
	_, _, err = once.Body(map[string]int{"n": 2}).Execute()
	check(code(err) == kestrel.IDEMPOTENCY_KEY_REUSED, err)

	for n := 0; n < count; n++ {
		_, _, err := jobs.EnqueueJob(ctx, queue+"-many").Body(map[string]int{"n": n}).Execute()
		check(err == nil, err)
	}
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
