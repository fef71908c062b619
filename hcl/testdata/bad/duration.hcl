# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

drain {
  propagation = "2"
  timeout     = "-30s"
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
