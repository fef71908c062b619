// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
)

// An Author is what Consul tells of who wrote an intention.
type Author struct {
	Meta     map[string]string
	External string // the system that wrote it, of Meta: external-source
	// Description is that of the one source.
	Description      string
	Created, Changed uint64 // indexes
	// Of intentions only that were written through Consul's older API of intentions.
	CreatedAt, ChangedAt time.Time
}

// externalSource is the key of Meta in which tools name themselves (Consul,
// config entries: external-source).
const externalSource = "external-source"

type wireAuthor struct {
	Meta                     map[string]string
	CreateIndex, ModifyIndex uint64
	Sources                  []struct {
		Name, Namespace, Partition, Peer   string
		Description                        string
		LegacyMeta                         map[string]string
		LegacyCreateTime, LegacyUpdateTime *time.Time
	}
}

// Author reads from Consul who wrote an intention, once. The error names the ACL
// permission that is missing, where that is the reason.
func (c *Client) Author(ctx context.Context, rule connect.Intention) (Author, error) {
	r := request{
		doing: fmt.Sprintf("read who wrote the intentions for %q", rule.Destination), path: "/v1/config/service-intentions/" + rule.Destination,
		params: tenancy(rule.Namespace, ""), needs: fmt.Sprintf("intentions:read on service %q", rule.Destination),
	}
	if err := segment("service name", rule.Destination); err != nil {
		return Author{}, fmt.Errorf("%s: %w", r.doing, err)
	}
	var w wireAuthor
	found, _, err := c.getIfAny(ctx, r, watch.Cursor{}, &w)
	switch {
	case err != nil:
		return Author{}, err
	case !found:
		return Author{}, fmt.Errorf("%s: Consul has no such config entry any more", r.doing)
	}
	out := Author{Meta: w.Meta, Created: w.CreateIndex, Changed: w.ModifyIndex}
	for i := range w.Sources {
		s := &w.Sources[i]
		if s.Name != rule.Source.Name || s.Peer != rule.Source.Peer || orDefault(s.Namespace) != rule.Source.Namespace ||
			(s.Peer == "" && strings.ToLower(orDefault(s.Partition)) != rule.Source.Partition) {
			continue
		}
		out.Description = s.Description
		if out.Meta == nil {
			out.Meta = s.LegacyMeta
		}
		if s.LegacyCreateTime != nil {
			out.CreatedAt = *s.LegacyCreateTime
		}
		if s.LegacyUpdateTime != nil {
			out.ChangedAt = *s.LegacyUpdateTime
		}
	}
	out.External = out.Meta[externalSource]
	return out, nil
}
