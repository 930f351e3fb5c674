// Enqueues jobs with the client that oapi-codegen makes: producer URL QUEUE KEY COUNT
package main

import (
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

	job := map[string]any{"to": "ada@example.org", "n": 1}
	stored, err := gateway.EnqueueJobWithResponse(ctx, queue, nil, job)
	check(err == nil && stored.JSON201 != nil && *stored.JSON201.Id != "" && stored.JSON201.Queue == queue, stored, err)

	plain, png := "text/plain", "image/png"
	content := make([]byte, 256)
	for i := range content {
		content[i] = byte(i)
	}
	text := kestrel.JobToEnqueue{ContentType: &plain, Data: "Grüße an Ada"}
	image := kestrel.JobToEnqueue{ContentType: &png, DataBase64: &content}
	both, err := gateway.EnqueueJobsWithResponse(ctx, queue, nil, kestrel.EnqueueRequest{Jobs: []kestrel.JobToEnqueue{text, image}})
	check(err == nil && both.JSON201 != nil && len(*both.JSON201.Results) == 2, both, err)

	// The same request sent twice is stored once.
	order := "order-1"
	params := &kestrel.EnqueueJobParams{IdempotencyKey: &order}
	first, err := gateway.EnqueueJobWithResponse(ctx, queue+"-once", params, map[string]int{"n": 1})
	check(err == nil && first.JSON201 != nil, first, err)
	again, err := gateway.EnqueueJobWithResponse(ctx, queue+"-once", params, map[string]int{"n": 1})
	check(err == nil && again.JSON201 != nil && *again.JSON201.Id == *first.JSON201.Id, again, err)
	other, err := gateway.EnqueueJobWithResponse(ctx, queue+"-once", params, map[string]int{"n": 2})
	check(err == nil && other.ApplicationproblemJSON422.Code == string(kestrel.ProblemCodeIdempotencyKeyReused), other, err)

	for n := 0; n < count; n++ {
		stored, err := gateway.EnqueueJobWithResponse(ctx, queue+"-many", nil, map[string]int{"n": n})
		check(err == nil && stored.JSON201 != nil, stored, err)
	}
}

func check(ok bool, seen ...any) {
	if !ok {
		log.Panicln(seen...)
	}
}
