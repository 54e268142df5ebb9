// Go's net/http: `go run client.go URL KEY` prints what became of each case as JSON.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"sort"
	"strings"
	"sync"
	"time"
)

var url, key = os.Args[1], os.Args[2]

func mail(fields map[string]string) string {
	document := map[string]string{"subject": "s", "recipient": "you@postroom.example", "body": "b", "key": key}
	for name, value := range fields {
		document[name] = value
	}
	text, _ := json.Marshal(document)
	return string(text)
}

// connected returns a client that keeps one connection.
func connected() *http.Client {
	return &http.Client{Timeout: 120 * time.Second, Transport: &http.Transport{MaxConnsPerHost: 1}}
}

func post(client *http.Client, body io.Reader, again string) (any, string) {
	request, err := http.NewRequest("POST", url+"/send-email", body)
	if err != nil {
		return err.Error(), ""
	}
	request.Header.Set("Content-Type", "application/json")
	if again != "" {
		request.Header.Set("Idempotency-Key", again)
	}
	answer, err := client.Do(request)
	if err != nil {
		return err.Error(), ""
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err.Error(), ""
	}
	return answer.StatusCode, string(text)
}

func inTurn(bodies ...string) []any {
	client := connected()
	seen := []any{}
	for _, body := range bodies {
		status, _ := post(client, strings.NewReader(body), "")
		seen = append(seen, status)
	}
	return seen
}

func parallel() []any {
	var all sync.WaitGroup
	var lock sync.Mutex
	found := map[any]bool{}
	for number := 0; number < 8; number++ {
		all.Add(1)
		go func() {
			defer all.Done()
			bodies := []string{}
			for count := 0; count < 10; count++ {
				bodies = append(bodies, mail(nil))
			}
			for _, status := range inTurn(bodies...) {
				lock.Lock()
				found[status] = true
				lock.Unlock()
			}
		}()
	}
	all.Wait()
	seen := []any{}
	for status := range found {
		seen = append(seen, status)
	}
	sort.Slice(seen, func(i, j int) bool { return fmt.Sprint(seen[i]) < fmt.Sprint(seen[j]) })
	return seen
}

func main() {
	client, again := connected(), fmt.Sprintf("go-%d", time.Now().UnixNano())
	first, text := post(client, strings.NewReader(mail(nil)), again)
	second, same := post(client, strings.NewReader(mail(nil)), again)
	long := mail(map[string]string{"body": strings.Repeat("x", 100_000)})
	chunked, _ := post(connected(), io.MultiReader(strings.NewReader(long)), "") // its length is not known
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"post":     inTurn(mail(nil)),
		"large":    inTurn(mail(map[string]string{"body": strings.Repeat("x", 5_000_000)})),
		"chunked":  []any{chunked},
		"parallel": parallel(),
		"replay":   []any{first, second, text == same},
		"401":      inTurn(mail(map[string]string{"key": "wrong"}), mail(nil)),
		"422":      inTurn(mail(map[string]string{"recipient": "nobody"}), mail(nil)),
		"413":      inTurn(strings.Repeat(" ", 60_000_000), mail(nil)),
	})
}
