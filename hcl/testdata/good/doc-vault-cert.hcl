# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

vault {
  address = "https://vault.service.consul:8200"

  auth "cert" {
    name      = "mesh-hosts"
    cert_file = "/etc/outrider.d/host.pem"
    key_file  = "/etc/outrider.d/host-key.pem"
  }

  pki {
    role = "mesh-${service}"
  }
}
