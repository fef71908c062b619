// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/command"
)

// A page is a manual page in the macros of man(7), which all of groff, mandoc and
// the rest render.
type page struct {
	text strings.Builder
	// After a heading nothing may part a paragraph from it.
	heads bool
}

func newPage(name, section, version string, day time.Time) *page {
	p := &page{}
	p.raw(fmt.Sprintf(`.TH %s %s %s "Outrider %s" "Outrider"`, strings.ToUpper(name), section, day.Format(time.DateOnly), version))
	return p
}

// raw writes one line of macros.
func (p *page) raw(line string) {
	p.text.WriteString(line + "\n")
	p.heads = strings.HasPrefix(line, ".SH") || strings.HasPrefix(line, ".SS")
}

func (p *page) paragraph() {
	if !p.heads {
		p.raw(".PP")
	}
}

// say writes text that is shown as it is.
func (p *page) say(text string) { p.raw(roff(text)) }

func (p *page) heading(text string)    { p.raw(`.SH "` + strings.ToUpper(roff(text)) + `"`) }
func (p *page) subheading(text string) { p.raw(`.SS "` + roff(text) + `"`) }

// item writes a term in bold and what it means.
func (p *page) item(term, value, meaning string) {
	p.raw(".TP")
	line := bold(term)
	if value != "" {
		line += " " + italic(value)
	}
	p.raw(line)
	p.raw(meaning)
}

// example writes lines as they are.
func (p *page) example(lines ...string) {
	p.paragraph()
	p.raw(".in +4n\n.EX")
	for _, line := range lines {
		p.say(line)
	}
	p.raw(".EE\n.in")
}

func bold(text string) string   { return `\fB` + roff(text) + `\fR` }
func italic(text string) string { return `\fI` + roff(text) + `\fR` }

// roff escapes what would not be shown as it is: backslashes, hyphens, that
// people copy from a page, and characters at the beginning of a line.
func roff(text string) string {
	text = strings.NewReplacer(
		`\`, `\e`, "-", `\-`, `"`, `\(dq`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`,
		"…", "...", "→", "->", "–", `\(en`, "×", `\(mu`, "≤", "<=", "≥", ">=", "“", `\(lq`, "”", `\(rq`,
	).Replace(text)
	if strings.HasPrefix(text, ".") {
		text = `\&` + text
	}
	return text
}

// manual is outrider(1).
func manual(commands []command.Description, version string, day time.Time) []byte {
	p := newPage("outrider", "1", version, day)
	p.heading("Name")
	p.raw(`outrider \- Consul service\-mesh sidecar for virtual machines and bare metal`)
	p.heading("Synopsis")
	p.raw(bold("outrider") + " " + italic("COMMAND") + " [" + italic("FLAGS") + "]")
	p.heading("Description")
	p.say("Outrider rides beside the services of a host and brokers their traffic in a Consul service mesh: " +
		"mutual TLS with certificates from Vault or from Consul's own CA, calls that intentions allow and no others, " +
		"and upstreams on localhost.")
	p.raw(".PP")
	p.raw("As a service, it runs the configuration in /etc/outrider.d, which " + bold("outrider.d") + "(5) explains.")
	p.heading("Commands")
	for _, c := range commands {
		p.subheading(strings.TrimSpace("outrider " + c.Name + " " + c.Args))
		p.say(sentence(c.Summary))
		for _, f := range c.Flags {
			meaning := f.Usage + "."
			if f.Default != "" {
				meaning += " The default is " + f.Default + "."
			}
			p.item("-"+f.Name, f.Value, roff(meaning))
		}
	}
	p.subheading("outrider -c FILE [-l LEVEL]")
	p.say("Runs the sidecar of a bootstrap, as Envoy is started.")
	p.heading("Files")
	p.item("/etc/outrider.d/*.hcl", "", roff("The configuration: all of them together."))
	p.item("/etc/outrider.d/outrider.hcl.example", "", roff("What may stand in them, to copy from. It is not read."))
	p.item("/etc/outrider.d/outrider.env", "", roff("Environment of the service, for env() in the configuration; optional."))
	p.item("/etc/credstore/outrider.*", "", roff("Secrets that systemd hands to the service: outrider.consul.token, outrider.vault.token, outrider.vault.role-id and outrider.vault.secret-id. They appear in /run/credentials/outrider.service."))
	p.item("/run/outrider/admin.sock", "", roff("Where the agent is asked; for root and the group outrider."))
	p.item("/var/lib/outrider", "", roff("State."))
	p.heading("Exit status")
	p.item("0", "", "It is done.")
	p.item("1", "", "It failed; one sentence on standard error says why, and what to do.")
	p.item("2", "", "It was asked for in a way that it does not understand.")
	p.heading("Signals")
	p.say("The agent reads its configuration again at SIGHUP, has the program on disk take over at SIGUSR2, and drains and ends at SIGTERM and SIGINT. A second of these ends it at once.")
	p.heading("See also")
	p.raw(bold("outrider.d") + "(5), " + bold("systemctl") + "(1), " + bold("systemd.exec") + "(5)")
	return []byte(p.text.String())
}

// sentence is half a sentence of the help as a whole one.
func sentence(text string) string {
	if text == "" {
		return text
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}
