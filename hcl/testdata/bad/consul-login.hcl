# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

consul {
  login {
    token = "c0ffee-jwt"
    role  = "web"
  }
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
