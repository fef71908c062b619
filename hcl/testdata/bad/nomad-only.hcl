# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name = "web"
  port = 8080
  provider = "consul"
  task = "web"
  address_mode = "driver"
  canary_tags = ["a"]
  check {
    type = "http"
    path = "/"
    interval = "1s"
    check_restart {
      limit = 3
    }
    expose = true
  }

  connect {
    sidecar_service {}
    sidecar_task {
      name = "proxy"
    }
  }
}
