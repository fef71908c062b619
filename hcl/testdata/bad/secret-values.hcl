# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name = "web"
  port = 8080
  token = ["c0ffee-two"]
  check {
    http = "http://127.0.0.1:8080/"
    interval = "10s"
    header = { "X-Consul-Token" = [["c0ffee-three"]] }
  }

  connect {
    sidecar_service {}
  }
}
vault {
  auth "token" {
    token = {
      a = "c0ffee-four",
      b = nope
    }
  }
}
