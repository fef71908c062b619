# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

consul {
  token = "c0ffee-consul-token"
}

vault {
  address = "http://10.0.0.5:8200"
  auth "approle" {
    role_id   = "role"
    secret_id = "c0ffee-secret-id"
  }
  pki {
    mount = "pki/${service}"
    role  = "mesh-${service}-v1"
    ttl   = "1h30m"
  }
}

service {
  name  = "web"
  port  = 8080
  token = "c0ffee-service-token"

  connect {
    sidecar_service {}
  }
}
