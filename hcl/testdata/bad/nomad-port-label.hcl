# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name = "web"
  port = "http"

  connect {
    sidecar_service {}
  }
}
