// Package gateway sends requests to the gateway, again while that can help.
//
//	GATEWAY_URL   where the gateway is (http://127.0.0.1:8080)
//	GATEWAY_KEY   the secret of a key, if the gateway asks for one
//	QUEUE         the queue (emails)
package gateway

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Wait is how long a poll waits at the gateway.
const Wait = 20 * time.Second

var (
	base = baseURL(cmp.Or(os.Getenv("GATEWAY_URL"), "http://127.0.0.1:8080"))
	key  = checkedKey(os.Getenv("GATEWAY_KEY"))

	// QueuePath is the path of the queue, such as /queues/emails.
	QueuePath = "/queues/" + url.PathEscape(cmp.Or(os.Getenv("QUEUE"), "emails"))

	// The time-out is longer than the wait: the gateway always answers first.
	client = &http.Client{Timeout: Wait + 10*time.Second}
)

// baseURL returns the URL without a slash at its end. It ends the program if the URL is not valid.
func baseURL(value string) string {
	parsed, err := url.Parse(value)
	if err == nil && regexp.MustCompile(`^https?://[^/?#@\s][^?#@\s]*$`).MatchString(value) {
		_, err = strconv.ParseUint(cmp.Or(parsed.Port(), "80"), 10, 16)
		if err == nil && parsed.Hostname() != "" {
			return strings.TrimRight(value, "/")
		}
	}
	log.Fatalf("GATEWAY_URL: '%s' is not a URL such as http://127.0.0.1:8080", value)
	return ""
}

// checkedKey returns the key. It ends the program if no header can hold it.
func checkedKey(value string) string {
	if !regexp.MustCompile(`^[!-~]*$`).MatchString(value) {
		log.Fatal("GATEWAY_KEY: a key consists of visible ASCII characters without spaces")
	}
	return value
}

// Failed says that the gateway did not do it. Code says why and is stable; Detail is for people.
type Failed struct {
	Code       string
	Detail     string
	Retryable  bool
	RetryAfter time.Duration
}

func (f *Failed) Error() string { return f.Code + ": " + f.Detail }

// Request is one call; Body is JSON, and may be nil, as may Header.
type Request struct {
	Method, Path string
	Body         []byte
	Header       http.Header
}

// Call decodes the JSON of the answer into answer and returns its status. It tries again while that can help and ctx
// lasts. The error is a *Failed.
func Call(ctx context.Context, request Request, answer any) (int, error) {
	for attempt := 0; ; attempt++ {
		status, failed := Once(ctx, request, answer)
		if failed == nil {
			return status, nil
		}
		// A random pause, longer each time, so that many clients do not come back at the same moment.
		pause := failed.RetryAfter + time.Duration(rand.Int63n(int64(200*time.Millisecond)<<min(attempt, 7)))
		if !failed.Retryable || ctx.Err() != nil {
			return status, failed
		}
		log.Printf("%v; next try in %.1f s", failed, pause.Seconds())
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return status, failed
		}
	}
}

// Once is Call with a single try.
func Once(ctx context.Context, request Request, answer any) (int, *Failed) {
	r, err := http.NewRequestWithContext(ctx, request.Method, base+request.Path, bytes.NewReader(request.Body))
	if err != nil {
		return 0, &Failed{Code: "bad-url", Detail: err.Error()}
	}
	if request.Header != nil {
		r.Header = request.Header.Clone()
	}
	if request.Body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := client.Do(r)
	if err != nil {
		return 0, &Failed{Code: "no-answer", Detail: err.Error(), Retryable: true}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, &Failed{Code: "no-answer", Detail: err.Error(), Retryable: true}
	}
	if response.StatusCode < 300 {
		if len(body) > 0 && answer != nil {
			if err := json.Unmarshal(body, answer); err != nil {
				return 0, &Failed{Code: "not-json", Detail: err.Error()}
			}
		}
		return response.StatusCode, nil
	}
	// The answer of a proxy on the way is not a problem document.
	failed := &Failed{Code: fmt.Sprintf("http-%d", response.StatusCode), Detail: response.Status}
	failed.Retryable = slices.Contains([]int{429, 502, 503, 504}, response.StatusCode)
	if strings.HasPrefix(response.Header.Get("Content-Type"), "application/problem+json") {
		json.Unmarshal(body, failed) // code, detail, retryable
	}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil {
		failed.RetryAfter = time.Duration(seconds) * time.Second
	}
	return response.StatusCode, failed
}
