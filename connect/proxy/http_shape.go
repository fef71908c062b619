// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"reflect"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/limit"
	"github.com/outrider-mesh/outrider/connect/request"
)

// shaping is how many requests this instance takes, and which it spoils on
// purpose. The same one serves on over snapshots that do not change it, so that
// a limit is not refilled by news.
type shaping struct {
	limits connect.RateLimits
	faults []connect.Fault

	general *limit.Bucket // nil means no limit
	routes  []routeLimit
	spoil   []fault
}

type routeLimit struct {
	path   request.PathMatcher
	bucket *limit.Bucket
}

type fault struct {
	connect.Fault
	match *request.Matcher
}

// compileShaping returns before when it says the same.
func compileShaping(s connect.Service, before *shaping) (*shaping, error) {
	if before != nil && reflect.DeepEqual(before.limits, s.RateLimits) && reflect.DeepEqual(before.faults, s.Faults) {
		return before, nil
	}
	out := &shaping{limits: s.RateLimits, faults: s.Faults, general: limit.NewBucket(s.RateLimits.Rate, s.RateLimits.Burst)}
	for i, r := range s.RateLimits.Routes {
		path, err := request.CompilePath(r.Path)
		if err != nil {
			return nil, fmt.Errorf("rate limit of route %d: %w", i+1, err)
		}
		out.routes = append(out.routes, routeLimit{path, limit.NewBucket(r.Rate, r.Burst)})
	}
	for i, f := range s.Faults {
		match, err := request.Compile(f.Match)
		if err != nil {
			return nil, fmt.Errorf("fault %d: %w", i+1, err)
		}
		out.spoil = append(out.spoil, fault{f, match})
	}
	return out, nil
}

// admits takes one request out of the bucket that its path belongs to.
func (s *shaping) admits(path string, now time.Time) bool {
	b := s.general
	for i := range s.routes {
		if s.routes[i].path.Matches(path) {
			b = s.routes[i].bucket
			break
		}
	}
	return b.Take(now)
}

const million = 1_000_000

// shape applies rate limits, then faults.
func (x *exchange) shape(s *httpService, head *connect.Head) bool {
	if !s.shaping.admits(head.PathOnly(), x.began) {
		x.refuse(limited())
		return false
	}
	if x.maxBody = s.shaping.limits.MaxBody; x.maxBody > 0 && x.r.ContentLength > x.maxBody {
		x.refuse(tooLarge(), "limit", x.maxBody, "length", x.r.ContentLength)
		return false
	}
	for i := range s.shaping.spoil {
		f := &s.shaping.spoil[i]
		if !f.match.Matches(head) {
			continue
		}
		if f.Delay > 0 && rand.IntN(million) < f.DelayMillionths && !wait(x.ctx.Done(), f.Delay) {
			x.ended(context.Cause(x.ctx))
			return false
		}
		if f.AbortStatus > 0 && rand.IntN(million) < f.AbortMillionths {
			x.w.Header().Set("X-Outrider-Fault", "abort")
			// Not counted with what is refused: it is on purpose. Header and record agree.
			x.record.Reason, x.record.Why = connect.RequestInvalid, "a fault is injected on purpose, as the service's configuration asks"
			x.reply(answer{status: f.AbortStatus, body: http.StatusText(f.AbortStatus), reason: connect.RequestInvalid})
			return false
		}
		return true // the first that matches is the one
	}
	return true
}
