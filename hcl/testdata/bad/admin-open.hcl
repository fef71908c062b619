# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

admin {
  address = "0.0.0.0:19100"
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
