# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

consul {
  token = "c0ffee-consul"

  login {
    auth_method = "nomad-workloads"
    token_file  = "/secrets/nomad_consul.jwt"
  }

  login "again" {
    auth_metod = "other"
    token_file = 7
  }
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
