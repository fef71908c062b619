# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

log {
  levle = "info"
}
consul {
  adress = "127.0.0.1:8500"
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {
      proxy {
        upstreams {
          destination_name = "api"
          local_bind_port  = 9191
          local_bind_prot = 1
        }
      }
    }
  }
}
