// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"fmt"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// outage is how long a server is down in these tests.
const outage = 30 * time.Second

// flowFor watches traffic for d.
func flowFor(t *testing.T, l *load, d time.Duration) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		l.more(t, 50)
	}
}

func TestConsulDownForThirtySecondsCostsNothingAndIsCaughtUpWith(t *testing.T) {
	t.Parallel()
	m := newMesh(t, realserver.Persistent())
	l := startLoad(t, m.port, 3)
	m.consul.Stop()
	flowFor(t, l, outage)
	m.consul.Start(t)
	l.more(t, 200)
	l.end(t)
	c := mustDial(t, m.port)
	intend(t, m.consul, "deny", "web", "api")
	c.closedWithin(t, patience)
	until(t, "the change made after the outage is in force", func() error {
		if c, err := dial(m.port); err == nil {
			_ = c.Close()
			return fmt.Errorf("a denied call went through")
		}
		return nil
	})
}

func TestConsulCARotationUnderTraffic(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	l := startLoad(t, m.port, 5)
	web, api := m.web.serial(t), m.api.serial(t)
	setCA(t, m.consul, map[string]any{"Provider": "consul", "Config": map[string]any{"PrivateKeyType": "ec", "PrivateKeyBits": 384}})
	m.web.newLeaf(t, web)
	m.api.newLeaf(t, api)
	l.more(t, 300)
	l.end(t)
	active := 0
	for _, r := range m.api.status(t).Roots {
		if r.Active {
			active++
		}
	}
	if roots := m.api.status(t).Roots; len(roots) != 2 || active != 1 {
		t.Errorf("roots %+v, want the old and the new one, one of them active", roots)
	}
}
