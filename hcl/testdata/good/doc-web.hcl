# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name = "web"
  port = 8080

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
