// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// appVariable makes the test program an application: its value is what the
// application answers. It listens on APP_LISTEN.
const appVariable = "OUTRIDER_TEST_APP"

// serveApp answers every request with a name, after a short while, and ends on
// SIGINT as a well-behaved application does: with the last answer.
func serveApp(name string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	server := &http.Server{Addr: os.Getenv("APP_LISTEN"), ReadHeaderTimeout: 5 * time.Second}
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-r.Context().Done():
		}
		_, _ = fmt.Fprintln(w, name)
	})
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if last := os.Getenv("APP_LAST"); last != "" {
		if err := call(limit, last); err != nil {
			_, _ = fmt.Fprintln(os.Stdout, "last call:", err)
		}
	}
	if err := server.Shutdown(limit); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// call asks a URL, as an application does that says goodbye to another.
func call(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := new(http.Client).Do(request)
	if err != nil {
		return err
	}
	body, err := read(answer)
	if err == nil {
		_, _ = fmt.Fprintln(os.Stdout, "last call:", body)
	}
	return err
}
