// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jobs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Drivers that can run the sidecar without an image.
const (
	driverRaw  = "raw_exec"
	driverExec = "exec"
)

// The identities that Nomad is asked to sign for the sidecar. Nomad writes each to
// secrets/nomad_NAME.jwt of the task.
const (
	vaultIdentity  = "outrider_vault"
	consulIdentity = "outrider_consul"
)

// Settings say what the sidecar task is like where the job does not say so
// itself. Text may hold Nomad's interpolation, such as
// ${attr.unique.network.ip-address}, which is evaluated on the client.
type Settings struct {
	Driver  string // raw_exec or exec
	Command string // of the sidecar: a name on the client's PATH or a path
	User    string // on the client; "" leaves it to the driver
	UID     string // of User, for transparent_proxy; "" when it is not known

	CPU         int           // MHz
	Memory      int           // MB
	KillTimeout time.Duration // how long a stopped sidecar may drain

	LogLevel       string // "" leaves it to the sidecar
	LogMaxFiles    int    // 0 leaves it to Nomad
	LogMaxFileSize int    // MB; 0 leaves it to Nomad

	ConsulAddress string // CONSUL_HTTP_ADDR; "" leaves it to the sidecar
	ConsulLogin   string // auth method for the login by workload identity; "" for none

	Vault VaultSettings
}

// VaultSettings make the sidecar's leaf come from Vault. The zero value means that
// it does not.
type VaultSettings struct {
	Address   string // VAULT_ADDR
	PKIMount  string
	PKIRole   string
	AuthMount string // of the JWT login; "" leaves it to the sidecar
	AuthRole  string
}

// DefaultSettings returns what a sidecar needs at least.
func DefaultSettings() Settings {
	return Settings{Driver: driverRaw, Command: "outrider", CPU: 50, Memory: 32, KillTimeout: 10 * time.Second}
}

func (s Settings) check() error {
	switch {
	case s.Driver != driverRaw && s.Driver != driverExec:
		return fmt.Errorf("driver %q cannot run the sidecar: give %s or %s", s.Driver, driverRaw, driverExec)
	case s.Command == "":
		return errors.New("the sidecar has no command: give the name or the path of outrider on the clients")
	case s.CPU < 1 || s.Memory < 10:
		return errors.New("the sidecar needs at least 1 MHz of CPU and 10 MB of memory, which are Nomad's minimum")
	case s.KillTimeout <= 0:
		return errors.New("the kill timeout must be more than nothing: the sidecar drains in it")
	case s.LogMaxFiles < 0 || s.LogMaxFileSize < 0:
		return errors.New("the limits of the log files must not be negative")
	case s.LogLevel != "" && !slices.Contains([]string{"trace", "debug", "info", "warn", "error"}, s.LogLevel):
		return fmt.Errorf("log level %q is none of trace, debug, info, warn, error", s.LogLevel)
	case s.User == "" && s.UID != "":
		return errors.New("a uid without a user: Nomad starts tasks by the name of a user")
	case s.Driver == driverExec && isRoot(s.User):
		return errors.New("driver exec does not run tasks as root: give another user, or driver raw_exec")
	}
	return s.Vault.check()
}

func (v VaultSettings) check() error {
	if v == (VaultSettings{}) {
		return nil
	}
	if v.PKIRole == "" {
		return errors.New("the PKI role is missing: Vault signs no leaf without one")
	}
	return nil
}

func isRoot(user string) bool {
	name, _, _ := strings.Cut(user, ":")
	return name == "root" || name == "0"
}

// environment returns what the sidecar is told, by name; kill is the time that the
// task has to end.
func (s Settings) environment(kill time.Duration) [][2]string {
	var out [][2]string
	set := func(name, value string) {
		if value != "" {
			out = append(out, [2]string{name, value})
		}
	}
	set("CONSUL_HTTP_ADDR", s.ConsulAddress)
	set("CONSUL_LOGIN_AUTH_METHOD", s.ConsulLogin)
	set("OUTRIDER_KILL_TIMEOUT", span(kill))
	set("OUTRIDER_VAULT_PKI_MOUNT", s.Vault.PKIMount)
	set("OUTRIDER_VAULT_PKI_ROLE", s.Vault.PKIRole)
	set("VAULT_ADDR", s.Vault.Address)
	set("VAULT_JWT_MOUNT", s.Vault.AuthMount)
	set("VAULT_JWT_ROLE", s.Vault.AuthRole)
	return out
}

// span writes a duration as people do: 1h, not 1h0m0s.
func span(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// arguments returns the sidecar's command line without its name.
func (s Settings) arguments() []string {
	if s.LogLevel == "" {
		return []string{"sidecar"}
	}
	return []string{"sidecar", "-log-level", s.LogLevel}
}
