# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

log {
  level = "info"
}

log {
  level = "debug"
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
