# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

consul {
  login {
    auth_method = "nomad-workloads"
    token_file  = "/secrets/nomad_consul.jwt"
  }
}
