// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/outrider-mesh/outrider/internal/miniconsul"
)

// Each level of splitters doubles the legs of the one above.
func TestSplittersInsideOfSplittersAreBounded(t *testing.T) {
	t.Parallel()
	s, _ := open(t, miniconsul.Options{})
	httpByDefault(s)
	for level := 13; level > 0; level-- {
		for _, side := range []string{"a", "b"} {
			body := fmt.Sprintf(`{"Kind":"service-splitter","Name":"%s%d","Splits":[{"Weight":50,"Service":"a%d"},{"Weight":50,"Service":"b%d"}]}`, side, level, level+1, level+1)
			r := s.call(http.MethodPut, "/v1/config", body)
			refused := r.status != http.StatusOK
			if refused != (level == 1) || (refused && !strings.Contains(r.body, "full")) {
				t.Fatalf("level %d: status %d: %s", level, r.status, r.body)
			}
		}
	}
	if r := s.get(chainPath + "a2"); r.status != http.StatusOK || strings.Count(r.body, `"NextNode"`) != 4096 {
		t.Errorf("status %d, %d legs", r.status, strings.Count(r.body, `"NextNode"`))
	}
}

func TestRoutesOfOneServiceAreBounded(t *testing.T) {
	t.Parallel()
	s, _ := open(t, miniconsul.Options{})
	httpByDefault(s)
	for n, accepted := range map[int]bool{1024: true, 1025: false} {
		r := s.call(http.MethodPut, "/v1/config", `{"Kind":"service-router","Name":"a","Routes":[{}`+strings.Repeat(`,{}`, n-1)+`]}`)
		if (r.status == http.StatusOK) != accepted || (!accepted && !strings.Contains(r.body, "full")) {
			t.Errorf("%d routes: status %d: %s", n, r.status, r.body)
		}
	}
}
