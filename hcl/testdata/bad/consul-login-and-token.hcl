# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

consul {
  token_file = "/etc/token"

  login {
    auth_method = "nomad-workloads"
    token_file  = "/secrets/nomad_consul.jwt"
  }
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
