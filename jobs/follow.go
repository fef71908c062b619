// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"
)

// followInterval is between two looks at a job.
const followInterval = time.Second

// Follow tells in lines what becomes of a registered job, a line for each change,
// until its deployment has succeeded or, for a job without one, until every
// allocation runs or is complete. The error is why it failed, or ctx's own when ctx
// ended first; the job stays registered either way.
func (c *Client) Follow(ctx context.Context, r Registration, tell func(line string)) error {
	return c.follow(ctx, r, tell, followInterval)
}

func (c *Client) follow(ctx context.Context, r Registration, tell func(line string), interval time.Duration) error {
	if r.EvalID == "" {
		tell("Nomad starts this job later: it is periodic or parameterized")
		return nil
	}
	f := follower{client: c, reg: r, tell: tell, said: map[string]string{}, events: map[string]int64{}}
	version, err := c.version(ctx, r)
	if err != nil {
		return err
	}
	f.version = version
	tick := time.NewTicker(interval)
	defer tick.Stop()
	failures := 0
	for {
		done, err := f.look(ctx)
		var lost *lostError
		switch {
		case errors.As(err, &lost) && ctx.Err() == nil && failures < maxLooks:
			failures++ // an agent that restarts must not end this
			f.say("agent", lost.Error())
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil || done:
			return err
		default:
			failures = 0
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// maxLooks is how many looks in a row may fail.
const maxLooks = 10

// A lostError is a look that Nomad did not answer.
type lostError struct{ error }

func (e *lostError) Unwrap() error { return e.error }

// follower remembers what it has told.
type follower struct {
	client  *Client
	reg     Registration
	version uint64
	tell    func(string)

	said    map[string]string // by what it is about
	events  map[string]int64  // the time of the last event told, by allocation and task
	trouble string            // the last thing that went wrong
}

// say tells a line unless it was the last one about its subject.
func (f *follower) say(about, line string) {
	if f.said[about] != line {
		f.said[about] = line
		f.tell(line)
	}
}

func (f *follower) get(ctx context.Context, path string, out any) error {
	if err := f.client.queryIn(ctx, f.reg.scope, path, out); err != nil {
		return &lostError{err}
	}
	return nil
}

// look asks once for everything and reports whether the job has arrived.
func (f *follower) look(ctx context.Context) (done bool, err error) {
	var eval api.Evaluation
	if err := f.get(ctx, "/v1/evaluation/"+url.PathEscape(f.reg.EvalID), &eval); err != nil {
		return false, err
	}
	f.say("eval", fmt.Sprintf("evaluation %s: %s", short(eval.ID), clean(eval.Status)))
	switch eval.Status {
	case api.EvalStatusFailed, api.EvalStatusCancelled:
		return false, fmt.Errorf("the evaluation %s: %s", clean(eval.Status), clean(eval.StatusDescription))
	case api.EvalStatusComplete:
	default:
		return false, nil
	}
	if err := f.placement(eval.FailedTGAllocs); err != nil {
		return false, err
	}
	allocs, err := f.allocations(ctx)
	if err != nil {
		return false, err
	}
	if eval.DeploymentID != "" {
		return f.deployment(ctx, eval.DeploymentID)
	}
	if len(eval.FailedTGAllocs) > 0 && eval.BlockedEval != "" {
		if err := f.blocked(ctx, eval.BlockedEval); err != nil || f.said["blocked"] == api.EvalStatusBlocked {
			return false, err
		}
	}
	return f.arrived(allocs)
}

// blocked remembers whether allocations still wait for a place.
func (f *follower) blocked(ctx context.Context, id string) error {
	var eval api.Evaluation
	if err := f.get(ctx, "/v1/evaluation/"+url.PathEscape(id), &eval); err != nil {
		return err
	}
	f.said["blocked"] = eval.Status
	return nil
}

// placement tells which groups found no client. It is an error when no client
// can ever take one: free capacity may come, another kind of client will not.
func (f *follower) placement(failed map[string]*api.AllocationMetric) error {
	var never error
	for _, group := range slices.Sorted(maps.Keys(failed)) {
		words, waits := explainPlacement(failed[group])
		line := fmt.Sprintf("group %q found no client: %s", clean(group), words)
		f.trouble = line
		if !waits && never == nil {
			never = errors.New(line)
			continue // it is told as the error
		}
		f.say("place "+group, line)
	}
	return never
}

// allocations tells how the allocations of this form of the job are.
func (f *follower) allocations(ctx context.Context) ([]*api.AllocationListStub, error) {
	var all []*api.AllocationListStub
	if err := f.get(ctx, "/v1/job/"+url.PathEscape(name(f.reg.job.ID))+"/allocations", &all); err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(a *api.AllocationListStub) bool { return a == nil || a.JobVersion != f.version })
	slices.SortStableFunc(all, func(a, b *api.AllocationListStub) int {
		return cmp.Or(cmp.Compare(a.CreateTime, b.CreateTime), cmp.Compare(a.ID, b.ID))
	})
	for _, a := range all {
		f.say(a.ID, allocationLine(a))
		for _, task := range slices.Sorted(maps.Keys(a.TaskStates)) {
			f.taskEvents(a, task, a.TaskStates[task])
		}
	}
	return all, nil
}

func (f *follower) taskEvents(a *api.AllocationListStub, task string, state *api.TaskState) {
	if state == nil {
		return
	}
	key, hinted := a.ID+"/"+task, false
	for _, e := range state.Events {
		if e == nil || e.Time <= f.events[key] {
			continue
		}
		f.events[key] = e.Time
		if !bad(e) {
			continue
		}
		line := fmt.Sprintf("task %q of allocation %s: %s: %s", clean(task), short(a.ID), clean(e.Type), eventWords(e))
		f.tell(line)
		if f.trouble == "" || !follows(e) {
			f.trouble = line
		}
		hinted = hinted || e.Type == api.TaskTerminated
	}
	if hinted {
		f.say(key, fmt.Sprintf("  its own words: nomad alloc logs -stderr -task %s %s", clean(task), short(a.ID)))
	}
}

// arrived reports whether a job without a deployment runs.
func (f *follower) arrived(allocs []*api.AllocationListStub) (bool, error) {
	wanted := 0
	for _, a := range allocs {
		if a.DesiredStatus != api.AllocDesiredStatusRun {
			continue
		}
		if a.ClientStatus == api.AllocClientStatusFailed && a.NextAllocation == "" && a.FollowupEvalID == "" {
			return false, f.failure(fmt.Sprintf("allocation %s failed and is not replaced", short(a.ID)))
		}
		if a.NextAllocation != "" {
			continue // its replacement counts
		}
		wanted++
		if !f.started(a) {
			return false, nil
		}
	}
	if wanted == 0 {
		f.tell("no allocation is wanted on any client")
	}
	return true, nil
}

// started reports whether every task of an allocation has begun, but for those
// that run when it stops.
func (f *follower) started(a *api.AllocationListStub) bool {
	if a.ClientStatus == api.AllocClientStatusComplete {
		return true
	}
	if a.ClientStatus != api.AllocClientStatusRunning {
		return false
	}
	for task, state := range a.TaskStates {
		if state != nil && state.State == "pending" && !f.poststop(a.TaskGroup, task) {
			return false
		}
	}
	return true
}

func (f *follower) poststop(group, task string) bool {
	for _, g := range f.reg.job.TaskGroups {
		for _, t := range g.Tasks {
			if name(g.Name) == group && t.Name == task {
				return t.Lifecycle != nil && t.Lifecycle.Hook == "poststop"
			}
		}
	}
	return false
}

// failure adds the last trouble to what failed.
func (f *follower) failure(what string) error {
	if f.trouble == "" {
		return errors.New(what)
	}
	return fmt.Errorf("%s; the last trouble: %s", what, f.trouble)
}

func (f *follower) deployment(ctx context.Context, id string) (bool, error) {
	var d api.Deployment
	if err := f.get(ctx, "/v1/deployment/"+url.PathEscape(id), &d); err != nil {
		return false, err
	}
	for _, group := range slices.Sorted(maps.Keys(d.TaskGroups)) {
		if s := d.TaskGroups[group]; s != nil {
			f.say("deploy "+group, deploymentLine(d.ID, group, s))
		}
	}
	said := clean(d.StatusDescription)
	switch d.Status {
	case api.DeploymentStatusSuccessful:
		f.say("deploy", fmt.Sprintf("deployment %s: %s", short(d.ID), said))
		return true, nil
	case api.DeploymentStatusFailed, api.DeploymentStatusCancelled:
		return false, f.failure(fmt.Sprintf("deployment %s: %s", short(d.ID), said))
	}
	if waitsForPromotion(d.TaskGroups) {
		f.tell(fmt.Sprintf("the canaries are healthy; the rest follows with: nomad deployment promote %s", short(d.ID)))
		return true, nil
	}
	f.say("deploy", fmt.Sprintf("deployment %s: %s", short(d.ID), said))
	return false, nil
}
