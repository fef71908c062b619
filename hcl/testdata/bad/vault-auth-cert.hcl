# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

vault {
  address = "http://127.0.0.1:8200"

  tls {
    cert_file = "/a.pem"
    key_file  = "/a-key.pem"
  }

  auth "cert" {
    role      = "web"
    cert_file = "/b.pem"
  }

  pki {
    role = "web"
  }
}
