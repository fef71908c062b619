// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jobs

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"
)

const (
	// proxyKind begins the kind of a task that is the sidecar of a service; the
	// service's name follows (Nomad, job specification: task, kind).
	proxyKind = "connect-proxy:"

	// adminSocket is where the sidecar of a task serves its admin API, below the
	// task's folder.
	adminSocket = "secrets/outrider.sock"

	maxMounts = 16 << 20 // bytes of a table of mounts
)

// A Host is what the Nomad agent of this machine runs of the mesh.
type Host struct {
	NodeID   string
	NodeName string
	Sidecars []HostSidecar // by job, group, allocation and task
	// Note says that there may be more sidecars than these and why; "" when not.
	Note string
}

// A HostSidecar is a task that Nomad runs as the sidecar of a service, by
// whatever program.
type HostSidecar struct {
	Namespace string
	Job       string
	Group     string
	Alloc     string // ID of the allocation, in full
	Task      string
	Service   string
	Driver    string
	State     string // of the task in Nomad's words: pending, running or dead
	// Socket is where the task serves the admin API if it is Outrider; "" when
	// the allocation's folder is unknown or a name could lead out of it.
	Socket string
}

// Host returns the sidecars of the allocations that the agent runs now. root is
// the file system of this machine, read only for the table of mounts where the
// agent does not say where its allocations lie. The error says which policy a
// token lacks.
func (c *Client) Host(ctx context.Context, root fs.FS) (*Host, error) {
	self, err := c.self(ctx)
	if err != nil {
		return nil, err
	}
	if self.NodeID == "" {
		return nil, fmt.Errorf("the Nomad agent at %s is no client: its allocations run elsewhere; ask on the host that runs them, or name its agent in NOMAD_ADDR", c.Address())
	}
	var allocs []*api.Allocation
	if err := c.query(ctx, "/v1/node/"+self.NodeID+"/allocations", &allocs); err != nil {
		return nil, lacks(fmt.Errorf("list the allocations of this node: %w", err), `node { policy = "read" } and, per namespace, the capability read-job`)
	}
	h := &Host{NodeID: self.NodeID, NodeName: self.NodeName}
	places := self.places(root)
	for _, a := range allocs {
		if a == nil {
			continue
		}
		h.NodeName = cmp.Or(h.NodeName, a.NodeName)
		if a.ClientStatus == api.AllocClientStatusRunning || a.ClientStatus == api.AllocClientStatusPending {
			h.Sidecars = append(h.Sidecars, sidecars(a, places)...)
		}
	}
	if self.Allocs > len(allocs) {
		h.Note = fmt.Sprintf("Nomad has %d allocations here and shows %d of them: the token needs the capability read-job in every namespace", self.Allocs, len(allocs))
	}
	slices.SortFunc(h.Sidecars, func(a, b HostSidecar) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Job, b.Job), cmp.Compare(a.Group, b.Group), cmp.Compare(a.Alloc, b.Alloc), cmp.Compare(a.Task, b.Task))
	})
	return h, nil
}

// lacks adds to a refusal what the token needs.
func lacks(err error, policy string) error {
	if answer, ok := errors.AsType[*answerError](err); ok && answer.status == http.StatusForbidden {
		return fmt.Errorf("%w; its policy needs %s", err, policy)
	}
	return err
}

// sidecars returns the sidecar tasks of one allocation.
func sidecars(a *api.Allocation, p places) []HostSidecar {
	if a.Job == nil {
		return nil
	}
	var out []HostSidecar
	for _, g := range a.Job.TaskGroups {
		if g == nil || g.Name == nil || *g.Name != a.TaskGroup {
			continue
		}
		for _, t := range g.Tasks {
			service, ok := "", false
			if t != nil {
				service, ok = strings.CutPrefix(t.Kind, proxyKind)
			}
			if !ok {
				continue
			}
			s := HostSidecar{
				Namespace: a.Namespace, Job: a.JobID, Group: a.TaskGroup, Alloc: a.ID, Task: t.Name,
				Service: service, Driver: t.Driver, State: "pending", Socket: p.socket(a.ID, t.Name),
			}
			if state := a.TaskStates[t.Name]; state != nil {
				s.State = state.State
			}
			out = append(out, s)
		}
	}
	return out
}

// places knows where the folders of allocations are.
type places struct {
	allocs string            // the folder of all allocations; "" when unknown
	mounts map[string]string // "<allocation>/<task>" to the task's folder, when allocs is ""
}

// socket returns "" rather than a path outside of the task's folder: an agent
// that is not this host's, or not Nomad, must not choose what root opens here.
func (p places) socket(alloc, task string) string {
	if !plain(alloc) || !plain(task) {
		return ""
	}
	if p.allocs != "" {
		return filepath.Join(p.allocs, alloc, task, adminSocket)
	}
	if dir := p.mounts[alloc+"/"+task]; dir != "" {
		return filepath.Join(dir, adminSocket)
	}
	return ""
}

// plain reports whether name is the name of one file in a folder.
func plain(name string) bool {
	return filepath.IsLocal(name) && name != "." && !strings.ContainsAny(name, `/\`+"\x00")
}

// self is what the agent says about itself.
type self struct {
	NodeID   string // "" for an agent that is no client
	NodeName string
	Version  string
	Allocs   int    // that the client keeps
	DataDir  string // "" with -dev
	AllocDir string // "" for the folder alloc of DataDir
	Port     int    // of the HTTP API
	// ConsulAddress is where the agent finds the HTTP API of its default Consul.
	ConsulAddress string
	CNIPath       string
}

func (c *Client) self(ctx context.Context) (self, error) {
	var a api.AgentSelf
	if err := c.query(ctx, "/v1/agent/self", &a); err != nil {
		return self{}, lacks(fmt.Errorf("ask the Nomad agent who it is: %w", err), `agent { policy = "read" }`)
	}
	client := a.Stats["client"]
	s := self{
		NodeID: client["node_id"], NodeName: field[string](a.Config, "NodeName"), Version: field[string](a.Config, "Version", "Version"),
		DataDir: field[string](a.Config, "DataDir"), AllocDir: field[string](a.Config, "Client", "AllocDir"),
		Port: int(field[float64](a.Config, "Ports", "HTTP")), CNIPath: field[string](a.Config, "Client", "CNIPath"),
	}
	s.Allocs, _ = strconv.Atoi(client["num_allocations"]) // 0, and so no note, should Nomad stop to tell
	if s.NodeID != "" && !plain(s.NodeID) {
		return self{}, fmt.Errorf("ask the Nomad agent who it is: %q is no node ID; check that a Nomad agent answers at %s", clean(s.NodeID), c.Address())
	}
	for _, cluster := range field[[]any](a.Config, "Consuls") {
		cluster, _ := cluster.(map[string]any)
		if field[string](cluster, "Name") == "default" || s.ConsulAddress == "" {
			s.ConsulAddress = field[string](cluster, "Addr")
		}
	}
	return s, nil
}

// field returns what lies at path, or nothing when that is not there or of another
// type: the names are those of the agent's configuration in Go, and between
// versions of Nomad some have changed (Nomad's HTTP API, agent: read self).
func field[T any](in map[string]any, path ...string) T {
	for _, name := range path[:len(path)-1] {
		in, _ = in[name].(map[string]any)
	}
	found, _ := in[path[len(path)-1]].(T)
	return found
}

// places returns where the allocations lie: what the configuration says, else,
// with -dev, where the kernel has mounted the secrets of tasks.
func (s self) places(root fs.FS) places {
	switch {
	case s.AllocDir != "":
		return places{allocs: s.AllocDir}
	case s.DataDir != "":
		return places{allocs: filepath.Join(s.DataDir, "alloc")}
	}
	return places{mounts: secretMounts(root)}
}

// secretMounts finds the tasks whose folder of secrets is a mount of its own,
// as Nomad makes it when it runs as root (Linux manual, proc(5): mountinfo). A
// temporary folder has a name that anybody could invent; a mount has not.
func secretMounts(root fs.FS) map[string]string {
	f, err := root.Open("proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	out := make(map[string]string)
	lines := bufio.NewScanner(f)
	for read := 0; lines.Scan() && read < maxMounts; read += len(lines.Bytes()) {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		dir, ok := strings.CutSuffix(unescape(fields[4]), "/secrets")
		if !ok {
			continue
		}
		out[filepath.Base(filepath.Dir(dir))+"/"+filepath.Base(dir)] = dir
	}
	return out
}

// unescape undoes how the table of mounts writes space, tab, newline and
// backslash.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}
