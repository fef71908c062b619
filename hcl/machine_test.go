// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// asking returns options for this machine whose metadata is a table, and the
// names that were asked for so far.
func asking(values map[string]string) (Options, *[]string) {
	var asked []string
	return Options{Metadata: func(name string) (string, error) {
		asked = append(asked, name)
		if value, ok := values[name]; ok {
			return value, nil
		}
		return "", fmt.Errorf("aws says nothing of %s; write the value itself", name)
	}}, &asked
}

func TestTheMachineCompletesTheConfigurationAndIsAskedForWhatIsNamed(t *testing.T) {
	tree(t, map[string]string{
		"a.hcl": "consul {\n  datacenter = metadata.region\n}\n",
		"b.hcl": "service {\n  name = \"web\"\n  id = \"web-${metadata.instance_id}\"\n  port = metadata.tags.port\n  address = metadata.private_ip\n" +
			"  tags = [metadata.region, \"in-${metadata.region}\"]\n  meta = {\n    host = hostname\n    env = metadata.tags[\"Two words\"]\n  }\n  " + sidecarBlock + "\n}\n",
	})
	opts, asked := asking(map[string]string{
		"region": "eu-central-1", "instance_id": "i-1", "private_ip": "10.0.0.7", "tags.port": "8080", "tags.Two words": "prod",
	})
	cfg, err := opts.Load("a.hcl", "b.hcl")
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	svc := cfg.Services[0]
	got := []any{cfg.Consul.Datacenter, svc.ID, svc.Port, svc.Address, svc.Tags, svc.Meta, cfg.Warnings}
	want := []any{
		"eu-central-1", "web-i-1", 8080, "10.0.0.7", []string{"eu-central-1", "in-eu-central-1"},
		map[string]string{"host": host, "env": "prod"}, (*Error)(nil),
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Error{})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"region", "instance_id", "private_ip", "tags.port", "tags.Two words"}, *asked, sortedStrings()); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

func sortedStrings() cmp.Option {
	return cmp.Transformer("set", func(list []string) map[string]int {
		set := map[string]int{}
		for _, s := range list {
			set[s]++
		}
		return set
	})
}

func TestNothingIsAskedThatIsNotNamed(t *testing.T) {
	tree(t, map[string]string{"a.hcl": service("web", 8080)})
	opts, asked := asking(nil)
	if _, err := opts.Load("a.hcl"); err != nil || len(*asked) > 0 {
		t.Errorf("%v, asked for %q", err, *asked)
	}
}

func TestMetadataThatIsMissingIsReportedOnceWhereItIsNamed(t *testing.T) {
	tree(t, map[string]string{"a.hcl": "consul {\n  datacenter = metadata.region\n}\nservice {\n  name = metadata.region\n  port = 80\n  " + sidecarBlock + "\n}\n"})
	opts, asked := asking(nil)
	_, err := opts.Load("a.hcl")
	problem, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("Load = %v", err)
	}
	want := []string{`a.hcl:2: "metadata.region" is not known: Aws says nothing of region; write the value itself.`}
	if diff := cmp.Diff(want, problem.Lines()); diff != "" {
		t.Error(diff)
	}
	if len(*asked) != 1 {
		t.Errorf("asked for %q", *asked)
	}
}

func TestAddressTemplatesGiveAddressesOfThisMachine(t *testing.T) {
	opts, asked := asking(map[string]string{})
	const lo = `{{ GetAllInterfaces | include \"name\" \"^lo$\" | include \"type\" \"IPv4\" | limit 1 | attr \"address\" }}`
	src := `service {
  name    = "web"
  port    = 8080
  address = "LO"

  tagged_addresses {
    lan = "LO"
    wan = { address = "LO", port = 1 }
  }

  check {
    tcp      = "LO:8080"
    interval = "1s"
  }

  connect {
    sidecar_service {
      port = 21000
      proxy {
        config {
          bind_address = "LO"
        }
      }
    }
  }
}
`
	tree(t, map[string]string{"a.hcl": strings.ReplaceAll(src, "LO", lo)})
	cfg, err := opts.Load("a.hcl")
	if err != nil {
		t.Fatal(err)
	}
	svc := cfg.Services[0]
	got := []any{svc.Address, svc.TaggedAddresses["lan"].Address, svc.Checks[0].TCP, svc.Connect.SidecarService.Proxy.Config["bind_address"]}
	if diff := cmp.Diff([]any{"127.0.0.1", "127.0.0.1", "127.0.0.1:8080", "127.0.0.1"}, got); diff != "" {
		t.Error(diff)
	}
	if len(*asked) > 0 {
		t.Errorf("the cloud was asked for %q", *asked)
	}
}

func TestATemplateMustGiveExactlyOneAddress(t *testing.T) {
	opts, _ := asking(nil)
	for template, want := range map[string]string{
		`{{ GetInterfaceIP \"none0\" }}`:                        "not one address",
		`{{ GetAllInterfaces | join \"name\" \" \" }}`:          "not one address",
		`{{ GetAllInterfaces | include \"flags\" }}`:            "Include takes 2 arguments",
		strings.Repeat("{{ GetPrivateIP }}", maxTemplate/10):    "more than 1024 characters",
		`{{ GetInterfaceIP \"lo\" }}{{ GetInterfaceIP \"x\" }}`: "not one address",
		`{{ GetAllInterfaces | include \"nothing\" \"x\" }}`:    "write another template",
		`{{ attr \"address\" }}`:                                "write {{ GetAllInterfaces | attr",
		`{{ GetPrivateIP | GetPrivateIP }}`:                     "stands at the beginning",
		`{{ GetInterfaceIP (GetPrivateIP) }}`:                   "no text and no number",
		`{{ GetAllInterfaces | limit \"x\" }}`:                  "whole number",
		`{{ call GetAllInterfaces }}`:                           "not defined",
		`{{ GetAllInterfaces | attr \"address\" | html }}`:      "not defined",
		`{{ if true }}{{ GetInterfaceIP \"lo\" }}{{ end }}`:     "without conditions",
		`{{ with GetAllInterfaces }}{{ . | len }}{{ end }}`:     "not defined",
		`{{ . }}`: "no call of a function",
	} {
		src := "consul {\n  address = \"" + template + "\"\n}\n"
		_, err := opts.load([]*source{newSource("a.hcl", []byte(src))})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", template, err, want)
		}
	}
}

// What an image is built with must be found good there, and what is wrong with it
// must be found there.
func TestABuildMachineFindsMistakesAroundWhatIsOpen(t *testing.T) {
	_, err := Parse("a.hcl", []byte(`service {
  name = "web-${metadata.region}"
  port = metadata.tags.port
  address = "{{ GetPrivateIP }}"
  check {
    http = "{{ GetPrivateIP }}:8080/health"
    interval = metadata.tags.interval
  }
  connect {
    sidecar_service {
      prot = 21000
    }
  }
}
`))
	problem, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("Parse = %v", err)
	}
	var got []string
	for _, d := range problem.JSON().Diagnostics {
		if d.Severity == "error" {
			got = append(got, fmt.Sprintf("%d %s", d.Range.Start.Line, d.Summary))
		}
	}
	if diff := cmp.Diff([]string{"6 Not a URL", `11 Unknown name "prot"`}, got); diff != "" {
		t.Error(diff)
	}
	if n := problem.JSON().Warnings; n != 5 {
		t.Errorf("%d values are said to be open, want 5", n)
	}
}
