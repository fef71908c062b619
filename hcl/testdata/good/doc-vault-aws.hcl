# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

vault {
  address = "https://vault.service.consul:8200"

  auth "aws" {
    role         = "mesh-hosts"
    region       = metadata.region
    header_value = "vault.service.consul"
  }

  pki {
    role = "mesh-${service}"
  }
}
