# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name = "web"
  port = 8080
  check {
    http     = "127.0.0.1:8080/health"
    interval = "10 seconds"
  }
  check {
    tcp      = "127.0.0.1"
    interval = "10s"
    status   = "pass"
  }
  check {
    alias_service       = "web"
    docker_container_id = "x"
  }

  connect {
    sidecar_service {}
  }
}
