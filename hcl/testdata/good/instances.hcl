# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

# Two instances of one service, and listeners that only look alike.
service {
  name = "web"
  id   = "web-1"
  port = 8080
  connect {
    sidecar_service {
      port    = 8080
      address = "10.0.0.1"
      proxy {
        upstreams {
          destination_name = "api"
          local_bind_port  = 9191
        }
      }
    }
  }
}

service {
  name = "web"
  id   = "web-2"
  port = 8080
  connect {
    sidecar_service {
      port    = 8080
      address = "10.0.0.2"
      proxy {
        upstreams {
          destination_name   = "api"
          local_bind_address = "127.0.0.2"
          local_bind_port    = 9191
        }
        upstreams {
          destination_name   = "api"
          datacenter         = "dc2"
          local_bind_address = "::1"
          local_bind_port    = 9191
        }
      }
    }
  }
}
