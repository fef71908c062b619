// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"testing"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// TestHTTP proves in one mesh what needs no Consul of its own. Each part has
// services of its own, and all of them run at once.
func TestHTTP(t *testing.T) {
	t.Parallel()
	consul := newHTTPMesh(t)
	for name, prove := range map[string]func(*testing.T, *realserver.Consul){
		"splitter sends a tenth to the canary":              aTenthGoesToTheCanary,
		"router picks the subset by header":                 theHeaderPicksTheSubset,
		"redirect leads to the other service":               aRedirectIsFollowed,
		"failover follows health and loses nothing":         failoverFollowsHealth,
		"503 is retried":                                    a503IsRetried,
		"retries keep to their budget":                      retriesKeepToTheirBudget,
		"route timeout is 504":                              aRouteTimeoutIs504,
		"local timeout is 504":                              aLocalTimeoutIs504,
		"intention decides by path and method":              intentionsDecideByPathAndMethod,
		"JWT of inline keys decides":                        inlineKeysDecide,
		"JWT of remote keys decides":                        remoteKeysDecide,
		"rate limit is 429":                                 aRateLimitIs429,
		"faults are as configured":                          faultsAreAsConfigured,
		"exposed path needs no TLS":                         anExposedPathNeedsNoTLS,
		"exposed check passes through the sidecar":          exposedChecksPass,
		"large header is 431":                               aLargeHeaderIs431,
		"limit on concurrent requests is 503":               tooManyRequestsAre503,
		"failing endpoint is ejected":                       aFailingEndpointIsEjected,
		"ring hash sticks to an instance":                   ringHashSticks,
		"generated cookie sticks to an instance":            aGeneratedCookieSticks,
		"deadline is passed on":                             deadlinesArePassedOn,
		"application learns who called":                     theApplicationLearnsWhoCalled,
		"status shows targets of an HTTP upstream":          statusShowsTargets,
		"WebSocket echoes":                                  webSocketsEcho,
		"WebSocket ends when its intention does":            aDenyEndsWebSockets,
		"gRPC calls of every kind pass":                     gRPCCallsPass,
		"gRPC deadline is passed on":                        gRPCDeadlinesArePassedOn,
		"instance that ends over HTTP/1.1 loses no request": func(t *testing.T, c *realserver.Consul) { anInstanceEnds(t, c, "http") },
		"instance that ends over HTTP/2 loses no request":   func(t *testing.T, c *realserver.Consul) { anInstanceEnds(t, c, "http2") },
		"changes over HTTP/1.1 lose no request":             func(t *testing.T, c *realserver.Consul) { changesLoseNothing(t, c, "http") },
		"changes over HTTP/2 lose no request":               func(t *testing.T, c *realserver.Consul) { changesLoseNothing(t, c, "http2") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			prove(t, consul)
		})
	}
}
