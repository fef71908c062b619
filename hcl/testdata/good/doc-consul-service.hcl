# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name = "counting"
  id   = "counting-1"
  port = 9003
  tags = ["v1", "primary"]

  meta = {
    version = "1.2.3"
  }

  tagged_addresses = {
    wan = {
      address = "198.51.100.7"
      port    = 80
    }
  }

  weights = {
    passing = 10
    warning = 1
  }

  checks = [
    {
      id       = "counting-http"
      name     = "HTTP on port 9003"
      http     = "http://127.0.0.1:9003/health"
      method   = "GET"
      header   = { "x-probe" = ["consul"] }
      interval = "10s"
      timeout  = "1s"
    },
    {
      id                                = "counting-ttl"
      ttl                               = "30s"
      deregister_critical_service_after = "90m"
    },
  ]

  connect = {
    sidecar_service = {
      port = 20000
      check = {
        name          = "alias of the service"
        alias_service = "counting-1"
      }
      proxy = {
        config = {
          protocol                 = "http"
          local_connect_timeout_ms = 1000
        }
        mesh_gateway = { mode = "local" }
        upstreams = [
          {
            destination_name = "storage"
            datacenter       = "dc2"
            local_bind_port  = 5000
            config           = { connect_timeout_ms = 3000 }
            mesh_gateway     = { mode = "remote" }
          },
          {
            destination_type       = "prepared_query"
            destination_name       = "nearest-cache"
            local_bind_socket_path = "/run/counting/cache.sock"
            local_bind_socket_mode = "0660"
          },
        ]
        expose = {
          paths = [
            {
              path            = "/metrics"
              local_path_port = 9102
              listener_port   = 20200
            },
          ]
        }
      }
    }
  }
}
