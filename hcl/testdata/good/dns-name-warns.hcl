# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name = "web_front.end"
  port = 8080

  connect {
    sidecar_service {}
  }
}
