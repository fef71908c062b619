// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package page

import (
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// contrasts measures each text of the page against what is behind it, by the
// formula of the Web Content Accessibility Guidelines 2.2, and returns those
// below the limit of normal text, and how many there were. Grounds are opaque or
// clear: others are reported.
const contrasts = `(() => {
	const rgb = (text) => {
		const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
		return { r, g, b, a };
	};
	const light = ({ r, g, b }) => {
		const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
		return 0.2126 * x + 0.7152 * y + 0.0722 * z;
	};
	const ground = (e) => {
		for (; e; e = e.parentElement) {
			const c = rgb(getComputedStyle(e).backgroundColor);
			if (c.a === 1) return c;
			if (c.a !== 0) return null;
		}
		return null;
	};
	const low = [];
	let all = 0;
	const measure = (e, colour, what) => {
		const [front, back] = [rgb(colour), ground(e)];
		all++;
		if (!back || front.a !== 1) return low.push(what + ": not opaque");
		const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
		const ratio = (a + 0.05) / (b + 0.05);
		if (ratio < 4.5) low.push(what + ": " + ratio.toFixed(2));
	};
	const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (walk.nextNode()) {
		const e = walk.currentNode.parentElement;
		if (!walk.currentNode.data.trim() || !e.checkVisibility() || e.closest("noscript, script")) continue;
		const style = getComputedStyle(e);
		measure(e, e.closest("svg") ? style.fill : style.color, e.tagName + " " + walk.currentNode.data.trim().slice(0, 40));
	}
	const box = document.querySelector("#call");
	measure(box, getComputedStyle(box, "::placeholder").color, "placeholder");
	return { low, all };
})()`

func TestTextStandsOutFromItsGroundInLightAndInDark(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.denied("/admin")
	h.broken()
	h.called("shop", 3, time.Millisecond)
	h.calls(5, time.Millisecond, connect.ConnectFailed)
	h.set(func(h *host) {
		h.status.Draining = true
		h.status.Sidecars[1].Ready, h.status.Sidecars[1].Problem = false, "an upstream cannot be compiled"
		h.status.Watches[0].Error = "connection refused"
	})
	b := open(t, h.URL+"/#explain=web%20api%20GET%20%2Fadmin")
	b.shows(t, "#answer", "intention_denied")
	b.shows(t, "#failures", "batch → web")
	grounds := make(map[string]bool)
	for _, dark := range []bool{false, true} {
		for _, width := range []int64{1280, 360} {
			b.size(t, width, 900, dark)
			b.unfold(t)
			got := eval[struct {
				Low []string `json:"low"`
				All int      `json:"all"`
			}](t, b, contrasts)
			if len(got.Low) > 0 || got.All < 150 {
				t.Errorf("dark %v, %d px: %d texts, below 4.5: %q", dark, width, got.All, got.Low)
			}
			grounds[eval[string](t, b, `getComputedStyle(document.body).backgroundColor`)] = true
		}
	}
	if len(grounds) != 2 {
		t.Errorf("light and dark have the same ground: %v", grounds)
	}
}
