# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

consul {
  token      = "c0ffee-consul"
  token_file = "/etc/token"
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
