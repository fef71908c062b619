# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

vault {
  address = "https://vault.service.consul:8200"

  auth "approle" {
    role_id_file   = "/etc/outrider.d/role-id"
    secret_id_file = "/etc/outrider.d/secret-id"
  }

  pki {
    mount = "connect-intermediate"
    role  = "mesh-${service}"
    ttl   = "24h"
  }
}
