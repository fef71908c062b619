# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name = "web"
  port = 8080
  meta = { a = file("absent.txt") }

  connect {
    sidecar_service {}
  }
}
