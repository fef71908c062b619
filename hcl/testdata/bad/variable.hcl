# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

log {
  level = debug
}
service {
  name = "web"
  port = 8080
  id = "${service}"

  connect {
    sidecar_service {}
  }
}
