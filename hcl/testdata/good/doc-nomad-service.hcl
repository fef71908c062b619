# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name = "dashboard"
  port = "9002"
  tags = ["web"]

  check {
    type     = "http"
    path     = "/health?full=1"
    interval = "10s"
    timeout  = "2s"
    header {
      Authorization = ["Basic cHJvYmU6cHJvYmU="]
    }
  }

  check {
    name           = "grpc"
    type           = "grpc"
    port           = "9012"
    grpc_service   = "dashboard.Health"
    initial_status = "passing"
    interval       = "10s"
    timeout        = "2s"
  }

  connect {
    sidecar_service {
      disable_default_tcp_check = true
      tags                      = ["sidecar"]

      proxy {
        local_service_port = 9002

        config {
          protocol = "http"
        }

        upstreams {
          destination_name   = "counting"
          local_bind_port    = 8080
          local_bind_address = "127.0.0.1"
        }

        upstreams {
          destination_name = "billing"
          destination_peer = "east"
          local_bind_port  = 8081
          mesh_gateway {
            mode = "local"
          }
        }

        expose {
          path {
            path            = "/metrics"
            protocol        = "http"
            local_path_port = 9002
            listener_port   = "21500"
          }
        }
      }
    }
  }
}
