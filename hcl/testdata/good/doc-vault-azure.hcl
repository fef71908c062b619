# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

vault {
  address = "https://vault.service.consul:8200"

  auth "azure" {
    role     = "mesh-hosts"
    resource = "https://management.azure.com/"
  }

  pki {
    role = "mesh-${service}"
  }
}
