# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name = "web"
  port = 8080
  socket_path = "/run/web.sock"

  connect {
    sidecar_service {}
  }
}
