// The CloudEvents SDK for Go, with its client and with net/http, as its documents show: each mode in and out of a queue.
//
//	go run . http://127.0.0.1:8080/queues/events
package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
)

type kind struct {
	name, contentType string
	data              any
}

var kinds = []kind{
	{"json", cloudevents.ApplicationJSON, map[string]any{"user": "ada", "n": 1.5}},
	{"text", cloudevents.TextPlain, "line one\nline two"},
	{"bytes", "application/octet-stream", []byte{0, 255, 10}},
}

type sender struct {
	name string
	send func(cloudevents.Event)
}

func main() {
	queue := os.Args[1]
	ctx := context.Background()
	client, err := cloudevents.NewClientHTTP(cloudevents.WithTarget(queue + "/jobs"))
	check(err)
	// Takes another event for an answer, as Knative's brokers do.
	asking, err := cloudevents.NewClientHTTP(
		cloudevents.WithTarget(queue+"/jobs"), cloudevents.WithHeader("Prefer", "reply"))
	check(err)
	senders := []sender{
		{"binary", func(event cloudevents.Event) {
			acknowledged(client.Send(cloudevents.WithEncodingBinary(ctx), event))
		}},
		{"structured", func(event cloudevents.Event) {
			acknowledged(client.Send(cloudevents.WithEncodingStructured(ctx), event))
		}},
		{"request", func(event cloudevents.Event) {
			reply, result := asking.Request(ctx, event)
			acknowledged(result)
			var answer *cehttp.Result
			if !cloudevents.ResultAs(result, &answer) || answer.StatusCode != http.StatusNoContent || reply != nil {
				log.Fatalf("not an empty answer: %v, %v", result, reply)
			}
		}},
		{"batch", func(event cloudevents.Event) {
			request, err := cloudevents.NewHTTPRequestFromEvents(ctx, queue+"/jobs", []cloudevents.Event{event})
			check(err)
			answer, err := http.DefaultClient.Do(request)
			check(err)
			answer.Body.Close()
			expect(answer, http.StatusCreated)
		}},
	}
	for _, kind := range kinds {
		for _, sender := range senders {
			for _, receiver := range []string{"structured", "binary"} {
				sent := cloudevents.NewEvent()
				sent.SetID(fmt.Sprintf("%s-%s-%s", kind.name, sender.name, receiver))
				sent.SetSource("/web")
				sent.SetType("org.example.signup")
				sent.SetSubject("Zoë")
				if receiver == "binary" {
					sent.SetSubject("ada") // this SDK leaves headers percent-encoded
				}
				sent.SetExtension("ourlevel", "gold")
				check(sent.SetData(kind.contentType, kind.data))
				sender.send(sent)
				compare(sent, receive(queue, receiver))
				fmt.Println(sender.name, receiver, kind.name)
			}
		}
	}
}

func receive(queue, mode string) *cloudevents.Event {
	path := queue + "/next?timeout=5"
	if mode == "binary" {
		path += "&format=raw"
	}
	request, err := http.NewRequest(http.MethodGet, path, nil)
	check(err)
	if mode == "structured" {
		request.Header.Set("Accept", cloudevents.ApplicationCloudEventsJSON)
	}
	answer, err := http.DefaultClient.Do(request)
	check(err)
	defer answer.Body.Close()
	expect(answer, http.StatusOK)
	event, err := cloudevents.NewEventFromHTTPResponse(answer)
	check(err)
	base, err := url.Parse(queue)
	check(err)
	lease, err := base.Parse(answer.Header.Get("Location") + "/ack")
	check(err)
	acked, err := http.Post(lease.String(), "", nil)
	check(err)
	acked.Body.Close()
	expect(acked, http.StatusNoContent)
	return event
}

func compare(sent cloudevents.Event, got *cloudevents.Event) {
	same := sent.ID() == got.ID() && sent.Source() == got.Source() && sent.Type() == got.Type() &&
		sent.Subject() == got.Subject() && sent.DataContentType() == got.DataContentType() &&
		got.Extensions()["ourlevel"] == "gold" && bytes.Equal(sent.Data(), got.Data())
	if !same {
		log.Fatalf("sent:\n%v\ngot:\n%v", sent, got)
	}
}

func acknowledged(result error) {
	if !cloudevents.IsACK(result) || cloudevents.IsUndelivered(result) {
		log.Fatal(result)
	}
}

func expect(answer *http.Response, status int) {
	if answer.StatusCode != status {
		log.Fatalf("%s: %s", answer.Request.URL, answer.Status)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
