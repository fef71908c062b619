limits {
  memory_mb            = 300
  inbound_connections  = 5000
  outbound_connections = 500
}

service {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      proxy {
        config {
          max_inbound_connections = 1000
          outrider_memory_mb      = 64
        }
      }
    }
  }
}
