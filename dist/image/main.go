// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Command image packs static binaries of Outrider into a container image in the
// layout of the Open Container Initiative, one image for each platform and an
// index over them. The same binaries give the same bytes. It must not pull or
// push anything: there is no base image.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

func main() { os.Exit(run(os.Args[1:], os.Stderr)) } //nolint:forbidigo // main returns an exit code in no other way

const usage = `Usage: image -layout DIR [-tar FILE] [-version V] [-revision R] [-ca-certificates FILE] linux/ARCH=BINARY...

All times in the image are those of SOURCE_DATE_EPOCH, else 1970: that makes it
reproducible. Certificates of CAs are not part of it unless a file is given,
since they would be those of the machine that builds.
`

func run(args []string, stderr io.Writer) int {
	o, err := parse(args, os.Getenv("SOURCE_DATE_EPOCH"), stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err == nil {
		err = o.build()
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "image: %v\n", err)
		return 1
	}
	return 0
}

// options say what to pack and where to.
type options struct {
	layout       string // folder that must not exist yet
	archive      string // for docker load, of the first binary; "" for none
	version      string
	revision     string
	certificates []byte // nil for none
	created      time.Time
	binaries     []binary
}

func parse(args []string, epoch string, stderr io.Writer) (options, error) {
	var o options
	var certificates string
	fs := flag.NewFlagSet("image", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { _, _ = io.WriteString(stderr, usage) }
	fs.StringVar(&o.layout, "layout", "", "")
	fs.StringVar(&o.archive, "tar", "", "")
	fs.StringVar(&o.version, "version", "dev", "")
	fs.StringVar(&o.revision, "revision", "", "")
	fs.StringVar(&certificates, "ca-certificates", "", "")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if o.layout == "" || fs.NArg() == 0 {
		return o, errors.New("give -layout DIR and at least one linux/ARCH=BINARY")
	}
	seconds := int64(0)
	if epoch != "" {
		var err error
		if seconds, err = strconv.ParseInt(epoch, 10, 64); err != nil {
			return o, fmt.Errorf("read SOURCE_DATE_EPOCH: %w; it is a number of seconds since 1970", err)
		}
	}
	o.created = time.Unix(seconds, 0).UTC()
	if certificates != "" {
		var err error
		if o.certificates, err = os.ReadFile(certificates); err != nil {
			return o, fmt.Errorf("read the certificates: %w", err)
		}
	}
	for _, arg := range fs.Args() {
		b, err := readBinary(arg)
		if err != nil {
			return o, err
		}
		o.binaries = append(o.binaries, b)
	}
	return o, nil
}

// build writes the layout, and the archive if one is asked for.
func (o options) build() error {
	if _, err := os.Lstat(o.layout); err == nil {
		return fmt.Errorf("write %s: it exists already, and blobs of an older image would stay in it; remove it first", o.layout)
	}
	images := make([]v1.Image, 0, len(o.binaries))
	for _, b := range o.binaries {
		image, err := o.image(b)
		if err != nil {
			return fmt.Errorf("make the image for linux/%s: %w", b.arch, err)
		}
		images = append(images, image)
	}
	index := o.index(images)
	at, err := layout.Write(o.layout, emptyIndex())
	if err != nil {
		return fmt.Errorf("write %s: %w", o.layout, err)
	}
	if err := at.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": o.tag()})); err != nil {
		return fmt.Errorf("write %s: %w", o.layout, err)
	}
	if o.archive == "" {
		return nil
	}
	if err := o.writeArchive(images[0]); err != nil {
		return fmt.Errorf("write %s: %w", o.archive, err)
	}
	return nil
}

// tag is the version as the tag of an image, which may not have a plus sign.
func (o options) tag() string { return strings.ReplaceAll(o.version, "+", "-") }
