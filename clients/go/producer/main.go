// Producer enqueues jobs: it reads them from standard input, a line of JSON each, and prints their ids.
//
//	echo '{"to": "ada@example.org"}' | QUEUE=emails go run ./producer
package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"example.org/jobs/gateway"
)

const giveUp = 2 * time.Minute

// enqueue stores a job, given as JSON, and returns its id.
func enqueue(job []byte) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), giveUp)
	defer cancel()
	// One key for all tries of this job. If it was stored and the answer got lost, the next try gets that answer.
	unique := make([]byte, 16)
	rand.Read(unique)
	request := gateway.Request{
		Method: "POST",
		Path:   gateway.QueuePath + "/jobs",
		Body:   job,
		Header: http.Header{"Idempotency-Key": {fmt.Sprintf("%x", unique)}},
	}
	var receipt struct{ ID string }
	_, err := gateway.Call(ctx, request, &receipt)
	return receipt.ID, err
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	number := 1
	for ; lines.Scan(); number++ {
		id, err := enqueue(lines.Bytes())
		if err != nil {
			log.Fatalf("line %d is not enqueued: %v", number, err)
		}
		fmt.Println(id)
	}
	if err := lines.Err(); err != nil {
		log.Fatalf("line %d is not enqueued: %v", number, err)
	}
}
