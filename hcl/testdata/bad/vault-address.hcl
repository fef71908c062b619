# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

vault {
  address = "vault:8200"
  auth "token" {
    token_file = "/t"
  }
  pki {
    role = "web"
  }
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
