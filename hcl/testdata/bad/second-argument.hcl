# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name = "web"
  port = 8080
  id = "a"
  ID = "b"
  meta = { a = 1 }
  meta {
    b = 2
  }

  connect {
    sidecar_service {}
  }
}
