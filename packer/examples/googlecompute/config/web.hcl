# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

consul {
  address    = "127.0.0.1:8500"
  token_file = "/run/credentials/outrider.service/outrider.consul.token"
}

vault {
  address = "https://vault.service.consul:8200"

  # By the identity token of the instance: no secret anywhere.
  auth "gcp" {
    role = "web"
  }

  pki {
    mount = "connect-intermediate"
    role  = "mesh-${service}"
    ttl   = "24h"
  }
}

# What only the machine knows is asked for when it boots.
service {
  name    = "web"
  id      = "web-${metadata.instance_id}"
  port    = 8080
  address = "{{ GetPrivateIP }}"
  tags    = [metadata.zone]

  check {
    http     = "http://127.0.0.1:8080/health"
    interval = "5s"
  }

  connect {
    sidecar_service {
      port = 21000

      proxy {
        upstreams {
          destination_name = "api"
          local_bind_port  = 9191
        }
      }
    }
  }
}
