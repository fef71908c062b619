# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

admin {
  address = "127.0.0.1:9191"
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
        }
      }
    }
  }
}
