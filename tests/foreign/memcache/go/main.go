// A Go program's view of the queues: client (put|get|delete) PORT QUEUE COUNT
// `put` stores jobs 0 to COUNT-1, `get` prints COUNT jobs, one a line.
package main

import (
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
)

func main() {
	verb, queue := os.Args[1], os.Args[3]
	count, err := strconv.Atoi(os.Args[4])
	if err != nil {
		log.Fatal(err)
	}
	client := memcache.New("127.0.0.1:" + os.Args[2])
	client.Timeout = 10 * time.Second
	for n := 0; n < count; n++ {
		switch verb {
		case "put":
			err = client.Set(&memcache.Item{Key: queue, Value: []byte(fmt.Sprintf("job %d", n))})
		case "get":
			var item *memcache.Item
			if item, err = client.Get(queue); err == nil {
				fmt.Println(string(item.Value))
			}
		case "delete":
			err = client.Delete(queue)
		}
		if err != nil {
			log.Fatal(err)
		}
	}
}
