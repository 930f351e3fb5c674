// Consumer takes jobs from a queue, works on one after the other, and acks them.
//
//	QUEUE=emails go run ./consumer
//
// LEASE_SECONDS (60) is the length of the lease. If it is not extended in time, another consumer gets the job.
// SIGTERM ends it with exit code 0: at once while it waits for a job, otherwise once its job is acked.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"example.org/jobs/gateway"
)

var lease = leaseSeconds(cmp.Or(os.Getenv("LEASE_SECONDS"), "60"))

// leaseSeconds returns the length of a lease. It ends the program if the value is not valid.
func leaseSeconds(value string) int {
	seconds, err := strconv.Atoi(value)
	if err != nil || seconds < 1 {
		log.Fatalf("LEASE_SECONDS: '%s' is not a whole number of seconds from 1 on", value)
	}
	return seconds
}

// Job is what a consumer gets. Text is a JSON string; bytes that are neither JSON nor text come as data_base64.
type Job struct {
	ID      string
	Attempt int
	Data    json.RawMessage
	Lease   struct{ ID string }
}

// work is your code. A job may come twice: tell by its ID.
func work(job Job) error {
	var mail struct {
		To      string
		Seconds float64
	}
	err := json.Unmarshal(job.Data, &mail)
	if mail.To == "" {
		return errors.New("the mail has no address")
	}
	if err != nil {
		return err
	}
	time.Sleep(time.Duration(mail.Seconds * float64(time.Second))) // in place of real work
	fmt.Println(string(job.Data))
	return nil
}

// handle works on the job, then acks it, or gives it back with the reason.
func handle(job Job) {
	path := "/leases/" + job.Lease.ID
	log.Printf("%s: attempt %d", job.ID, job.Attempt)
	done := make(chan struct{})
	go extend(path+"/extend", done)
	err := work(job)
	close(done)
	if err == nil {
		settle(path+"/ack", nil)
		return
	}
	log.Printf("%s failed: %v", job.ID, err)
	// The next attempt comes later each time. After the last one the job goes to the dead letters.
	settle(path+"/nack", map[string]any{"reason": err.Error(), "delay": min(1<<min(job.Attempt, 10), 300)})
}

// extend extends the lease, again and again, until done is closed.
func extend(path string, done <-chan struct{}) {
	request := gateway.Request{Method: "POST", Path: path, Body: fmt.Appendf(nil, `{"lease_seconds": %d}`, lease)}
	for {
		select {
		case <-done:
			return
		case <-time.After(time.Duration(lease) * time.Second / 3):
			if _, failed := gateway.Once(context.Background(), request, nil); failed != nil {
				log.Printf("not extended: %v", failed)
			}
		}
	}
}

func settle(path string, body map[string]any) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(lease)*time.Second)
	defer cancel()
	request := gateway.Request{Method: "POST", Path: path}
	if body != nil {
		request.Body, _ = json.Marshal(body)
	}
	if _, err := gateway.Call(ctx, request, nil); err != nil {
		// lease-expired, lease-lost, outcome-unknown: the job may come again. There is nothing to repair here.
		log.Printf("not settled: %v", err)
	}
}

func main() {
	// The poll ends with this context; the gateway sees the connection close and gives it no job.
	running, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	path := fmt.Sprintf("%s/next?timeout=%.0f&lease_seconds=%d", gateway.QueuePath, gateway.Wait.Seconds(), lease)
	for running.Err() == nil {
		var job Job
		status, err := gateway.Call(running, gateway.Request{Method: "GET", Path: path}, &job)
		switch {
		case running.Err() != nil && err != nil: // SIGTERM while it waited
		case err != nil:
			log.Fatalf("stopped: %v", err)
		case status == http.StatusOK:
			handle(job)
		}
	}
}
