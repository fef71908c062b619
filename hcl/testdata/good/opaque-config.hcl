# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name = "web"
  port = 8080
  meta {
    count   = 3
    enabled = true
  }
  tagged_addresses {
    lan = "10.0.0.1"
  }
  connect {
    sidecar_service {
      proxy {
        mode = "direct"
        config {
          bind_address             = "10.0.0.1"
          bind_port                = 8080
          ratio                    = 0.5
          nothing                  = null
          words                    = ["a", 1, false]
          envoy_local_cluster_json = "{}"
          limits {
            max_connections = 7
          }
          step {
            n = 1
          }
          step {
            n = 2
          }
        }
        access_logs {
          enabled = true
        }
      }
    }
  }
}
