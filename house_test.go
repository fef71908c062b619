// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package main_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

const (
	module = "github.com/outrider-mesh/outrider"
	header = "// Copyright (c) The Outrider Authors\n// SPDX-License-Identifier: MPL-2.0\n\n"

	// Quality is decided in the tail: everybody's median file and function
	// are short. Tests may be longer, since their tables grow by cases.
	maxFileLines     = 400
	maxFunctionLines = 60
)

// A file is one Go file of the tree, parsed.
type file struct {
	path      string // slash-separated, relative to the root
	dir       string // of path; "." for the root
	test      bool   // name ends in _test.go
	generated bool
	src       string
	ast       *ast.File
	set       *token.FileSet
}

// A tree is every Go file of this module.
type tree struct{ files []file }

// read parses the module at the root of fsys. It leaves out what the Go
// command leaves out (testdata, folders that start with a dot or an
// underscore) and modules below this one.
func read(t *testing.T, fsys fs.FS) tree {
	t.Helper()
	var out tree
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return enter(fsys, p, d.Name())
		case path.Ext(p) != ".go":
			return nil
		}
		f, err := parse(fsys, p)
		out.files = append(out.files, f)
		return err
	})
	if err != nil {
		t.Fatalf("read the tree: %v", err)
	}
	if len(out.files) == 0 {
		t.Fatal("read the tree: no Go files: is the working directory the root of the module?")
	}
	return out
}

// enter returns fs.SkipDir for a folder that is not part of this module.
func enter(fsys fs.FS, p, name string) error {
	if p == "." {
		return nil
	}
	if name == "testdata" || name[0] == '.' || name[0] == '_' {
		return fs.SkipDir
	}
	if _, err := fs.Stat(fsys, path.Join(p, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

func parse(fsys fs.FS, p string) (file, error) {
	src, err := fs.ReadFile(fsys, p)
	if err != nil {
		return file{}, fmt.Errorf("read %s: %w", p, err)
	}
	set := token.NewFileSet()
	syntax, err := parser.ParseFile(set, p, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return file{}, fmt.Errorf("parse %s: %w", p, err)
	}
	return file{
		path: p, dir: path.Dir(p), test: strings.HasSuffix(p, "_test.go"),
		generated: ast.IsGenerated(syntax), src: string(src), ast: syntax, set: set,
	}, nil
}

func (t tree) in(dir string) []file {
	return slices.DeleteFunc(slices.Clone(t.files), func(f file) bool { return f.dir != dir })
}

func (t tree) dirs() []string {
	var out []string
	for _, f := range t.files {
		out = append(out, f.dir)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (f file) imports() []string {
	var out []string
	for _, spec := range f.ast.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			p = spec.Path.Value
		}
		out = append(out, p)
	}
	return out
}

func (f file) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.path, f.set.Position(n.Pos()).Line)
}

// imported returns the name under which f knows the package p, "" for none.
func (f file) imported(p string) string {
	for _, spec := range f.ast.Imports {
		if spec.Path.Value != strconv.Quote(p) {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path.Base(p)
	}
	return ""
}

func report(t *testing.T, found []string) {
	t.Helper()
	for _, sentence := range found {
		t.Error(sentence)
	}
}

func checkHeaders(t tree) []string {
	var found []string
	for _, f := range t.files {
		if !f.generated && !strings.HasPrefix(f.src, header) {
			found = append(found, f.path+": the file must start with the two lines of the licence header and an empty line")
		}
	}
	return found
}

// checkDocs wants one package comment for each package, in the form that go
// doc shows. A folder that holds nothing but tests has it in a test.
func checkDocs(t tree) []string {
	var found []string
	for _, dir := range t.dirs() {
		files := t.in(dir)
		if slices.ContainsFunc(files, func(f file) bool { return !f.test }) {
			files = slices.DeleteFunc(files, func(f file) bool { return f.test })
		}
		var with []string
		for _, f := range files {
			if f.ast.Doc == nil {
				continue
			}
			with = append(with, f.path)
			want := "Package " + f.ast.Name.Name + " "
			if f.ast.Name.Name != "main" && !strings.HasPrefix(f.ast.Doc.Text(), want) {
				found = append(found, fmt.Sprintf("%s: the package comment must start with %q", f.path, want))
			}
		}
		switch len(with) {
		case 1:
		case 0:
			found = append(found, fmt.Sprintf("%s: the package has no comment: say its job in one sentence and what it must not do", dir))
		default:
			found = append(found, fmt.Sprintf("%s: the package has %d comments (%s): keep one", dir, len(with), strings.Join(with, ", ")))
		}
	}
	return found
}

func checkLengths(t tree) []string {
	var found []string
	for _, f := range t.files {
		if f.test || f.generated {
			continue
		}
		if n := strings.Count(f.src, "\n"); n > maxFileLines {
			found = append(found, fmt.Sprintf("%s: %d lines, more than %d: split it by what it is about", f.path, n, maxFileLines))
		}
		for _, decl := range f.ast.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := f.set.Position(fn.End()).Line - f.set.Position(fn.Pos()).Line + 1
			if n > maxFunctionLines {
				found = append(found, fmt.Sprintf("%s: function %s has %d lines, more than %d", f.at(fn), fn.Name.Name, n, maxFunctionLines))
			}
		}
	}
	return found
}

func checkInit(t tree) []string {
	var found []string
	for _, f := range t.files {
		for _, decl := range f.ast.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if ok && fn.Recv == nil && fn.Name.Name == "init" {
				found = append(found, f.at(fn)+": func init runs before anyone can refuse it: construct the value where it is used")
			}
		}
	}
	return found
}

func checkSleep(t tree) []string {
	var found []string
	for _, f := range t.files {
		name := f.imported("time")
		if f.test || name == "" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok || sel.Sel.Name != "Sleep" {
				return true
			}
			if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == name {
				found = append(found, f.at(n)+": time.Sleep does not end with a context: select on a timer and ctx.Done()")
			}
			return true
		})
	}
	return found
}

// checks returns the habits by name, each with a small tree that breaks it.
func checks() map[string]check {
	long := strings.Repeat("\n", maxFileLines)
	body := strings.Repeat("\n", maxFunctionLines)
	return map[string]check{
		"licence header": {
			run: checkHeaders, good: header + "package a", bad: "package a",
			want: []string{"a/a.go: the file must start with the two lines of the licence header and an empty line"},
		},
		"a package comment exists": {
			run: checkDocs, good: "// Package a is.\npackage a", bad: "package a",
			want: []string{"a: the package has no comment: say its job in one sentence and what it must not do"},
		},
		"a package comment names its package": {
			run: checkDocs, good: "// Package a is.\npackage a", bad: "// It is.\npackage a",
			want: []string{`a/a.go: the package comment must start with "Package a "`},
		},
		"file length": {
			run: checkLengths, good: "package a" + long, bad: "package a\n" + long,
			want: []string{"a/a.go: 401 lines, more than 400: split it by what it is about"},
		},
		"function length": {
			run: checkLengths, good: "package a\nfunc f() {" + body[1:] + "}", bad: "package a\nfunc f() {" + body + "}",
			want: []string{"a/a.go:2: function f has 61 lines, more than 60"},
		},
		"no init": {
			run: checkInit, good: "package a\ntype t int\nfunc (t) init() {}", bad: "package a\nfunc init() {}",
			want: []string{"a/a.go:2: func init runs before anyone can refuse it: construct the value where it is used"},
		},
		"no sleep, under any name": {
			run:  checkSleep,
			good: "package a\nimport \"time\"\nvar later = time.AfterFunc",
			bad:  "package a\nimport clock \"time\"\nfunc f() { clock.Sleep(1) }",
			want: []string{"a/a.go:3: time.Sleep does not end with a context: select on a timer and ctx.Done()"},
		},
	}
}

// A check is one habit with an example of each side.
type check struct {
	run       func(tree) []string
	good, bad string
	want      []string
}

func TestTreeKeepsTheHabits(t *testing.T) {
	t.Parallel()
	whole := read(t, os.DirFS("."))
	for name, c := range checks() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report(t, c.run(whole))
		})
	}
}

func TestBrokenHabitsAreFound(t *testing.T) {
	t.Parallel()
	for name, c := range checks() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := c.run(read(t, fstest.MapFS{"a/a.go": {Data: []byte(c.good)}})); got != nil {
				t.Errorf("findings in a good tree: %q", got)
			}
			got := c.run(read(t, fstest.MapFS{"a/a.go": {Data: []byte(c.bad)}}))
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("findings in a bad tree (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTwoPackageCommentsAreFound(t *testing.T) {
	t.Parallel()
	small := fstest.MapFS{
		"a/a.go":      {Data: []byte("// Package a is.\npackage a")},
		"a/b.go":      {Data: []byte("// Package a is more.\npackage a")},
		"a/a_test.go": {Data: []byte("// Package a_test has a comment of its own.\npackage a_test")},
	}
	want := []string{"a: the package has 2 comments (a/a.go, a/b.go): keep one"}
	if diff := cmp.Diff(want, checkDocs(read(t, small))); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestReadLeavesOutWhatIsNotOfThisModule(t *testing.T) {
	t.Parallel()
	source := &fstest.MapFile{Data: []byte("package a")}
	small := fstest.MapFS{
		"a/a.go":              source,
		"a/testdata/b.go":     source,
		".hidden/b.go":        source,
		"_old/b.go":           source,
		"other/go.mod":        {Data: []byte("module other")},
		"other/b.go":          source,
		"other/below/deep.go": source,
	}
	var got []string
	for _, f := range read(t, small).files {
		got = append(got, f.path)
	}
	if diff := cmp.Diff([]string{"a/a.go"}, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}
