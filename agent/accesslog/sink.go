// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package accesslog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// file opens a regular file for appending.
func file(path string) opener {
	return func() (sink, error) {
		f, err := openFile(path, os.Geteuid())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return regular{f}, nil
	}
}

// A regular is a regular file: a write to it waits for the disk only.
type regular struct{ *os.File }

func (f regular) write(_ context.Context, p []byte) (int, error) { return f.Write(p) }

// stream makes a sink of what the process was given, which stays open.
func stream(w io.Writer) opener {
	return func() (sink, error) {
		switch w := w.(type) {
		case nil:
			return nil, errors.New("the process has no such stream")
		case *os.File:
			own, err := duplicate(w)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w.Name(), err)
			}
			return shared{own, func(ctx context.Context) error { return writable(ctx, own) }, own.Close}, nil
		}
		nothing := func() error { return nil }
		return shared{w, func(context.Context) error { return nil }, nothing}, nil
	}
}

// A shared is a stream that others write to as well, and somebody may not read.
type shared struct {
	io.Writer
	ready func(ctx context.Context) error // waits until a chunk can be written at once
	close func() error
}

func (s shared) Close() error { return s.close() }

// write writes whole lines, as many as a pipe takes in one piece (PIPE_BUF of
// Linux): lines of others do not get into ours.
func (s shared) write(ctx context.Context, p []byte) (int, error) {
	const piece = 4096
	written := 0
	for len(p) > 0 {
		n := len(p)
		if n > piece {
			n = bytes.LastIndexByte(p[:piece], '\n') + 1
			if n == 0 {
				n = piece
			}
		}
		if err := s.ready(ctx); err != nil {
			return written, err
		}
		m, err := s.Write(p[:n])
		written += m
		if err != nil {
			return written, err
		}
		p = p[m:]
	}
	return written, nil
}

var errUnread = errors.New("nobody reads")
