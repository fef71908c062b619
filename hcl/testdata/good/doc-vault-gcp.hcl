# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

vault {
  address = "https://vault.service.consul:8200"

  auth "gcp" {
    role = "mesh-hosts"
  }

  pki {
    role = "mesh-${service}"
  }
}
