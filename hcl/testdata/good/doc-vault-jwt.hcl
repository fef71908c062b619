# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

vault {
  address   = env("VAULT_ADDR", "https://vault.service.consul:8200")
  namespace = "mesh"

  auth "jwt" {
    mount      = "jwt-nomad"
    role       = "outrider"
    token_file = "/secrets/nomad_vault.jwt"
  }

  pki {
    role = "mesh-${service}"
  }
}
