# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name = "web"
  port = 8080
  kind = "connect-proxy"
  proxy {
    upstreams = []
  }
  namespace = "team"
  weights {
    passing = 0
  }

  connect {
    sidecar_service {
      id = "x"
      token = "c0ffee-sidecar"
    }
  }
}
