// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package page

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/outrider-mesh/outrider/internal/harness"
)

// patience bounds each wait for something that the browser or other processes
// bring about.
const patience = time.Minute

// until polls a condition; err says what is still wrong.
func until(t *testing.T, what string, ask func() error) {
	t.Helper()
	harness.Until(t, patience, what, ask)
}

// chromium is the path of the browser.
func chromium(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath(cmp.Or(os.Getenv("OUTRIDER_CHROMIUM"), "chromium"))
	if err != nil {
		t.Fatalf("find the browser: %v; install it with: apt-get install --no-install-recommends chromium fonts-dejavu-core, or set OUTRIDER_CHROMIUM to the path of one", err)
	}
	return path
}

// A tab is one page in a browser of its own. What it asked for, and what it
// complained of, is checked when the test ends.
type tab struct {
	ctx    context.Context
	origin string

	mu         sync.Mutex
	elsewhere  []string
	complaints []string
	expected   string // part of complaints that belong to the test; "" for none
}

// open starts a browser at an address.
func open(t *testing.T, address string) *tab {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(chromium(t)), chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1280, 900),
		chromedp.Flag("hide-scrollbars", true))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	allocated, release := chromedp.NewExecAllocator(t.Context(), options...)
	ctx, done := chromedp.NewContext(allocated)
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // waits until the process is gone
		done()
		release()
	})
	where, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	b := &tab{ctx: ctx, origin: where.Scheme + "://" + where.Host + "/"}
	// Listen starts the browser, whose life is that of this context.
	if err := chromedp.Listen(ctx, b.hear); err != nil {
		t.Fatalf("start the browser: %v", err)
	}
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		t.Fatalf("have the browser tell its requests: %v", err)
	}
	b.do(t, chromedp.Navigate(address))
	t.Cleanup(func() { b.check(t) })
	return b
}

// hear takes what the browser tells of the page.
func (b *tab) hear(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	complain := func(format string, args ...any) {
		if text := fmt.Sprintf(format, args...); b.expected == "" || !strings.Contains(text, b.expected) {
			b.complaints = append(b.complaints, text)
		}
	}
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if !strings.HasPrefix(e.Request.URL, b.origin) {
			b.elsewhere = append(b.elsewhere, e.Request.URL)
		}
	case *runtime.EventExceptionThrown:
		complain("exception: %v", e.ExceptionDetails)
	case *runtime.EventConsoleAPICalled:
		said, _ := json.Marshal(e.Args)
		complain("console.%s: %s", e.Type, said)
	case *log.EventEntryAdded:
		complain("%s of %s: %s %s", e.Entry.Level, e.Entry.Source, e.Entry.Text, e.Entry.URL)
	}
}

func (b *tab) check(t *testing.T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.elsewhere) > 0 {
		t.Errorf("the page asked others than its agent: %q", b.elsewhere)
	}
	if len(b.complaints) > 0 {
		t.Errorf("the browser complained: %q", b.complaints)
	}
}

// expect takes complaints with this text for what the test brings about.
func (b *tab) expect(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expected = text
}

func (b *tab) do(t *testing.T, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatalf("drive the browser: %v", err)
	}
}

// eval is the value of an expression in the page.
func eval[T any](t *testing.T, b *tab, expression string) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	out, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("evaluate %s in the page: %v", expression, err)
	}
	return out
}

// text is what a person reads of the first element that matches; "" for none.
func (b *tab) text(t *testing.T, selector string) string {
	t.Helper()
	return eval[string](t, b, fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector))
}

// shows waits until an element has all these texts.
func (b *tab) shows(t *testing.T, selector string, want ...string) {
	t.Helper()
	until(t, selector+" shows its text", func() error {
		got := strings.Join(strings.Fields(b.text(t, selector)), " ")
		for _, w := range want {
			if !strings.Contains(got, w) {
				return fmt.Errorf("no %q in %q", w, got)
			}
		}
		return nil
	})
}

// holds waits until an expression is true.
func (b *tab) holds(t *testing.T, what, expression string) {
	t.Helper()
	until(t, what, func() error {
		if !eval[bool](t, b, expression) {
			return fmt.Errorf("%s is false", expression)
		}
		return nil
	})
}

// unfold opens all details, and waits until what is in them is there.
func (b *tab) unfold(t *testing.T) {
	t.Helper()
	b.holds(t, "all details are unfolded", `(() => {
		const all = [...document.querySelectorAll("details")];
		all.forEach((d) => { d.open = true });
		return all.every((d) => d.children.length > 1 && !d.innerText.includes("Asking for them"));
	})()`)
}

// size is that of the window; dark chooses the colours.
func (b *tab) size(t *testing.T, width, height int64, dark bool) {
	t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	b.do(t, chromedp.EmulateViewport(width, height))
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	if err != nil {
		t.Fatalf("choose the colours: %v", err)
	}
}
