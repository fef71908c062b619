# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

admin {
  address = "unix://admin.sock"
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
