# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

log = "info"
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
service = [for n in ["a"] : { name = n }]
