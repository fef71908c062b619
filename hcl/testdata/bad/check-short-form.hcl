# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name = "web"
  port = 8080
  check {
    type     = "htp"
    path     = "/"
    interval = "10s"
  }
  check {
    type     = "http"
    interval = "10s"
  }
  check {
    path     = "/"
    interval = "10s"
  }
  check {
    type     = "tcp"
    tcp      = "127.0.0.1:1"
    interval = "10s"
  }
  check {
    type     = "script"
    interval = "10s"
  }

  connect {
    sidecar_service {}
  }
}
