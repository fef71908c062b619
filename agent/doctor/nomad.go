// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package doctor

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
)

func (p *patient) attribute(name string) string {
	if p.node == nil {
		return ""
	}
	return p.node.Attributes[name]
}

func (p *patient) noNomad() Finding {
	if p.NomadExpected && !p.Offline {
		return Finding{"Nomad agent", Fail, p.nodeErr.Error(), "start the Nomad agent, or correct NOMAD_ADDR and NOMAD_TOKEN"}
	}
	return Finding{"Nomad agent", Skipped, p.nodeErr.Error(), ""}
}

func (p *patient) nomadAgent() Finding {
	const check = "Nomad agent"
	n := p.node
	switch {
	case n.ID == "":
		return Finding{check, Skipped, fmt.Sprintf("%s answers, version %s, and is no client: no allocation runs on this host", n.Address, n.Version), ""}
	case n.Status != "ready":
		return Finding{check, Fail, fmt.Sprintf("%s answers, version %s; node %s is %s", n.Address, n.Version, n.Name, n.Status), "see the log of the Nomad agent: only a ready node runs allocations"}
	case !n.Eligible:
		return Finding{check, Warn, fmt.Sprintf("%s answers, version %s; node %s takes no new allocations", n.Address, n.Version, n.Name), "nomad node eligibility -enable -self"}
	}
	return Finding{check, OK, fmt.Sprintf("%s answers, version %s; node %s is ready", n.Address, n.Version, n.Name), ""}
}

// nomadConsul looks at what Nomad demands of a node for a group with
// sidecar_service (Nomad, Consul integration: requirements of service mesh).
func (p *patient) nomadConsul() Finding {
	const check = "Consul in Nomad's eyes"
	version, grpc := p.attribute("consul.version"), p.attribute("consul.grpc")
	switch {
	case version == "":
		return Finding{check, Fail, "Nomad has found no Consul, so it places no job with sidecar_service here", "set consul { address token } in Nomad's configuration and see its log; it looks again every few minutes"}
	case p.attribute("consul.connect") != "true":
		return Finding{check, Fail, fmt.Sprintf("Nomad has found Consul %s with the service mesh off", version), "set connect { enabled = true } on the Consul servers and restart the Nomad agent"}
	case grpc == "" || strings.HasPrefix(grpc, "-"):
		return Finding{check, Fail, fmt.Sprintf("Nomad has found Consul %s without a gRPC port", version), "set ports { grpc = 8502 } in the configuration of the Consul agent, and restart the Nomad agent"}
	}
	return Finding{check, OK, fmt.Sprintf("Nomad has found Consul %s with the service mesh on and gRPC on port %s", version, grpc), ""}
}

// nomadBridge looks for what network { mode = "bridge" } takes (Nomad,
// installation: post-install steps, CNI plugins).
func (p *patient) nomadBridge() Finding {
	const check = "bridge networking"
	var missing []string
	for _, plugin := range []string{"bridge", "firewall", "host-local", "loopback", "portmap"} {
		if p.attribute("plugins.cni.version."+plugin) == "" {
			missing = append(missing, plugin)
		}
	}
	if len(missing) > 0 {
		return Finding{check, Fail, fmt.Sprintf("Nomad has not found these CNI plugins in %s: %s", cmp.Or(p.node.CNIPath, "its cni_path"), strings.Join(missing, ", ")),
			"install the reference CNI plugins there and restart the Nomad agent; without them no group with mode = \"bridge\" is placed here"}
	}
	// Nomad fingerprints the mode of its bridge only where the kernel has one.
	if p.attribute("nomad.bridge.hairpin_mode") == "" {
		return Finding{check, Fail, "Nomad has not found the bridge module of the kernel", "modprobe bridge, and restart the Nomad agent"}
	}
	return Finding{check, OK, "the kernel has bridges, and the CNI plugins are there, bridge in version " + p.attribute("plugins.cni.version.bridge"), ""}
}

// drivers looks for one that can run the sidecar's task.
func (p *patient) drivers() Finding {
	const check = "task drivers"
	var usable, broken []string
	for _, name := range slices.Sorted(maps.Keys(p.node.Drivers)) {
		if !slices.Contains([]string{"raw_exec", "exec", "exec2", "docker", "podman"}, name) {
			continue
		}
		if d := p.node.Drivers[name]; d.Detected && d.Healthy {
			usable = append(usable, name)
		} else if d.Detected {
			broken = append(broken, name+": "+d.Description)
		}
	}
	unhealthy := optional("; not healthy: ", strings.Join(broken, ", "))
	const remedy = `plugin "raw_exec" { config { enabled = true } } in Nomad's configuration lets every job author act as root on this host`
	switch {
	case len(usable) == 0:
		return Finding{check, Fail, "no driver that could run a sidecar" + unhealthy, "run the Nomad agent as root on Linux for exec, or install docker; " + remedy}
	case !slices.Contains(usable, "raw_exec"):
		return Finding{check, OK, fmt.Sprintf("%s; raw_exec is off, as it should be where job authors are not trusted with this host%s", strings.Join(usable, ", "), unhealthy), ""}
	}
	return Finding{check, OK, strings.Join(usable, ", ") + unhealthy, ""}
}

// hookProgram looks for the program that Nomad runs for every sidecar task.
func (p *patient) hookProgram() Finding {
	const (
		check  = "consul on Nomad's PATH"
		remedy = "install the consul program in one of these folders, or link it there; a stand-in that exits with 0 satisfies Nomad too, but then each sidecar has to be named with -proxy-id"
	)
	if p.processErr != nil {
		return Finding{check, Skipped, p.processErr.Error(), ""}
	}
	if at := p.process.find(p.Root, "consul"); at != "" {
		return Finding{check, OK, at, ""}
	}
	return Finding{check, Fail, fmt.Sprintf("Nomad runs \"consul connect envoy -bootstrap\" before each sidecar task, whatever its driver, and there is no consul in %s: the tasks fail after a minute", p.process.path), remedy}
}

func (p *patient) outriderProgram() Finding {
	const check = "outrider on Nomad's PATH"
	if p.processErr != nil {
		return Finding{check, Skipped, p.processErr.Error(), ""}
	}
	if at := p.process.find(p.Root, "outrider"); at != "" {
		return Finding{check, OK, at, ""}
	}
	return Finding{check, Warn, fmt.Sprintf("there is no outrider in %s", p.process.path), "install it there, or write the full path in the task's config { command }"}
}

// iptables is run by Nomad and by the CNI plugins firewall and portmap.
func (p *patient) iptables() Finding {
	const check = "iptables on Nomad's PATH"
	if p.processErr != nil {
		return Finding{check, Skipped, p.processErr.Error(), ""}
	}
	if at := p.process.find(p.Root, "iptables"); at != "" {
		return Finding{check, OK, at, ""}
	}
	return Finding{check, Fail, fmt.Sprintf("there is no iptables in %s: Nomad cannot set up bridge networking", p.process.path), "install iptables"}
}

// forwarding looks at the kernel settings that Nomad's documentation asks for
// (Nomad, installation: bridge networking) and the one that routes packets
// between groups and the world.
func (p *patient) forwarding() Finding {
	const check = "kernel settings"
	read := func(name string) string {
		text, err := fs.ReadFile(p.Root, "proc/sys/"+strings.ReplaceAll(name, ".", "/"))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(text))
	}
	if v := read("net.ipv4.ip_forward"); v != "1" {
		// The CNI plugin bridge turns it on with the first group; some hosts turn
		// it off again.
		return Finding{check, Warn, "net.ipv4.ip_forward is " + cmp.Or(v, "not readable") + ": without it groups reach nothing outside of this host", "sysctl -w net.ipv4.ip_forward=1, and in /etc/sysctl.d for the next start"}
	}
	for _, name := range []string{"net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables", "net.bridge.bridge-nf-call-arptables"} {
		switch v := read(name); v {
		case "1":
		case "":
			return Finding{check, Warn, name + " does not exist: the module br_netfilter is not loaded", "modprobe br_netfilter, and name it in /etc/modules-load.d for the next start"}
		default:
			return Finding{check, Warn, name + " is " + v + ", where Nomad asks for 1", "sysctl -w " + name + "=1, and in /etc/sysctl.d for the next start"}
		}
	}
	return Finding{check, OK, "packets are forwarded, and iptables sees those of bridges", ""}
}

func (p *patient) transparent() Finding {
	const check = "transparent_proxy"
	if v := p.attribute("plugins.cni.version.consul-cni"); v != "" {
		return Finding{check, OK, "the CNI plugin consul-cni is there, in version " + v, ""}
	}
	return Finding{check, Skipped, "Nomad has not found the CNI plugin consul-cni: jobs with transparent_proxy are not placed here, all others are", ""}
}
