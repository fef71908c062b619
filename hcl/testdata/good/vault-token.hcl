# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

vault {
  address = "https://127.0.0.1:8200"
  auth "token" {
    token = env("OUTRIDER_TEST_NAME")
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
