// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package page

import (
	"context"
	"flag"
	"os"
	"testing"
	"time"

	driver "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

var screenshots = flag.Bool("screenshots", false, "take the pictures of docs/ anew")

// maxPicture bounds what a picture adds to the repository, in bytes.
const maxPicture = 300 << 10

func TestPicturesOfThePageAreSmall(t *testing.T) {
	t.Parallel()
	if *screenshots {
		takePictures(t)
	}
	for _, name := range []string{"page.png", "page-dark.png", "page-phone.png"} {
		info, err := os.Stat("../../docs/" + name)
		if err != nil {
			t.Errorf("%v; take it with: go test ./integration/page -run Pictures -screenshots", err)
		} else if info.Size() > maxPicture {
			t.Errorf("%s has %d bytes, more than %d", name, info.Size(), maxPicture)
		}
	}
}

// takePictures shows a host with two services after a minute of traffic.
func takePictures(t *testing.T) {
	h := newHost(t)
	h.busy()
	b := open(t, h.URL)
	end := time.After(70 * time.Second)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-end:
			b.picture(t, "page.png", 1280, 1800, false)
			b.picture(t, "page-dark.png", 1280, 1800, true)
			b.picture(t, "page-phone.png", 390, 2200, false)
			return
		case <-tick.C:
			h.wave(i)
		}
	}
}

// busy is what happened before anybody looked.
func (h *host) busy() {
	h.denied("/admin")
	h.broken()
	h.denied("/internal/report")
	for range 40 {
		h.rules.Decided(1, true)
	}
}

// wave is traffic that is not the same all the time.
func (h *host) wave(i int) {
	swell := time.Duration(i%50) * 300 * time.Microsecond
	h.called("shop", 6+i%5, 3*time.Millisecond+swell)
	h.rules.Decided(0, false)
	h.counts.Peer(identity("batch")).Done(&flow.Record{
		Kind: flow.Request, Direction: flow.Inbound, Source: identity("batch"), Status: 403, Reason: connect.IntentionDenied, Duration: 200 * time.Microsecond,
	})
	h.calls(9+i%4, 9*time.Millisecond+swell, "")
	if i%60 > 50 {
		h.calls(3, 60*time.Millisecond, connect.ConnectFailed)
	}
	h.rules.Decided(1, true)
}

func (b *tab) picture(t *testing.T, name string, width, height int64, dark bool) {
	t.Helper()
	b.size(t, width, height, dark)
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	shot, err := chromedp.Call(ctx, driver.CaptureScreenshot, driver.CaptureScreenshotParams{})
	if err != nil {
		t.Fatalf("take a picture: %v", err)
	}
	if err := os.WriteFile("../../docs/"+name, shot.Data, 0o600); err != nil {
		t.Fatal(err)
	}
}
