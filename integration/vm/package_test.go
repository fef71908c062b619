// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// The versions of the packages that prepare builds: one and its successor.
const (
	oldVersion = "0.8.1"
	newVersion = "0.9.0"
)

// buildPackages makes the packages of this checkout twice, under two versions,
// as "make package" does.
func buildPackages(dir string) error {
	for name, version := range map[string]string{"old": oldVersion, "new": newVersion} {
		cmd := exec.Command("make", "--no-print-directory", "-f", "dist/package.mk", "package",
			"PACKAGE_DIR="+filepath.Join(dir, name), "PACKAGE_ARCHS="+runtime.GOARCH, "VERSION=v"+version)
		cmd.Dir = filepath.Join("..", "..")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("make the packages of version %s: %w: %s", version, err, out)
		}
	}
	return nil
}

// built returns the one file in the old or the new packages with this ending.
func built(t *testing.T, age, ending string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(os.Getenv(packagesVariable), age, "outrider*"+ending))
	if err != nil || len(files) != 1 {
		t.Fatalf("%d files of the %s packages end in %s, want 1: %v", len(files), age, ending, err)
	}
	return files[0]
}

// program unpacks the outrider of the new package.
func program(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "dpkg-deb", "--extract", built(t, "new", ".deb"), dir).CombinedOutput(); err != nil {
		t.Fatalf("unpack a package: %v: %s", err, out)
	}
	return filepath.Join(dir, "usr/bin/outrider")
}

// changed returns the package after a change of the file tree in it, which is the
// working directory of the shell.
func changed(t *testing.T, deb, change string) string {
	t.Helper()
	dir := t.TempDir()
	tree, other := filepath.Join(dir, "tree"), filepath.Join(dir, "changed.deb")
	script := `dpkg-deb --raw-extract "$1" "$2"; (cd "$2"; ` + change + `); dpkg-deb -Zgzip -z1 --build "$2" "$3"`
	if out, err := exec.CommandContext(t.Context(), "sh", "-ec", script, "sh", deb, tree, other).CombinedOutput(); err != nil {
		t.Fatalf("change a package: %v: %s", err, out)
	}
	return other
}

// In an image that is being built, systemd does not run and nothing may be
// started: everything else is as on a machine.
func TestDebInAnImageInstallsUpgradesKeepsEditsAndPurgesWithoutATrace(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	before := r.list(t)
	files := r.put(t, built(t, "old", ".deb"), changed(t, built(t, "new", ".deb"), `echo "# More than before." >>etc/outrider.d/outrider.hcl.example`))
	old, successor := files[0], files[1]

	r.chroot(t, "dpkg --install "+old)
	for name, want := range map[string]string{
		"/etc/outrider.d":   "750 root:outrider",
		exampleFile:         "640 root:outrider",
		"/var/lib/outrider": "700 outrider:outrider",
		"/usr/bin/outrider": "755 root:root",
	} {
		if got := strings.TrimSpace(r.chroot(t, "stat --format '%a %U:%G' "+name)); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if out := r.chroot(t, "outrider version"); !strings.Contains(out, oldVersion) {
		t.Errorf("installed %s, it says %s", oldVersion, out)
	}
	if out := strings.TrimSpace(r.chroot(t, "systemctl --root=/ is-enabled outrider.service")); out != "enabled" {
		t.Errorf("the unit is %s: it would not start when a machine boots from this image", out)
	}

	const own = "cat " + configFile + " " + exampleFile + " /etc/outrider.d/consul.token; "
	r.chroot(t, "cd /etc/outrider.d; cp -p outrider.hcl.example web.hcl; echo '# mine' | tee -a web.hcl >>outrider.hcl.example; echo secret >consul.token; echo x >/var/lib/outrider/x")
	if out := strings.TrimSpace(r.chroot(t, "stat --format '%a %U:%G' "+configFile)); out != "640 root:outrider" {
		t.Errorf("a copy of the example is %s", out)
	}
	edited := r.chroot(t, own)
	r.chroot(t, "dpkg --force-confdef --force-confold --install "+successor)
	if out := r.chroot(t, "outrider version"); !strings.Contains(out, newVersion) {
		t.Errorf("upgraded to %s, it says %s", newVersion, out)
	}
	if now := r.chroot(t, own); now != edited {
		t.Errorf("the upgrade changed an edited configuration:\n%s", now)
	}
	if out := r.chroot(t, "ls /etc/outrider.d"); !strings.Contains(out, "outrider.hcl.example.dpkg-dist") {
		t.Errorf("the new example is not beside it: %s", out)
	}

	r.chroot(t, "dpkg --remove outrider")
	if now := r.chroot(t, own+"test ! -e /usr/bin/outrider"); now != edited {
		t.Errorf("removal changed the configuration:\n%s", now)
	}
	r.chroot(t, "dpkg --purge outrider")
	compareTrees(t, before, r.list(t))
}

func TestRPMInAScratchRootInstallsUpgradesKeepsEditsAndErases(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	files := r.put(t, built(t, "old", ".rpm"), built(t, "new", ".rpm"))
	old, successor := files[0], files[1]
	// What the package "filesystem" has where packages are rpm.
	r.chroot(t, "rpm --initdb; mkdir -p /usr/share/man/man1 /usr/share/man/man5 /usr/share/zsh/site-functions /usr/share/fish/vendor_completions.d")
	before := r.list(t)

	// The shell that its scripts want is there, but Debian's rpm does not know.
	r.chroot(t, "rpm --install --nodeps "+old)
	if out := strings.TrimSpace(r.chroot(t, "stat --format '%a %U:%G' /etc/outrider.d "+exampleFile+" /var/lib/outrider")); out != "750 root:outrider\n640 root:outrider\n700 outrider:outrider" {
		t.Errorf("modes and owners are:\n%s", out)
	}
	// Nothing but what the scripts change differs from the package.
	if out := r.chroot(t, "rpm --verify --nodeps outrider"); out != "" {
		t.Errorf("the installed files differ from the package:\n%s", out)
	}
	r.chroot(t, "echo '# mine' | tee "+configFile+" >>"+exampleFile)
	edited := r.chroot(t, "cat "+configFile+" "+exampleFile)
	r.chroot(t, "rpm --upgrade --nodeps "+successor)
	if out := r.chroot(t, "outrider version; rpm --query outrider"); !strings.Contains(out, newVersion) || strings.Contains(out, oldVersion) {
		t.Errorf("upgraded to %s, there is %s", newVersion, out)
	}
	if now := r.chroot(t, "cat "+configFile+" "+exampleFile); now != edited {
		t.Errorf("the upgrade changed an edited configuration:\n%s", now)
	}
	r.chroot(t, "rpm --erase outrider")
	// rpm has no purge: what was edited stays, the package's own under another name.
	if out := strings.Join(strings.Fields(r.chroot(t, "cd /etc/outrider.d; ls; rm outrider.hcl.example.rpmsave web.hcl; rmdir /etc/outrider.d")), " "); out != "outrider.hcl.example.rpmsave web.hcl" {
		t.Errorf("/etc/outrider.d holds %s", out)
	}
	compareTrees(t, before, r.list(t))
}

// compareTrees wants the same files; the account stays, so that its number is
// not given to somebody who would own what it left.
func compareTrees(t *testing.T, before, after []string) {
	t.Helper()
	had := map[string]bool{}
	for _, line := range before {
		had[line] = true
	}
	for _, line := range after {
		if !had[line] {
			t.Errorf("left behind, or changed: %s", line)
		}
		delete(had, line)
	}
	for line := range had {
		t.Errorf("gone, or changed: %s", line)
	}
}
