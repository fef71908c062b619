// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// worldWritable is the permission to write of those who are neither the owner
// nor in the group.
const worldWritable fs.FileMode = 0o002

// onlyTrusted refuses what everybody on this host may change: the file decides
// where tokens are sent, and file("…") what is in it. sshd does the same with
// its own files.
func onlyTrusted(path string, info fs.FileInfo) error {
	if info.Mode()&worldWritable == 0 {
		return nil
	}
	return fmt.Errorf("every user of this host may write to it (mode %04o); run: chmod o-w %s", info.Mode().Perm(), path)
}

// readLimited reads a regular file up to maxFileSize bytes. Pipes and devices
// are refused because reading them may never end, and the open itself does not
// wait for the other end of a pipe. A symbolic link is followed; what counts is
// the file behind it and the folder in which that one lies.
func readLimited(name string) (_ []byte, err error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // the paths are the choice of who runs the command
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	if err := onlyTrusted(name, info); err != nil {
		return nil, err
	}
	if err := trustedPlace(name); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFileSize {
		return nil, fmt.Errorf("larger than the limit of %d bytes; split it or check the path", maxFileSize)
	}
	return text, nil
}

// trustedPlace checks the folder in which a file really lies: who may write there
// may put another file in its place, except where the sticky bit keeps people
// from each other's files.
func trustedPlace(name string) error {
	resolved, err := filepath.EvalSymlinks(name)
	if err != nil {
		return err
	}
	dir := filepath.Dir(resolved)
	info, err := os.Stat(dir) //nolint:gosec // as above
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSticky != 0 || ofNomad(dir) {
		return nil
	}
	if err := onlyTrusted(dir, info); err != nil {
		return fmt.Errorf("its directory %s: %w", dir, err)
	}
	return nil
}

// ofNomad reports whether a folder is that of the Nomad task that this process is.
// Nomad makes it with mode 0777, whatever the job says, and guards it above: who
// gets there may do to the task what they like.
func ofNomad(dir string) bool {
	for _, name := range []string{"NOMAD_TASK_DIR", "NOMAD_SECRETS_DIR"} {
		of := os.Getenv(name)
		if of == "" {
			continue
		}
		root, err := filepath.EvalSymlinks(of)
		if err != nil {
			continue
		}
		absolute, err := filepath.Abs(dir)
		if err == nil && (absolute == root || strings.HasPrefix(absolute, root+"/")) {
			return true
		}
	}
	return false
}

// permissionRemedy is what to do about a file that may not be read, or "".
func permissionRemedy(err error) string {
	if !errors.Is(err, fs.ErrPermission) {
		return ""
	}
	return fmt.Sprintf("; let the user that runs this (uid %d) read it: chgrp and chmod g+r, and g+x on each directory above", os.Geteuid())
}

// A kept is a file that the configuration names and the agent opens later.
type kept struct {
	path   string // in the configuration
	file   string // "" when none is named
	what   string // in words
	secret bool
}

// kept lists the files that hold credentials and certificates.
func (v *validator) kept() []kept {
	files := []kept{{"consul.token_file", v.cfg.Consul.TokenFile, "the file with the Consul token", true}}
	if l := v.cfg.Consul.Login; l != nil {
		files = append(files, kept{"consul.login.token_file", l.TokenFile, "the file with the JWT", true})
	}
	files = append(files, keptTLS("consul.tls", v.cfg.Consul.TLS)...)
	files = append(files, keptTelemetry(v.cfg.Telemetry)...)
	if vault := v.cfg.Vault; vault != nil {
		a := vault.Auth
		files = append(files, keptTLS("vault.tls", vault.TLS)...)
		files = append(files,
			kept{"vault.auth.token_file", a.TokenFile, "the file with the Vault token", true},
			kept{"vault.auth.role_id_file", a.RoleIDFile, "the file with the role id", false},
			kept{"vault.auth.secret_id_file", a.SecretIDFile, "the file with the secret id", true},
			kept{"vault.auth.token_file", a.JWTFile, "the file with the JWT", true},
			kept{"vault.auth.cert_file", a.CertFile, "the certificate", false},
			kept{"vault.auth.key_file", a.KeyFile, "the key", true},
		)
	}
	return files
}

func keptTLS(path string, tls *TLS) []kept {
	if tls == nil {
		return nil
	}
	return []kept{
		{path + ".ca_file", tls.CAFile, "the CA certificate", false},
		{path + ".cert_file", tls.CertFile, "the client certificate", false},
		{path + ".key_file", tls.KeyFile, "the key", true},
	}
}

// files looks at the files that the configuration names. Where the agent runs
// they must be there; elsewhere only what is there is judged.
func (v *validator) files(here bool) {
	for _, k := range v.kept() {
		if k.file == "" || v.broken(k.path) {
			continue
		}
		f, err := os.OpenFile(k.file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			if here {
				v.unreadable(k, err)
			}
			continue
		}
		info, err := f.Stat()
		_ = f.Close() // Nothing was written.
		switch {
		case err != nil:
		case info.IsDir():
			v.err(k.path, "Not a file", fmt.Sprintf("%s is a directory. Name %s.", k.file, k.what))
		case k.secret && info.Mode().Perm()&0o007 != 0:
			v.warn(k.path, "Secret open to every user", fmt.Sprintf("%s has the mode %04o. Run: chmod o= %s", k.file, info.Mode().Perm(), k.file))
		}
	}
}

func (v *validator) unreadable(k kept, err error) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		v.err(k.path, "File is missing", fmt.Sprintf("%s is not there. Write %s, or correct the path.", k.file, k.what))
	case errors.Is(err, fs.ErrPermission):
		v.err(k.path, "File may not be read", fmt.Sprintf("%s: %v. Let the user that runs the agent (uid %d) read it: chgrp and chmod g+r, and g+x on each directory above.", k.file, reason(err), os.Geteuid()))
	default:
		v.err(k.path, "File cannot be read", fmt.Sprintf("%s: %v. Correct the path.", k.file, reason(err)))
	}
}
