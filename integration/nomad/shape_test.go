// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// shape is a job of one service per group, as text for Nomad to parse.
type shape struct {
	name   string
	groups []group
}

// group is a service, its sidecar, and an application.
type group struct {
	name      string
	count     int            // 0 means 1
	upstreams map[string]int // port by service
	says      string         // what the application answers on port 9090; "" for one that only sleeps
	last      string         // what the application asks when it is told to end
	sidecar   string         // the whole sidecar_task; "" means that of raw_exec
	service   string         // more of sidecar_service
	proxy     string         // more of its proxy
	more      string         // more of the group
}

// rawExec is the sidecar_task that users write. arguments follow "sidecar"; more
// is further blocks.
func rawExec(more string, arguments ...string) string {
	return sidecarTask("raw_exec", "outrider", more, append([]string{"sidecar"}, arguments...)...)
}

// Megabytes of memory for a sidecar: ours, and those of other makes. Envoy in as
// little as ours reads its own program from disk again and again, which no other
// allocation of the host gets any work done beside.
const (
	ourMemory    = 32
	othersMemory = 256
)

func sidecarTask(driver, command, more string, arguments ...string) string {
	return taskOf(driver, command, ourMemory, more, arguments...)
}

// foreignTask is a sidecar_task of another make.
func foreignTask(more string, arguments ...string) string {
	return taskOf("raw_exec", "sh", othersMemory, more, arguments...)
}

func taskOf(driver, command string, memory int, more string, arguments ...string) string {
	quoted := make([]string, len(arguments))
	for i, argument := range arguments {
		quoted[i] = fmt.Sprintf("%q", argument)
	}
	return fmt.Sprintf(`
        sidecar_task {
          driver = %q
          config {
            command = %q
            args    = [%s]
          }
          resources {
            cpu    = 50
            memory = %d
          }
          %s
        }`, driver, command, strings.Join(quoted, ", "), memory, more)
}

func (s shape) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "job %q {\n", s.name)
	for _, g := range s.groups {
		b.WriteString(g.String())
	}
	b.WriteString("}\n")
	return b.String()
}

func (g group) String() string {
	if g.sidecar == "" {
		g.sidecar = rawExec("")
	}
	var upstreams strings.Builder
	for _, name := range slices.Sorted(maps.Keys(g.upstreams)) {
		fmt.Fprintf(&upstreams, `
            upstreams {
              destination_name = %q
              local_bind_port  = %d
            }`, name, g.upstreams[name])
	}
	app := `
      config {
        command = "sleep"
        args    = ["3600"]
      }`
	if g.says != "" {
		app = fmt.Sprintf(`
      config {
        command = "testapp"
      }
      env {
        %s = %q
        APP_LISTEN = "127.0.0.1:9090"
        APP_LAST   = %q
      }`, appVariable, g.says, g.last)
	}
	return fmt.Sprintf(`
  group %[1]q {
    count = %[2]d
    %[7]s
    network {
      mode = "bridge"
    }
    service {
      name = %[1]q
      port = "9090"
      connect {
        sidecar_service {
          %[8]s
          proxy {
            %[3]s
            %[6]s
          }
        }
        %[4]s
      }
    }
    task "app" {
      driver = "raw_exec"
      %[5]s
      resources {
        cpu    = 50
        memory = 64
      }
    }
  }
`, g.name, max(1, g.count), upstreams.String(), g.sidecar, app, g.proxy, g.more, g.service)
}
