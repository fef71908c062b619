// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package page

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/connect"
)

const (
	web      = `[id="service/web-1-sidecar-proxy"]`
	webPart  = `[id="service/web-1-sidecar-proxy/%s"]`
	tabKey   = "\t"
	enterKey = "\r"
	tooWide  = `document.documentElement.scrollWidth > innerWidth`
	// outside are elements that reach out of the box they are in.
	outside = `[...document.querySelectorAll("main > section *, #explain *")].filter((e) => {
		const box = e.parentElement.closest("main > section, .explanation, #explain");
		const edge = box.getBoundingClientRect().right - parseFloat(getComputedStyle(box).paddingRight);
		return e.getBoundingClientRect().right > edge + 0.5 && getComputedStyle(e.closest("thead") ?? e).position !== "absolute";
	}).map((e) => e.tagName + "." + e.className).slice(0, 8)`
)

func part(name string) string { return fmt.Sprintf(webPart, name) }

func TestWhatAHostServesIsShown(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.called("shop", 40, 4*time.Millisecond)
	h.rules.Decided(1, true)
	h.rules.Decided(1, true)
	h.calls(99, 12*time.Millisecond, "")
	h.calls(1, time.Millisecond, connect.ConnectFailed)
	h.denied("/admin")
	h.broken()
	b := open(t, h.URL)
	b.shows(t, "#host", "serving 2 sidecars", "Version 0.6.0", "Up 3 d 3 h", "Consul 127.0.0.1:8500", "https://vault.service.consul:8200", "live")
	b.shows(t, "#problems", "None that the agent knows of.")
	b.shows(t, "nav", "web", "cache", "Denials and failures (2)", "Sources")
	b.shows(t, web+" h2", "web")
	b.shows(t, part("certificate"), identity("web").String(), "Not before", "(1 d 6 h ago)", "Next renewal", "(in 1", "Not after", "pri-vault.5c1a9b2e.consul", "Vault CA Primary, active")
	b.shows(t, part("inbound"), "10.0.3.5:21000", "3 of at most 4,096", "40,219", "18 MiB / 211 MiB", "intention_denied 3", "shop 40 calls")
	b.shows(t, part("intentions")+" tbody tr:nth-child(1)", "batch deny 9 0 1")
	b.shows(t, part("intentions")+" tbody tr:nth-child(2)", "shop allow 9 2 0")
	b.shows(t, part("intentions")+" tbody tr:nth-child(3)", "any other deny default policy, from Consul's ACL system – 0 0")
	b.shows(t, part("upstreams"), "127.0.0.1:9191", "100 calls", "connect_failed 1", "1 of 3 endpoints in use")
	b.shows(t, part("upstreams")+" table", "10.0.1.9:21001 node-a 1 2 used", "not used ejected until", "after repeated failures", "check service:api-3 is critical", "connection refused")
	b.shows(t, "#failures", "batch → web GET /admin", "intention_denied", "web → api POST /orders", "connect_failed", "2 since the agent began")
	b.shows(t, "#sources", "config/service-intentions/web", "s ago fine", "connect/ca/roots 12 min ago")
	b.holds(t, "the renewal is between now and the end", fmt.Sprintf(`(() => {
		const bar = document.querySelector(%q);
		const spent = Number(bar.querySelector(".spent").getAttribute("width"));
		const renewal = Number(bar.querySelector(".renewal").getAttribute("x1"));
		return spent > 240 && spent < 260 && renewal > spent && renewal < 600 && /41 %%|42 %%/.test(bar.getAttribute("aria-label"));
	})()`, part("certificate")+" svg.cert"))
}

func TestPlotsFollowWhatIsCounted(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.calls(1, time.Millisecond, "")
	b := open(t, h.URL)
	b.shows(t, part("upstreams"), "1 calls")
	h.calls(90, 12*time.Millisecond, "")
	h.calls(10, 400*time.Millisecond, connect.ConnectFailed)
	b.shows(t, part("upstreams")+" .plot:nth-child(1) figcaption", "Latency", "p50", "ms", "p99 4")
	b.shows(t, part("upstreams")+" .plot:nth-child(2) figcaption", "Success 90.0 %")
	b.holds(t, "the plots have points", fmt.Sprintf(`[...document.querySelectorAll(%q)].every((p) => Number(p.dataset.points) > 0 && p.getAttribute("d").startsWith("M"))`, part("upstreams")+" .plot path"))
	b.holds(t, "the plots are said in words", fmt.Sprintf(`/^Latency of api called by web, last 5 minutes: p50 \d.*, p99 at most \d/.test(document.querySelector(%q).getAttribute("aria-label"))`, part("upstreams")+" svg"))
	b.holds(t, "axes have units", fmt.Sprintf(`[...document.querySelectorAll(%q)].map((e) => e.textContent).join("|") === "500 ms|0 ms|5 min ago|now"`, part("upstreams")+" .plot:nth-child(1) text"))
	h.calls(400, time.Minute, "")
	b.shows(t, part("upstreams")+" .plot:nth-child(1) figcaption", "p99 15 s")
}

func TestAFailureUnfoldsToItsCauses(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.broken()
	b := open(t, h.URL)
	b.shows(t, "#failures", "web → api")
	if got := b.text(t, "#failures .why"); got != "" {
		t.Errorf("the causes are shown before somebody asks: %q", got)
	}
	b.do(t, chromedp.Click(chromedp.CSS("#failures summary")))
	b.shows(t, "#failures details", "no try reached an endpoint", "2 tries, in order", "1 10.0.1.10:21001", "2 10.0.1.11:21001", "connection refused", "Resolver resolver:api.default.default")
	h.denied("/later")
	b.shows(t, "#failures", "batch → web GET /later")
	b.holds(t, "what was unfolded stays so when there is more", `document.querySelectorAll("#failures details")[1].open && !document.querySelectorAll("#failures details")[0].open`)
}

func TestCallsSeenAreAskedForWhileSomebodyLooks(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := open(t, h.URL)
	b.shows(t, "#seen", "Who has called whom")
	looked := func() (n int) {
		h.set(func(h *host) { n = h.looked })
		return n
	}
	if n := looked(); n != 0 {
		t.Errorf("%d questions before somebody looks", n)
	}
	b.do(t, chromedp.Click(chromedp.CSS("#seen summary")))
	b.shows(t, "#seen", "2 calls found no room", "batch web GET /orders/{id} inbound denied 3 now", "east/web api connection outbound allowed 412 1 h ago")
	until(t, "they are asked for again", func() error {
		if n := looked(); n < 2 {
			return fmt.Errorf("%d questions", n)
		}
		return nil
	})
}

func TestACallIsExplainedWithTheKeyboardAlone(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := open(t, h.URL)
	b.shows(t, web, "web")
	var way []string
	for range 20 {
		b.do(t, chromedp.KeyEvent(tabKey))
		way = append(way, eval[string](t, b, `document.activeElement.id || document.activeElement.textContent`))
		if way[len(way)-1] == "call" {
			break
		}
		if !eval[bool](t, b, `(() => { const s = getComputedStyle(document.activeElement); return s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2 })()`) {
			t.Errorf("the focus on %q is not to be seen", way[len(way)-1])
		}
	}
	if diff := cmp.Diff([]string{"Skip to the services", "web", "cache", "Denials and failures", "Calls seen", "Sources", "call"}, way); diff != "" {
		t.Fatalf("the way of the Tab key (-want +got):\n%s", diff)
	}
	b.do(t, chromedp.KeyEvent("web api GET /admin"), chromedp.KeyEvent(enterKey))
	b.shows(t, "#answer", "not served", "web → api GET /admin", "intention_denied", "permission 1 of intention web → api denies it")
	titles := eval[[]string](t, b, `[...document.querySelectorAll("#explain .steps h3")].map((e) => e.textContent)`)
	want := []string{"Upstream api", "Router rule 2 of 3", "resolver:api.default.default", "Target api.default.default.dc1", "Intentions of api"}
	if diff := cmp.Diff(want, titles); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	b.shows(t, "#explain .steps", "127.0.0.1:9191", identity("api").String(), "ejected after repeated failures", "path begins with /admin", "decides", "owner = team-pay", "index 231")
	h.set(func(h *host) {
		if diff := cmp.Diff([]string{"destination=api&method=GET&path=%2Fadmin&source=web"}, h.asked); diff != "" {
			t.Errorf("questions (-want +got):\n%s", diff)
		}
	})
}

func TestAnIncompleteQuestionSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := open(t, h.URL+"/#explain=web%20api%20GET")
	b.shows(t, "#answer", "Write source and destination, and for HTTP a method and a path")
	h.set(func(h *host) {
		if len(h.asked) > 0 {
			t.Errorf("the agent was asked: %q", h.asked)
		}
	})
}

func TestAnAddressLeadsToItsPlace(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := open(t, h.URL+"/#service/web-1-sidecar-proxy/upstream/api")
	b.holds(t, "the upstream has the focus", `document.activeElement.id === "service/web-1-sidecar-proxy/upstream/api"`)
	b.holds(t, "it is in sight", `document.activeElement.getBoundingClientRect().top < innerHeight`)
	b.do(t, chromedp.Navigate(h.URL+"/#explain=web%20api%20GET%20%2Fadmin"))
	b.shows(t, "#answer", "intention_denied")
	if got := eval[string](t, b, `document.querySelector("#call").value`); got != "web api GET /admin" {
		t.Errorf("the search box says %q", got)
	}
}

func TestNewDataLeaveTheFocusAndWhatIsTypedAlone(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := open(t, h.URL)
	b.shows(t, web, "web")
	b.do(t, chromedp.Focus(chromedp.CSS("#call")), chromedp.KeyEvent("web ap"))
	b.do(t, chromedp.Evaluate[chromedp.Void](`window.before = document.querySelector('#call')`))
	h.set(func(h *host) {
		h.status.Sidecars = h.status.Sidecars[1:]
		h.status.Version = "0.6.1"
	})
	b.shows(t, "#host", "0.6.1", "serving 1 sidecar")
	b.holds(t, "the box is the same, with what was typed", `document.activeElement === before && before.value === "web ap"`)
	b.holds(t, "the service that is gone is not shown", `document.querySelectorAll(".service").length === 1`)
}

func TestProblemsComeFirst(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.set(func(h *host) {
		s := &h.status.Sidecars[0]
		h.status.Draining = true
		s.Ready, s.Missing = false, []string{"intentions of web"}
		s.Leaf.NotAfter = time.Now().Add(-time.Hour)
		s.Leaf.Error = "sign at connect-intermediate: permission denied"
		s.Proxy.Upstreams[0].Targets[0].Endpoints = s.Proxy.Upstreams[0].Targets[0].Endpoints[1:]
		h.status.Watches[0].Error, h.status.Watches[0].Failures = "connection refused", 5
	})
	b := open(t, h.URL)
	b.shows(t, "#host", "draining")
	b.shows(t, "#problems", "Problems (6)", "it is draining", "it waits for intentions of web", "its certificate expired 1 h ago", "permission denied",
		"upstream api: no endpoint can be used", "health/service/api: connection refused (5 failures in a row")
	b.holds(t, "they are above the services", `document.querySelector("#problems").compareDocumentPosition(document.querySelector(".service")) === Node.DOCUMENT_POSITION_FOLLOWING`)
	b.holds(t, "the bar says that it is over", fmt.Sprintf(`document.querySelector(%q).getAttribute("aria-label").startsWith("Certificate timeline: it expired")`, part("certificate")+" svg.cert.over"))
}

func TestWhenTheAgentIsGoneTheLastDataStay(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := open(t, h.URL)
	b.shows(t, web, "10.0.3.5:21000")
	b.expect("Failed to load resource")
	h.set(func(h *host) { h.gone = true })
	b.shows(t, "#news", "The agent does not answer: no connection. What follows is from 20", "This page asks again")
	b.shows(t, "#host", "s old")
	b.shows(t, web, "10.0.3.5:21000")
	h.set(func(h *host) { h.gone = false })
	b.shows(t, "#host", "live")
	if got := b.text(t, "#news"); got != "" {
		t.Errorf("it still says %q", got)
	}
}

func TestAHostThatHasNothingYetSaysSo(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.set(func(h *host) {
		h.status = agent.Status{Version: "0.6.0", Started: time.Now(), Consul: "127.0.0.1:8500"}
	})
	b := open(t, h.URL)
	b.shows(t, "main", "This agent has no sidecar", "Everything was served.", "Nothing is watched yet.")
	h.set(func(h *host) {
		h.status.Sidecars = []agent.SidecarStatus{{Service: "web", ProxyID: "web-1-sidecar-proxy", Missing: []string{"the sidecar's registration in Consul"}}}
	})
	b.shows(t, web, "not ready", "It waits for the sidecar's registration in Consul.", "It has no certificate yet")
}

func TestNothingIsWiderThanAPhone(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	long := strings.Repeat("a", 250)
	h.denied("/" + long)
	h.broken()
	h.set(func(h *host) {
		h.status.Sidecars[0].Service = "web-" + long
		h.status.Sidecars[0].Proxy.Upstreams[0].ID = connect.UpstreamID("api-" + long)
		h.status.Sidecars[0].Proxy.Upstreams[0].Targets[0].Endpoints[0].Node = long
		h.status.Watches[0].Key = long
	})
	b := open(t, h.URL+"/#explain=web%20api%20GET%20%2Fadmin")
	b.shows(t, "#answer", "intention_denied")
	b.shows(t, "#failures", "batch → web")
	for _, width := range []int64{360, 700, 800, 1280} {
		b.size(t, width, 800, false)
		b.unfold(t)
		if eval[bool](t, b, tooWide) {
			t.Errorf("at %d px the page is %d px wide", width, eval[int](t, b, `document.documentElement.scrollWidth`))
		}
		if got := eval[[]string](t, b, outside); len(got) > 0 {
			t.Errorf("at %d px these reach out of their box: %v", width, got)
		}
	}
}

const injection = `<img src=x onerror="document.title='owned'">`

func TestNamesOfStrangersAreText(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.denied("/" + injection)
	h.called(injection, 3, time.Millisecond)
	h.set(func(h *host) {
		s := &h.status.Sidecars[0]
		s.Service, s.Problem = "web"+injection, injection
		s.Proxy.Upstreams[0].ID = injection
		s.Proxy.Upstreams[0].Targets[0].Endpoints[0].Node = injection
		s.Intentions[0].Source = `"><script>document.title='owned'</script>`
		h.status.Consul = "javascript:document.title='owned'"
		h.status.Watches[0].Key, h.status.Watches[0].Error = injection, injection
	})
	b := open(t, h.URL+"/#explain=%3Cimg%20src%3Dx%3E%20api")
	b.shows(t, web+" h2", "web"+injection)
	b.shows(t, "#failures", "GET /"+injection)
	b.shows(t, part("inbound"), injection+" 3 calls")
	b.shows(t, part("intentions"), `"><script>document.title='owned'</script>`)
	b.unfold(t)
	got := eval[[]string](t, b, `[...document.querySelectorAll("img, iframe, object, [onerror], [onclick], [style], body script, a:not([href^='#'])")].map((e) => e.outerHTML)`)
	if len(got) > 0 || strings.HasPrefix(eval[string](t, b, "document.title"), "owned") {
		t.Errorf("a name became markup: %q", got)
	}
}

func TestLandmarksAndHeadingsLeadThroughThePage(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.broken()
	b := open(t, h.URL)
	b.shows(t, "#failures", "web → api")
	for _, landmark := range []string{"header", "nav[aria-label]", "search", "main", "footer"} {
		if n := eval[int](t, b, fmt.Sprintf(`document.querySelectorAll("body > %s").length`, landmark)); n != 1 {
			t.Errorf("%d landmarks %s", n, landmark)
		}
	}
	levels := eval[[]int](t, b, `[...document.querySelectorAll("h1, h2, h3, h4, h5")].map((e) => Number(e.tagName[1]))`)
	for i, level := range levels {
		if i > 0 && level > levels[i-1]+1 {
			t.Errorf("heading %d of level %d follows one of level %d", i, level, levels[i-1])
		}
	}
	if len(levels) == 0 || levels[0] != 1 || slices.Contains(levels[1:], 1) {
		t.Errorf("levels %v: one h1, at the beginning", levels)
	}
	unnamed := eval[[]string](t, b, `[...document.querySelectorAll("svg:not([aria-label]), section:not([aria-labelledby]), table:not(:has(caption)), input:not([id]), button:empty")].map((e) => e.outerHTML.slice(0, 100))`)
	if len(unnamed) > 0 {
		t.Errorf("without a name: %q", unnamed)
	}
	twice := eval[[]string](t, b, `[...document.querySelectorAll("[id]")].map((e) => e.id).filter((id, i, all) => all.indexOf(id) !== i)`)
	if len(twice) > 0 {
		t.Errorf("ids that are there twice: %q", twice)
	}
}
