// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jobs

import (
	"context"
	"fmt"
	"net/url"

	"github.com/hashicorp/nomad/api"
)

// A Registration is a job that Nomad took.
type Registration struct {
	EvalID   string // "" when Nomad starts the job later, by its schedule or when it is dispatched
	Warnings string // of Nomad; "" for none

	job   *api.Job
	index uint64 // of this form of the job
	scope scope
}

// Register hands the job to Nomad. checkIndex, unless nil, is the modify index
// that the job must have there, 0 for a job that must not be there: Nomad refuses
// otherwise. The text is kept with the job, as Nomad's own command line does.
func (c *Client) Register(ctx context.Context, in Injected, checkIndex *uint64) (Registration, error) {
	job := in.Job.job
	request := map[string]any{"Job": in.Job.raw}
	if in.Text != nil {
		request["Submission"] = api.JobSubmission{Source: string(in.Text), Format: "hcl2", Variables: in.Source.Variables}
		if in.Source.JSON {
			request["Submission"] = api.JobSubmission{Source: string(in.Text), Format: "json"}
		}
	}
	if checkIndex != nil {
		request["EnforceIndex"], request["JobModifyIndex"] = true, *checkIndex
	}
	r := Registration{job: job, scope: scope{name(job.Region), name(job.Namespace)}}
	var answer api.JobRegisterResponse
	if err := c.writeIn(ctx, r.scope, "/v1/jobs", request, &answer); err != nil {
		return r, fmt.Errorf("register job %q: %w", name(job.ID), err)
	}
	r.EvalID, r.Warnings, r.index = answer.EvalID, clean(answer.Warnings), answer.JobModifyIndex
	return r, nil
}

// version returns the number of this form of the job.
func (c *Client) version(ctx context.Context, r Registration) (uint64, error) {
	var job struct{ Version, JobModifyIndex uint64 }
	if err := c.queryIn(ctx, r.scope, "/v1/job/"+url.PathEscape(name(r.job.ID)), &job); err != nil {
		return 0, fmt.Errorf("read job %q: %w", name(r.job.ID), err)
	}
	if job.JobModifyIndex > r.index { // lower when the registration changed nothing
		return 0, fmt.Errorf("job %q was registered again by somebody else; this form of it is not followed any more", name(r.job.ID))
	}
	return job.Version, nil
}
