# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

admin {
  address = "127.0.0.1"
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
