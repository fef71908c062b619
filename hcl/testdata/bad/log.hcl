# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

log {
  level  = "warning"
  format = "xml"
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
