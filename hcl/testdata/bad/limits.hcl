limits {
  memory_mb            = 1
  memory               = "512MB"
  inbound_connections  = 0
  outbound_connections = -1
  max_connections      = 5
  outbound_connection  = 5
}

service {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      proxy {
        config {
          outrider_memory_mb = "64MB"
        }
      }
    }
  }
}
