// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// envoy is the sidecar_task of Envoy: the bootstrap's path of Consul's socket is
// relative to the directory of the allocation.
func envoy() string {
	return foreignTask("", "-c",
		`cd "$NOMAD_ALLOC_DIR/.." && exec envoy -c "$NOMAD_SECRETS_DIR/envoy_bootstrap.json" -l info --concurrency 1 --disable-hot-restart`)
}

// builtin is the sidecar_task of Consul's own proxy, which binds what it is told
// here and nothing of what is registered.
func (l *lab) builtin(service, rest string) string {
	_, port, _ := strings.Cut(l.consul.Addr, ":")
	return foreignTask(fmt.Sprintf(`
          env {
            CONSUL_HTTP_ADDR = "http://%s"
          }`, realserver.HostAddress+":"+port), "-c",
		`CONSUL_HTTP_TOKEN=$(cat "$NOMAD_SECRETS_DIR/si_token") exec consul connect proxy -service `+service+` -listen "0.0.0.0:$NOMAD_PORT_connect_proxy_`+service+`" `+rest)
}

// testMixed has sidecars of other makes on the one side and on the other, in the
// same shape of job.
func testMixed(t *testing.T, l *lab) {
	t.Parallel()
	for _, name := range []string{"oak", "elm", "ash"} {
		l.intend(t, name, map[string]string{"heron": "allow", "robin": "allow", "finch": "allow"})
	}
	envoyLike := sidecarTask("raw_exec", "outrider", "", "-c", "${NOMAD_SECRETS_DIR}/envoy_bootstrap.json", "-l", "info", "--concurrency", "1", "--disable-hot-restart")
	l.run(t, shape{"trees", []group{
		{name: "oak", says: "oak", sidecar: envoyLike},
		{name: "elm", says: "elm", sidecar: envoy()},
		{name: "ash", says: "ash", sidecar: l.builtin("ash", "-service-addr 127.0.0.1:9090")},
	}}.String())
	birds := l.run(t, shape{"birds", []group{
		{name: "heron", upstreams: map[string]int{"elm": 5000, "ash": 5001}, sidecar: envoyLike},
		{name: "robin", upstreams: map[string]int{"oak": 5000}, sidecar: envoy()},
		{name: "finch", upstreams: map[string]int{"oak": 5000}, sidecar: l.builtin("finch", "-service-addr 127.0.0.1:9090 -upstream oak:5000")},
	}}.String())
	heron, robin, finch := l.alloc(t, birds, "heron"), l.alloc(t, birds, "robin"), l.alloc(t, birds, "finch")
	heron.answers(t, 5000, "elm")
	heron.answers(t, 5001, "ash")
	robin.answers(t, 5000, "oak")
	finch.answers(t, 5000, "oak")
	load := robin.load(t, 5000, 4, 10*time.Millisecond)
	load.more(t, 200)
	load.unharmed(t)
	l.intend(t, "oak", map[string]string{"heron": "allow"})
	robin.refuses(t, 5000)
	finch.refuses(t, 5000)
	l.intend(t, "elm", map[string]string{"robin": "allow"})
	heron.refuses(t, 5000)
}
