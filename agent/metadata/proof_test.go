// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package metadata

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

const (
	rolePath  = "/latest/meta-data/iam/security-credentials/"
	roleText  = `{"Code":"Success","AccessKeyId":"ASIAEXAMPLE","SecretAccessKey":"secret-key-of-role","Token":"session-token","Expiration":"2030-01-01T00:00:00Z"}`
	azureMSI  = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F"
	gcpToken  = "/computeMetadata/v1/instance/service-accounts/mesh@p.iam.gserviceaccount.com/identity?audience=http%3A%2F%2Fvault%2Fweb&format=full"
	azureFull = "https://management.azure.com/"
)

func TestProofsAreAskedForAnewEachTime(t *testing.T) {
	f := &fake{handler: cloudOf(awsName, map[string]string{rolePath: "mesh-host\n", rolePath + "mesh-host": roleText})}
	c := f.client(t, time.Second)
	for range 2 {
		keys, err := c.RoleKeys(t.Context())
		if err != nil || keys != (RoleKeys{"ASIAEXAMPLE", "secret-key-of-role", "session-token"}) {
			t.Errorf("keys %v, %v", keys, err)
		}
	}
	if n := strings.Count(f.questions(), rolePath+"mesh-host"); n != 2 {
		t.Errorf("the keys, which end, were asked for %d times, want 2", n)
	}

	c = (&fake{handler: cloudOf(gcpName, map[string]string{gcpToken: "ey.google.jwt"})}).client(t, time.Second)
	if token, err := c.ServiceAccountToken(t.Context(), "mesh@p.iam.gserviceaccount.com", "http://vault/web"); err != nil || token != "ey.google.jwt" {
		t.Errorf("token %q, %v", token, err)
	}

	c = (&fake{handler: cloudOf(azureName, map[string]string{azureMSI: `{"access_token":"ey.azure.jwt","expires_in":"3599"}`, azureInstancePath: azureText})}).client(t, time.Second)
	if token, err := c.ManagedToken(t.Context(), azureFull); err != nil || token != "ey.azure.jwt" {
		t.Errorf("token %q, %v", token, err)
	}
	vm, err := c.VirtualMachine(t.Context())
	if want := (VirtualMachine{"8d10da13-8125-4ba9-a717-bf7490507b3d", "mesh", "web-7", ""}); err != nil || vm != want {
		t.Errorf("machine %v, %v", vm, err)
	}
}

func TestAMachineOfAScaleSetHasItsNameAlone(t *testing.T) {
	text := strings.Replace(azureText, `"vmScaleSetName":""`, `"vmScaleSetName":"fleet"`, 1)
	c := (&fake{handler: cloudOf(azureName, map[string]string{azureInstancePath: text})}).client(t, time.Second)
	if vm, err := c.VirtualMachine(t.Context()); err != nil || vm.Name != "" || vm.ScaleSet != "fleet" {
		t.Errorf("machine %v, %v", vm, err)
	}
}

func TestATokenOfIMDSThatHasEndedIsReplaced(t *testing.T) {
	inner := cloudOf(awsName, map[string]string{rolePath: "r", rolePath + "r": roleText})
	ended := false
	c := (&fake{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ended && r.Method == http.MethodGet {
			ended = false
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	})}).client(t, time.Second)
	if _, err := c.RoleKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended = true
	if _, err := c.RoleKeys(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAProofThatIsNoneSaysWhyAndShowsNothing(t *testing.T) {
	tests := map[string]struct {
		handler http.Handler
		ask     func(c *Client) error
		want    string
	}{
		"no role": {cloudOf(awsName, nil), roleKeysOf(t), "attach an instance profile"},
		"role without trust": {
			cloudOf(awsName, map[string]string{rolePath: "r", rolePath + "r": `{"Code":"AssumeRoleUnauthorizedAccess","SecretAccessKey":"hidden-secret"}`}),
			roleKeysOf(t), "does the role trust ec2.amazonaws.com",
		},
		"role with a path": {cloudOf(awsName, map[string]string{rolePath: "../../user-data"}), roleKeysOf(t), "the name of the role is strange"},
		"other machine":    {clouds()[gcpName], roleKeysOf(t), "is this machine in AWS"},
		"no identity":      {http.HandlerFunc(badRequest), func(c *Client) error { _, err := c.ManagedToken(t.Context(), azureFull); return err }, "give it one system-assigned identity"},
		"not a token": {
			cloudOf(azureName, map[string]string{azureMSI: `{"access_token":"hidden-secret\nX-Evil: 1"}`}),
			func(c *Client) error { _, err := c.ManagedToken(t.Context(), azureFull); return err }, "not of this cloud",
		},
		"no service account": {
			cloudOf(gcpName, nil), func(c *Client) error { _, err := c.ServiceAccountToken(t.Context(), "", "a"); return err },
			"of the service account default",
		},
		"without the header": {
			http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hidden-secret")) }),
			func(c *Client) error { _, err := c.ServiceAccountToken(t.Context(), "", "a"); return err }, "not of this cloud",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := test.ask((&fake{handler: test.handler}).client(t, time.Second))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q in it", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "hidden-secret") {
				t.Errorf("the error shows what was answered: %v", err)
			}
		})
	}
}

func roleKeysOf(t *testing.T) func(*Client) error {
	return func(c *Client) error { _, err := c.RoleKeys(t.Context()); return err }
}

func badRequest(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) }
