# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

vault {
  address = "https://127.0.0.1:8200"
  auth "kubernetes" {
    role = "a"
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
