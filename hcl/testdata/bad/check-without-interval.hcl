# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name = "web"
  port = 8080
  check {
    http = "http://127.0.0.1:8080/"
  }

  connect {
    sidecar_service {}
  }
}
