// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package metadata

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

const azureName = "azure"

// azure is the instance metadata service of Azure (Azure documentation, "Azure
// Instance Metadata Service for virtual machines").
type azure struct{ c *Client }

func (azure) name() string { return azureName }

func (a azure) get(ctx context.Context, q question, into any) error {
	q.header = map[string]string{"Metadata": "true"}
	_, body, err := a.c.ask(ctx, q)
	if err != nil {
		return err
	}
	if json.Unmarshal([]byte(body), into) != nil {
		return errForeign
	}
	return nil
}

// azureInstance is what is read of the description of a machine.
type azureInstance struct {
	Compute struct {
		VMID          string `json:"vmId"`
		VMSize        string `json:"vmSize"`
		Name          string `json:"name"`
		Location      string `json:"location"`
		Zone          string `json:"zone"`
		Subscription  string `json:"subscriptionId"`
		ResourceGroup string `json:"resourceGroupName"`
		ScaleSet      string `json:"vmScaleSetName"`
		Tags          []struct {
			Name  string `json:"name"`
			Value string `json:"value"`
		} `json:"tagsList"`
	} `json:"compute"`
	Network struct {
		Interfaces []struct {
			IPv4 struct {
				Addresses []struct {
					Private string `json:"privateIpAddress"`
					Public  string `json:"publicIpAddress"`
				} `json:"ipAddress"`
			} `json:"ipv4"`
		} `json:"interface"`
	} `json:"network"`
}

func (a azure) instance(ctx context.Context) (azureInstance, error) {
	var i azureInstance
	err := a.get(ctx, question{path: "/metadata/instance", query: url.Values{"api-version": {"2021-02-01"}, "format": {"json"}}}, &i)
	if err == nil && i.Compute.VMID == "" {
		err = errForeign
	}
	return i, err
}

func (a azure) present(ctx context.Context) (bool, error) {
	_, err := a.instance(ctx)
	return err == nil, err
}

func (a azure) value(ctx context.Context, name string) (string, error) {
	i, err := a.instance(ctx)
	if err != nil {
		return "", err
	}
	values := map[string]string{
		"instance_id": i.Compute.VMID, "instance_type": i.Compute.VMSize, "region": i.Compute.Location,
		"zone": i.Compute.Zone, "account": i.Compute.Subscription,
	}
	for _, tag := range i.Compute.Tags {
		if key := "tags." + tag.Name; key == name {
			return tag.Value, nil
		}
	}
	for _, n := range i.Network.Interfaces {
		for _, addr := range n.IPv4.Addresses {
			if values["private_ip"] == "" {
				values["private_ip"], values["public_ip"] = addr.Private, addr.Public
			}
		}
	}
	if values[name] == "" {
		return "", &refused{http.StatusNotFound}
	}
	return values[name], nil
}

// ManagedToken returns a token of the machine's managed identity for a
// resource, such as https://management.azure.com/. It asks once and each time
// anew.
func (c *Client) ManagedToken(ctx context.Context, resource string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var answer struct {
		Token string `json:"access_token"`
	}
	err := azure{c}.get(ctx, question{
		path: "/metadata/identity/oauth2/token", query: url.Values{"api-version": {"2018-02-01"}, "resource": {resource}}, timeout: proofTimeout,
	}, &answer)
	if err == nil && !isProof(answer.Token) {
		err = errForeign
	}
	if r, ok := errors.AsType[*refused](err); ok && r.status == http.StatusBadRequest {
		return "", fmt.Errorf("ask Azure for a token of this machine's managed identity: %w: it has none, several, or none for %s: give it one system-assigned identity", err, resource)
	}
	if err != nil {
		return "", fmt.Errorf("ask Azure for a token of this machine's managed identity: %w: is this machine in Azure, and may this user reach 169.254.169.254?", err)
	}
	return answer.Token, nil
}

// A VirtualMachine is what Azure calls a machine. Name is "" in a scale set,
// ScaleSet outside of one.
type VirtualMachine struct{ Subscription, ResourceGroup, Name, ScaleSet string }

// VirtualMachine returns what Azure calls this machine. It asks once and each
// time anew.
func (c *Client) VirtualMachine(ctx context.Context) (VirtualMachine, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, err := azure{c}.instance(ctx)
	m := VirtualMachine{Subscription: i.Compute.Subscription, ResourceGroup: i.Compute.ResourceGroup, Name: i.Compute.Name, ScaleSet: i.Compute.ScaleSet}
	if m.ScaleSet != "" {
		m.Name = ""
	}
	for _, text := range []string{m.Subscription, m.ResourceGroup, m.Name, m.ScaleSet} {
		if err == nil && (len(text) > maxValue || !within(text, "-._()")) {
			err = fmt.Errorf("its name is strange: %w", errForeign)
		}
	}
	if err != nil {
		return VirtualMachine{}, fmt.Errorf("ask Azure for the name of this machine: %w: is this machine in Azure, and may this user reach 169.254.169.254?", err)
	}
	return m, nil
}
