# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

consul {
  address = "http://127.0.0.1:8500"
  tls {
    cert_file       = "/c.pem"
    tls_skip_verify = true
  }
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
